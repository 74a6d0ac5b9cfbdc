"""A target may die after any message of a run; the next run, from the last STATE it kept, makes the tables right."""

from __future__ import annotations

import sys
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from tap_instances import run as running
from tests.kit.simulated_target import BatchingTarget, SimulatedTarget
from tests.kit.wire import Wire, instance, webhook
from tests.test_replication_method import catalog_with, in_the_stream

if TYPE_CHECKING:
    from tests.kit.support import Run

AnyTarget = TypeVar("AnyTarget", bound=SimulatedTarget)

# What is listed, run by run. Numbers come back without a webhook that they had, an id is listed twice and then once, a
# webhook and a number move, each in the direction that a run reads first and in the other.
AWAY = {
    "a": [instance("returns", webhook("kept"), webhook("deleted while away"))],
    "b": [
        instance("comes back", webhook("old", "2024-01-01T00:00:00Z")),
        instance("returns elsewhere", webhook("goes along too"), webhook("deleted on the way")),
    ],
}
BEFORE = {
    "a": [
        instance("stays", webhook("same"), webhook("edited"), webhook("deleted"), webhook("loses its events")),
        instance("drops", webhook("its own"), webhook("changes hands")),
        instance("moves", webhook("goes along"), webhook("deleted in the move")),
        instance("has two", webhook("twice", name="crm"), webhook("unread")),
    ],
    "b": [
        instance("loses all", webhook("last but one"), webhook("last")),
        instance("other", webhook("untouched"), webhook("twice", name="other")),
        instance("moves to a", webhook("goes to a"), webhook("does not")),
    ],
}
AFTER = {
    "a": [
        instance(
            "stays",
            webhook("same"),
            webhook("edited", "2025-06-01T00:00:00Z", enabled=False),
            webhook("loses its events", WebhookEvents=None),
            webhook("added"),
        ),
        instance("is new", webhook("first")),
        instance("returns", webhook("kept")),
        instance("returns elsewhere", webhook("goes along too")),
        instance("moves to a", webhook("goes to a")),
        instance("has two", webhook("twice", name="crm"), webhook("unread")),
    ],
    "b": [
        instance("loses all"),
        instance("other", webhook("untouched"), webhook("changes hands")),
        instance("moves", webhook("goes along")),
        instance("comes back", webhook("old", "2024-01-01T00:00:00Z")),
    ],
}
CHOICES: list[dict[str, Any]] = [
    {"activate": False, "hard_delete": False, "full_table": ()},
    {"activate": True, "hard_delete": False, "full_table": ()},
    {"activate": True, "hard_delete": True, "full_table": ()},
    {"activate": True, "hard_delete": True, "full_table": ("webhooks", "webhook_events")},
]


class Story:
    """Three runs: of numbers that are away in the next, of what there is then, and of what comes of it."""

    def __init__(self, wire: Wire, *, activate: bool, hard_delete: bool, full_table: tuple[str, ...]) -> None:
        """Choose how the runs go."""
        self.wire, self.activate, self.hard_delete = wire, activate, hard_delete
        self.catalog = catalog_with("FULL_TABLE", in_the_stream, *full_table)

    def sync(self, target: SimulatedTarget, answers: dict[str, Any]) -> Run:
        """Run the tap from the target's STATE."""
        self.wire.answers = answers
        return self.wire.sync(target.state, catalog=self.catalog, emit_activate_version_messages=self.activate)

    def target(self, target: AnyTarget) -> AnyTarget:
        """Let a target load all but the last run."""
        for answers in (AWAY, BEFORE):
            target.load(self.sync(target, answers).messages)
        return target


def without(target: SimulatedTarget, stream: str) -> dict[str, list[str]]:
    """Give the contents of all tables but one."""
    return {name: rows for name, rows in target.contents().items() if name != stream}


