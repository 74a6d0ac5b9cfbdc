"""Instances whose webhooks came as before are not read again: that must make no difference to any message.

Hypothesis says what is listed, how the body is written and how the tap is set, run by run. Each run is made twice,
from the same state and at the same time: as it is, and reading everything.
"""

from __future__ import annotations

import functools
import json
import random
from typing import TYPE_CHECKING, Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tap_instances.memory import RowMemory
from tap_instances.run import Run
from tap_instances.tap import TapInstances
from tests.kit.support import discover
from tests.kit.wire import Wire, instance, read_body, webhook

if TYPE_CHECKING:
    import pytest

    from tap_instances.businesses import Business
    from tap_instances.failures import SnapshotError
    from tap_instances.responses import Snapshot


def seldom(strategy: Any) -> Any:  # noqa: ANN401
    """Return a strategy that gives nothing three times of four."""
    return st.one_of(st.none(), st.none(), st.none(), strategy)


COLUMNS = (None, ("webhooks", "url"), ("webhook_events", "new_jwt"), ("instances", "name"))
MISSING = "missing"

EVENTS: Any = st.sampled_from([*["all"] * 9, None, [], MISSING])
HOOKS = st.builds(
    lambda name, enabled, flag, events, extra: (name, enabled, flag, events, extra),
    st.sampled_from(["w1", "w2", "w3", "w4"]), st.booleans(), st.booleans(), EVENTS, st.sampled_from([None, 1, "São"]),
)  # fmt: skip
LISTS = st.one_of(*[st.lists(HOOKS, min_size=1, max_size=3)] * 4, HOOKS, st.sampled_from([[], None, MISSING, "no"]))
PLACES = st.fixed_dictionaries({name: st.tuples(st.sampled_from("aabb-"), LISTS) for name in ("i1", "i2", "i3")})
CHOICES: dict[str, Any] = {
    "include_secrets": st.booleans(),
    "emit_activate_version_messages": st.booleans(),
    "full_table": st.sampled_from([*[False] * 5, True]),
    "deselected": st.sampled_from(COLUMNS),
    "failing": st.sampled_from([*[""] * 8, "a", "b"]),
    "version": st.sampled_from(["2.0.0", "2.0.1"]),
    "seed": st.integers(0, 2),
    "indent": st.sampled_from([None, 2]),
}
SETTINGS = st.fixed_dictionaries(CHOICES)
CHANGES = st.sampled_from([*CHOICES]).flatmap(lambda name: st.fixed_dictionaries({name: CHOICES[name]}))
# What a run changes of the world and of the settings: often nothing.
STEPS = st.lists(
    st.tuples(seldom(PLACES), st.sampled_from(["i1", "i2", "i3", "", ""]), LISTS, st.none() | CHANGES),
    min_size=3,
    max_size=6,
)


# Each change that makes other rows of the same answer is tried for certain.
WORLD = {name: ("a", [(f"w{name}", True, True, "all", None)]) for name in ("i1", "i2", "i3")}
PLAIN: dict[str, Any] = {
    "include_secrets": False, "emit_activate_version_messages": False, "full_table": False, "deselected": None,
    "failing": "", "version": "2.0.0", "seed": 0, "indent": None,
}  # fmt: skip
EACH_OF: list[dict[str, Any]] = [
    {"include_secrets": True}, {"full_table": True}, {"version": "2.0.1"}, *({"deselected": c} for c in COLUMNS[1:])
]  # fmt: skip


class WritingWire(Wire):
    """A server that may write the same objects with another order of keys, and other white space."""

    seed, indent = 0, None

    def fetch(self, business: Business) -> Snapshot | SnapshotError:
        """Return the snapshot of a body that is written as it was last said."""
        if self.answers.get(business.id) is None:
            return super().fetch(business)
        body = shuffled({"name": "B", "Instances": self.answers[business.id]}, random.Random(self.seed))  # noqa: S311
        return read_body(json.dumps(body, indent=self.indent).encode(), self.tick())


