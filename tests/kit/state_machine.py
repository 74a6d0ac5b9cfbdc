"""A world that changes as it likes, a server and a target that fail as they like, and what must hold all the same.

Hypothesis chooses the steps. What a step changes it changes as CodeChat does: ids are not used again, and an edit moves
`updatedAt`, though to any time, since clocks err. After each whole run the live webhooks of connected instances are
those of the world. There is one exception, which the documentation tells: what a run loaded whose STATE was lost, and
was undone before the next run, stays as it was loaded (*undone*). It is computed here from the messages alone.

A webhook id that two instances list may end as either of the two: which is right cannot be known.
"""

# ruff: noqa: D102 - a rule's name is its description
from __future__ import annotations

from collections import Counter
from copy import deepcopy
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tap_instances import run as running
from tests.kit.simulated_target import SimulatedTarget
from tests.kit.support import discover
from tests.kit.wire import Wire, instance, webhook

if TYPE_CHECKING:
    from tests.kit.support import Run

BUSINESSES = ("a", "b", "c")
REMEMBERING = ("webhooks", "webhook_events")
STARTING = datetime(2025, 3, 1, tzinfo=timezone.utc)

one_of_them = st.integers(0, 2**16)


class StateMachine(RuleBasedStateMachine):
    """The world, the server, the tap between them, and the target."""

    activate = full_table = False
    counts: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        """Begin with businesses that have nothing."""
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.wire = Wire(self.patch)
        self.home: dict[str, str] = {}  # instance -> business
        self.away: set[str] = set()
        self.instances: dict[str, dict[str, Any]] = {}  # as the API gives them
        self.number = 0
        self.clock = STARTING
        self.lost: dict[str, set[str]] = {
            stream: set() for stream in REMEMBERING
        }  # loaded, but in no STATE that was kept
        self.known_at: dict[str, set[str]] = {name: set() for name in BUSINESSES}  # observed_at of kept runs
        self.ever: set[tuple[str, Any]] = set()  # (stream, key) of what was loaded

    @invariant()
    def count(self) -> None:
        """Count the steps."""
        self.counts["steps"] += 1

    def teardown(self) -> None:
        """Give the client back."""
        self.patch.undo()

    @initialize(hard_delete=st.booleans())
    def choose_the_target(self, *, hard_delete: bool) -> None:
        self.target = SimulatedTarget(hard_delete=hard_delete)

    # -------------------------------------------------------------------------------------------------- the world

    def new_id(self, prefix: str) -> str:
        """Make an id that was never used."""
        self.number += 1
        return f"{prefix}{self.number}"

    def now(self) -> str:
        """Read a clock that may jump; no time is read twice."""
        self.number += 1
        return (self.clock + timedelta(microseconds=self.number)).isoformat()

    def some_instance(self, which: int) -> dict[str, Any]:
        """Choose an instance, connected or not."""
        return self.instances[list(self.instances)[which % len(self.instances)]]

    def some_webhook(self, which: int) -> tuple[dict[str, Any], int]:
        """Choose a webhook of any instance: the instance, and its place in it."""
        places = [(item, place) for item in self.instances.values() for place in range(len(item["Webhook"]))]
        return places[which % len(places)]

    def has_webhooks(self) -> bool:
        """Tell whether there is one to choose."""
        return any(item["Webhook"] for item in self.instances.values())

    @rule(business=st.sampled_from(BUSINESSES), webhooks=st.integers(0, 3))
    def create_an_instance(self, business: str, webhooks: int) -> None:
        name = self.new_id("i")
        self.instances[name] = instance(name, *(webhook(self.new_id("w"), self.now()) for _ in range(webhooks)))
        self.home[name] = business

    @precondition(lambda self: self.instances)
    @rule(which=one_of_them)
    def create_a_webhook(self, which: int) -> None:
        self.some_instance(which)["Webhook"].append(webhook(self.new_id("w"), self.now()))

    @precondition(lambda self: self.has_webhooks())
    @rule(which=one_of_them, enabled=st.booleans())
    def edit_a_webhook(self, which: int, *, enabled: bool) -> None:
        item, place = self.some_webhook(which)
        item["Webhook"][place].update(enabled=enabled, updatedAt=self.now())

    @precondition(lambda self: self.has_webhooks())
    @rule(which=one_of_them, flag=st.booleans())
    def toggle_an_event(self, which: int, *, flag: bool) -> None:
        """Change only the events, or give back those that the webhook had lost."""
        item, place = self.some_webhook(which)
        hook = item["Webhook"][place]
        hook["WebhookEvents"] = {**webhook(hook["webhookId"], self.now())["WebhookEvents"], "messagesUpsert": flag}

    @precondition(lambda self: self.has_webhooks())
    @rule(which=one_of_them)
    def take_the_events_of_a_webhook_away(self, which: int) -> None:
        item, place = self.some_webhook(which)
        item["Webhook"][place]["WebhookEvents"] = None

    @precondition(lambda self: self.has_webhooks())
    @rule(which=one_of_them)
    def delete_a_webhook(self, which: int) -> None:
        item, place = self.some_webhook(which)
        del item["Webhook"][place]

    @precondition(lambda self: self.has_webhooks())
    @rule(which=one_of_them, where=one_of_them, stays=st.booleans())
    def move_or_copy_a_webhook_to_another_instance(self, which: int, where: int, *, stays: bool) -> None:
        """Let another instance list it, as well or instead."""
        (item, place), other = self.some_webhook(which), self.some_instance(where)
        hook = deepcopy(item["Webhook"][place])
        if any(there["webhookId"] == hook["webhookId"] for there in other["Webhook"]):
            return
        if not stays:
            del item["Webhook"][place]
        hook.update(updatedAt=self.now(), enabled=not hook["enabled"])
        if hook["WebhookEvents"]:
            hook["WebhookEvents"].update(updatedAt=self.now())
        other["Webhook"].append(hook)

    @precondition(lambda self: self.instances)
    @rule(which=one_of_them)
    def disconnect_or_reconnect_an_instance(self, which: int) -> None:
        self.away ^= {self.some_instance(which)["instanceId"]}

    @precondition(lambda self: self.instances)
    @rule(which=one_of_them, business=st.sampled_from(BUSINESSES))
    def move_an_instance(self, which: int, business: str) -> None:
        self.home[self.some_instance(which)["instanceId"]] = business

    @precondition(lambda self: self.instances)
    @rule(which=one_of_them)
    def delete_an_instance(self, which: int) -> None:
        name = self.some_instance(which)["instanceId"]
        del self.instances[name], self.home[name]
        self.away.discard(name)

    @rule(days=st.integers(-400, 400))
    def let_the_servers_clock_jump(self, days: int) -> None:
        self.clock = STARTING + timedelta(days=days)

    def listed(self) -> dict[str, list[dict[str, Any]]]:
        """Give what the endpoint answers for each business."""
        here = {name: item for name, item in self.instances.items() if name not in self.away}
        return {b: [item for name, item in here.items() if self.home[name] == b] for b in BUSINESSES}

    # --------------------------------------------------------------------------------------------------- the runs

    def sync(self, *, failing: frozenset[str], often: bool) -> Run:
        """Run the tap from the STATE that the target kept last."""
        listed = self.listed()
        self.wire.answers = {name: None if name in failing else listed[name] for name in BUSINESSES}
        self.patch.setattr(running, "STATE_INTERVAL", -1.0 if often else 3600.0)
        self.patch.setattr(running, "PAGE", 2 if often else 1000)
        catalog = discover() if self.full_table else None
        for entry in catalog["streams"] if catalog else ():
            if entry["tap_stream_id"] in REMEMBERING:
                entry["replication_method"] = "FULL_TABLE"
        self.given = self.target.state or {"bookmarks": {}}
        run = self.wire.sync(self.target.state, catalog=catalog, emit_activate_version_messages=self.activate)
        assert run.returncode == bool(failing), run.stderr
        return run

    def keep(self, run: Run, until: int) -> None:
        """Note what the last STATE before a position knows, from what stands before it; the given one knows nothing."""
        states = [
            place
            for place, message in enumerate(run.messages[:until])
            if message["type"] == "STATE" and message["value"] != self.given
        ]
        kept = states[-1] if states else 0
        for place, message in enumerate(run.messages[:until]):
            if message["type"] == "RECORD" and message["stream"] in REMEMBERING and place >= kept:
                self.lost[message["stream"]].add(message["record"]["webhook_id"])
            elif message["type"] == "RECORD" and message["stream"] == "businesses" and place < kept:
                name = message["record"]["business_id"]
                self.known_at[name].add(message["record"]["observed_at"])
                for stream in REMEMBERING:
                    here = (key for item in self.listed()[name] for key in listed_in(stream, item))
                    self.lost[stream].difference_update(here)

    @rule(failing=st.frozensets(st.sampled_from(BUSINESSES), min_size=1), often=st.booleans())
    def run_while_the_server_fails(self, failing: frozenset[str], *, often: bool) -> None:
        before = {stream: dict(self.target.tables.get(stream, {})) for stream in ("businesses", "instances")}
        run = self.sync(failing=failing, often=often)
        assert not run.of("ACTIVATE_VERSION")
        self.target.load(run.messages)
        self.keep(run, len(run.messages))
        for stream, rows in before.items():
            for key, row in rows.items():
                if row["business_id"] in failing:  # as it was, or it moved
                    now = self.target.tables[stream][key]
                    assert now == row or now["business_id"] not in failing
        self.check_that_nothing_is_missing()
        self.counts["failed runs"] += 1

    @rule(where=st.floats(0, 1), ahead=st.lists(st.floats(0, 1), min_size=6, max_size=6), often=st.booleans(),
          failing=st.frozensets(st.sampled_from(BUSINESSES), max_size=1))  # fmt: skip
    def run_while_the_target_dies(
        self, where: float, ahead: list[float], *, often: bool, failing: frozenset[str]
    ) -> None:
        run = self.sync(failing=failing, often=often)
        cut = round(where * len(run.messages))
        kept = max(
            (place for place, message in enumerate(run.messages[:cut]) if message["type"] == "STATE"), default=-1
        )
        streams = ("businesses", "instances", *REMEMBERING, "connection_changes", "observations")
        cuts = {stream: kept + 1 + round(part * (cut - kept - 1)) for stream, part in zip(streams, ahead, strict=True)}
        self.target.load(run.messages[:cut], cuts)
        self.keep(run, cut)
        self.check_that_nothing_is_missing()
        self.counts["crashed runs"] += 1

    @rule(often=st.booleans())
    def run_whole(self, *, often: bool) -> None:
        run = self.sync(failing=frozenset(), often=often)
        self.target.load(run.messages)
        self.check_what_is_connected()
        for stream in REMEMBERING:
            self.check_what_is_live(stream)
        self.keep(run, len(run.messages))
        self.check_the_connection_changes()
        self.check_that_nothing_is_missing()
        again = self.sync(failing=frozenset(), often=often)
        assert again.records("connection_changes") == []
        for stream in REMEMBERING:
            if not self.full_table:
                assert {row["webhook_id"] for row in again.records(stream)} == self.listed_twice(stream)
        self.counts["whole runs"] += 1

    # ----------------------------------------------------------------------------------------------- what must hold

    def check_what_is_connected(self) -> None:
        """*Connected now* is the world, and with ACTIVATE_VERSION there is nothing else."""
        listed = {(name, item["instanceId"]) for name, items in self.listed().items() for item in items}
        assert self.target.connected() == listed
        if self.activate:
            assert {(row["business_id"], row["instance_id"]) for row in self.target.rows("instances")} == listed

    def listings(self, stream: str) -> dict[str, list[tuple[str, dict[str, Any]]]]:
        """Give webhook id -> the connected instances that list it, each with what it says of it."""
        found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for items in self.listed().values():
            for item in items:
                for hook in item["Webhook"]:
                    if hook["webhookId"] in listed_in(stream, item):
                        found.setdefault(hook["webhookId"], []).append((item["instanceId"], hook))
        return found

    def listed_twice(self, stream: str) -> set[str]:
        """Give the webhooks that two instances list."""
        return {key for key, listings in self.listings(stream).items() if len(listings) > 1}

    def check_what_is_live(self, stream: str) -> None:
        """What is live under the connected instances is the world's."""
        live, listings = self.target.live(stream), self.listings(stream)
        connected = {item["instanceId"] for items in self.listed().values() for item in items}
        wrong = {key for key, row in live.items() if row["instance_id"] in connected and key not in listings}
        for key, candidates in listings.items():
            told = [(owner, *content(stream, hook)) for owner, hook in candidates]
            row = live.get(key)
            column = "enabled" if stream == "webhooks" else "messages_upsert"
            if row is None or (row["instance_id"], row[column], row["updated_at"]) not in told:
                wrong.add(key)
        assert wrong <= self.lost[stream], "the tap could know better"
        self.counts["undone"] += len(wrong)

    def check_the_connection_changes(self) -> None:
        """The changes, one after the other, end in what is connected; but for those of a run that was lost."""
        last = self.target.last_changes()
        connected = {place for place, row in last.items() if row["change_type"] == "connected"}
        for name, owner in connected ^ self.target.connected():
            row = last[name, owner]  # without any, nothing was told of what is connected
            assert row["observed_at"] not in self.known_at[name], "the run that told it was kept"
            self.counts["undone"] += 1

    def check_that_nothing_is_missing(self) -> None:
        """Rows that were loaded stay; only ACTIVATE_VERSION with hard_delete removes any."""
        removable = REMEMBERING if self.full_table and self.target.hard_delete else ()
        for stream in {*REMEMBERING, "connection_changes"} - {*removable}:
            self.ever |= {(stream, key) for key in self.target.tables.get(stream, {})}
        assert all(key in self.target.tables[stream] for stream, key in self.ever)
        if not self.target.hard_delete:
            self.ever |= {("instances", key) for key in self.target.tables.get("instances", {})}


class WithActivateVersion(StateMachine):
    """The same, with the rows of vanished instances marked or removed by the target."""

    activate = True
    counts: ClassVar[Counter[str]] = Counter()


class FullTable(WithActivateVersion):
    """The same, with FULL_TABLE for webhooks and webhook_events."""

    full_table = True
    counts: ClassVar[Counter[str]] = Counter()


def content(stream: str, hook: dict[str, Any]) -> tuple[Any, str]:
    """Give what a row says of a webhook: a flag and its time."""
    api = hook if stream == "webhooks" else hook["WebhookEvents"]
    flag = "enabled" if stream == "webhooks" else "messagesUpsert"
    return api[flag], api["updatedAt"].replace("+00:00", "Z")


def listed_in(stream: str, item: dict[str, Any]) -> set[str]:
    """Give the webhooks of an instance that have a row in a stream."""
    return {hook["webhookId"] for hook in item["Webhook"] if stream == "webhooks" or hook["WebhookEvents"]}