def check_the_truth(target: SimulatedTarget) -> None:
    """Hold the tables against the world that the last run has seen."""
    connected = {(name, item["instanceId"]) for name, items in AFTER.items() for item in items}
    assert target.connected() == connected
    assert {key for key, row in target.last_changes().items() if row["change_type"] == "connected"} == connected
    hooks = [hook for items in AFTER.values() for item in items for hook in item["Webhook"]]
    here = {instance_id for _, instance_id in connected}
    for stream, expected in (
        ("webhooks", hooks),
        ("webhook_events", [hook for hook in hooks if hook["WebhookEvents"]]),
    ):
        live = {key for key, row in target.live(stream).items() if row["instance_id"] in here}
        assert live == {hook["webhookId"] for hook in expected}
    assert not target.live("webhooks")["edited"]["enabled"]
    assert target.live("webhooks")["twice"]["name"] == "crm"
    [twice] = [row for row in target.rows("webhook_events") if row["webhook_id"] == "twice"]
    assert twice["instance_id"] == "has two"
    observed = {name: max(row["observed_at"] for row in target.rows("observations") if row["business_id"] == name)
                for name in AFTER}  # fmt: skip
    assert observed == {row["business_id"]: row["observed_at"] for row in target.rows("businesses")}


@pytest.mark.parametrize("often", [True, False], ids=["a STATE a business", "one STATE"])
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_a_run_that_is_cut_after_any_message_is_made_good_by_the_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], choice: dict[str, Any], *, often: bool
) -> None:
    monkeypatch.setattr(running, "STATE_INTERVAL", -1.0 if often else 3600.0)
    monkeypatch.setattr(running, "PAGE", 1 if often else 1000)  # messages in another order
    story = Story(Wire(monkeypatch), **choice)
    before = story.target(SimulatedTarget(hard_delete=story.hard_delete))
    messages = story.sync(before, AFTER).messages
    uncut = deepcopy(before)
    uncut.load(messages)
    check_the_truth(uncut)
    states = set()
    for cut in range(len(messages) + 1):
        target = deepcopy(before)
        target.load(messages[:cut])
        states.add(str(target.state))
        target.load(story.sync(target, AFTER).messages)
        # A read that was lost was a good one all the same: its row stays, and the next tells when it was.
        assert without(target, "observations") == without(uncut, "observations"), (
            f"cut after {cut} of {len(messages)} messages"
        )
        check_the_truth(target)
    # Of all businesses: before, after, and once the versions that were written are forgotten.
    assert len(states) == 2 + often * (1 + bool(choice["full_table"]))
    with capsys.disabled():
        sys.stdout.write(f"\ncrash sweep, {choice}: {len(messages) + 1} points\n")


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_run_is_made_good_whose_loader_kept_the_state_stream_by_stream(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(running, "STATE_INTERVAL", -1.0)
    monkeypatch.setattr(running, "PAGE", 1)
    story = Story(Wire(monkeypatch), activate=False, hard_delete=False, full_table=())
    before = story.target(BatchingTarget(size))
    messages = story.sync(before, AFTER).messages
    uncut = deepcopy(before)
    uncut.load(messages)
    check_the_truth(uncut)
    for cut in range(len(messages)):
        target = deepcopy(before)
        target.load(messages[:cut], whole=False)
        target.load(story.sync(target, AFTER).messages)
        assert without(target, "observations") == without(uncut, "observations"), f"cut after {cut} messages"


@pytest.mark.parametrize("hard_delete", [False, True])
def test_a_run_that_fails_changes_nothing_of_what_was_deleted(
    monkeypatch: pytest.MonkeyPatch, *, hard_delete: bool
) -> None:
    story = Story(Wire(monkeypatch), activate=True, hard_delete=hard_delete, full_table=())
    target = story.target(SimulatedTarget(hard_delete=story.hard_delete))
    gone = target.contents()["instances"]
    assert any("comes back" in row for row in gone) != hard_delete
    for failing in ("a", "b"):
        target.load(story.sync(target, {**BEFORE, failing: None}).messages)
        assert target.contents()["instances"] == gone
    target.load(story.sync(target, AFTER).messages)
    assert {row["instance_id"] for row in target.rows("instances")} == {
        "stays", "is new", "loses all", "other", "moves", "comes back", "returns", "returns elsewhere", "moves to a",
        "has two",
    }  # fmt: skip