def shuffled(value: Any, chance: random.Random) -> Any:  # noqa: ANN401
    """Return a JSON value whose objects have another order of keys."""
    if isinstance(value, list):
        return [shuffled(item, chance) for item in value]
    if isinstance(value, dict):
        return {key: shuffled(value[key], chance) for key in chance.sample([*value], len(value))}
    return value


def hook(name: str, enabled: bool, flag: bool, events: Any, extra: Any) -> dict[str, Any]:  # noqa: ANN401, FBT001
    """Make a webhook."""
    item = webhook(name, enabled=enabled, url=f"https://h.example.com/?token=s3cr3t-{name}")
    item["WebhookEvents"]["newJwt"] = flag
    if events == MISSING:
        del item["WebhookEvents"]
    elif events != "all":
        item["WebhookEvents"] = events
    return item | ({"new": extra} if extra else {})


def listed(places: dict[str, tuple[str, Any]], business_id: str) -> list[dict[str, Any]]:
    """Return what a business lists."""
    result = []
    for name, (where, hooks) in places.items():
        item = instance(name)
        if hooks == MISSING:
            del item["Webhook"]
        elif isinstance(hooks, list):
            item["Webhook"] = [hook(*each) for each in hooks]
        else:
            item["Webhook"] = hook(*hooks) if isinstance(hooks, tuple) else hooks
        result += [item] if where == business_id else []
    return result


@functools.cache
def a_catalog(deselected: tuple[str, str] | None, *, full_table: bool) -> dict[str, Any]:
    """Return the catalog of a run's settings."""
    catalog = discover()
    for entry in catalog["streams"]:
        if full_table and entry["tap_stream_id"] in {"webhooks", "webhook_events"}:
            entry["replication_method"] = "FULL_TABLE"
        for metadata in entry["metadata"]:
            if deselected == (entry["tap_stream_id"], *metadata["breadcrumb"][1:]):
                metadata["metadata"]["selected"] = False
    return catalog


def test_what_is_not_read_again_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, skipped, keep, known = WritingWire(monkeypatch), [0], RowMemory.keep, Run._remembered

    def counted(self: RowMemory, instance_id: str) -> None:
        skipped[0] += 1
        keep(self, instance_id)

    monkeypatch.setattr(RowMemory, "keep", counted)

    def sync(state: dict[str, Any] | None, chosen: dict[str, Any], *, short: bool) -> list[dict[str, Any]]:
        monkeypatch.setattr(Run, "_remembered", known if short else lambda _: {})
        catalog = a_catalog(chosen["deselected"], full_table=chosen["full_table"])
        names = ("include_secrets", "emit_activate_version_messages")
        return wire.sync(state, catalog=catalog, **{name: chosen[name] for name in names}).messages

    @settings(max_examples=60, deadline=None)
    @given(PLACES, SETTINGS, STEPS)
    def check(places: dict[str, Any], chosen: dict[str, Any], steps: list[tuple[Any, ...]]) -> None:
        state = None
        for other_places, changed, hooks, changes in [(None, "", None, None), *steps]:
            places = dict(other_places or places)
            if changed:
                places[changed] = (places[changed][0], hooks)
            chosen = chosen | (changes or {})
            monkeypatch.setattr(TapInstances, "plugin_version", chosen["version"])
            wire.seed, wire.indent = chosen["seed"], chosen["indent"]
            wire.answers = {name: None if name == chosen["failing"] else listed(places, name) for name in "ab"}
            now = wire.seconds
            messages = sync(state, chosen, short=True)
            wire.seconds = now
            assert messages == sync(state, chosen, short=False)
            state = messages[-1]["value"]

    for change in EACH_OF:
        check = example(WORLD, PLAIN, [(None, "", None, change)])(check)
    check()
    assert skipped[0] > 50
