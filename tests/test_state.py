"""What one sync remembers for the next: changes, deletions, reconnects, and state that is odd, old or another's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tap_instances.memory import read_bookmarks
from tests.kit.support import discover, run_cli, select
from tests.kit.wire import Wire, ids, instance, webhook

if TYPE_CHECKING:
    from demo.codechat import CodeChat

REMEMBERING = ("webhooks", "webhook_events")
INCREMENTAL = (*REMEMBERING, "connection_changes")
STREAMS = ("businesses", "instances", *INCREMENTAL, "observations")


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Two businesses: `a` has i1 (w1, w2) and i2 (w3), `b` has i3 (w4). Each instance is a page of its own."""
    monkeypatch.setattr("tap_instances.run.PAGE", 1)
    return Wire(
        monkeypatch,
        a=[instance("i1", webhook("w1"), webhook("w2")), instance("i2", webhook("w3"))],
        b=[instance("i3", webhook("w4"))],
    )


def partitions(state: dict[str, Any], stream: str) -> dict[str, dict[str, Any]]:
    """Give business id -> partition of a stream."""
    return {entry["context"]["business_id"]: entry for entry in state["bookmarks"][stream]["partitions"]}


def memories(state: dict[str, Any], stream: str) -> dict[str, Any]:
    """Give business id -> what a stream remembers of its listed instances."""
    return {business_id: partition["seen"] for business_id, partition in partitions(state, stream).items()}


def seen(state: dict[str, Any], stream: str, business_id: str) -> Any:  # noqa: ANN401
    """Give what is remembered."""
    return partitions(state, stream)[business_id]["seen"]


# ------------------------------------------------------------------------------------------ what is emitted again


def test_a_second_run_over_an_unchanged_world_emits_nothing_twice(wire: Wire) -> None:
    first = wire.sync()
    assert ids(first, "webhooks") == ids(first, "webhook_events") == ["w1", "w2", "w3", "w4"]
    second = wire.sync(first.state)
    assert [second.records(stream) for stream in INCREMENTAL] == [[], [], []]
    assert ids(second, "instances") == ["i1", "i2", "i3"]
    for stream in REMEMBERING:
        assert memories(second.state, stream) == memories(first.state, stream)


def test_an_unchanged_instance_is_not_looked_into(wire: Wire) -> None:
    wire.answers["b"] = [instance("i3", webhook("w4", newThing=1), new=1)]
    first = wire.sync()
    second = wire.sync(first.state)
    told = [[line for line in run.lines("INFO") if "additional_properties" in line] for run in (first, second)]
    assert ["webhooks.newThing" in str(lines) for lines in told] == [True, False]
    assert ["instances.new" in str(lines) for lines in told] == [True, True]


def test_a_webhook_that_moved_to_a_business_with_an_item_without_key_is_not_deleted(wire: Wire) -> None:
    first = wire.sync()
    wire.answers = {"b": [instance("i3", webhook("w1")), {"name": "no key"}], "a": [instance("i1", webhook("w2"))]}
    second = wire.sync(first.state)
    assert second.returncode == 1
    for stream in REMEMBERING:
        moved = [row for row in second.records(stream) if row["webhook_id"] == "w1"]
        assert [(row["instance_id"], row["deleted_at"]) for row in moved] == [("i3", None)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(wire.answers, "b", None)
        assert [wire.sync(second.state).records(stream) for stream in REMEMBERING] == [[], []]
    wire.answers["b"] = [instance("i3")]
    gone = wire.sync(second.state)
    assert ids(gone, "webhooks") == ids(gone, "webhook_events") == ["-w4", "-w1"]
    wire.answers["a"] = [instance("i1", webhook("w1"), webhook("w2"))]
    back = wire.sync(second.state)  # the table has it under i3
    assert ids(back, "webhooks") == ids(back, "webhook_events") == ["-w4", "-w1", "w1"]


def test_a_missing_list_is_warned_of_beside_an_item_without_key_too(wire: Wire) -> None:
    first = wire.sync()
    listed_without_webhooks = instance("i3")
    del listed_without_webhooks["Webhook"]
    wire.answers["b"] = [listed_without_webhooks, {"name": "no key"}]
    second = wire.sync(first.state)
    assert second.returncode == 1
    assert ["instances.Webhook" in line for line in second.lines("WARNING")] == [True]
    assert [second.records(stream) for stream in REMEMBERING] == [[], []]


def test_a_webhook_that_moved_to_a_business_never_read_whole_is_told_when_it_goes(wire: Wire) -> None:
    wire.answers["b"] = None
    first = wire.sync()
    wire.answers = {"b": [instance("i4", webhook("w1", WebhookEvents=5)), {}], "a": [instance("i1", webhook("w2"))]}
    second = wire.sync(first.state)
    assert (ids(second, "webhooks"), ids(second, "webhook_events")) == (["w1"], [])
    wire.answers["b"] = [instance("i4")]
    gone = wire.sync(second.state)
    assert ids(gone, "webhooks") == ids(gone, "webhook_events") == ["-w1"]
    wire.answers = {"b": [instance("i4")], "a": [instance("i1", webhook("w1"), webhook("w2"))]}
    back = wire.sync(second.state)
    assert (ids(back, "webhooks"), ids(back, "webhook_events")) == (["-w1", "w1"], [])


def test_events_that_are_missing_where_their_webhook_moved_to_are_not_deleted(wire: Wire) -> None:
    first = wire.sync()
    moved = webhook("w1")
    del moved["WebhookEvents"]
    wire.answers = {"b": [instance("i3", moved)], "a": [instance("i1", webhook("w2")), instance("i2", webhook("w3"))]}
    run = first
    for _ in range(3):
        run = wire.sync(run.state)
        assert "w1" not in ids(run, "webhook_events")
    wire.answers["b"] = [instance("i3")]
    last = wire.sync(run.state)
    assert [row["webhook_id"] for row in last.records("webhooks") if row["deleted_at"]] == ["w1"]


def test_within_a_run_the_given_state_comes_before_the_first_own(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some loaders take the first one for what holds of all streams whose rows they have not loaded."""
    first = wire.sync()
    monkeypatch.setattr("tap_instances.run.STATE_INTERVAL", -1.0)
    wire.answers["b"] = []
    for given, told in (
        (first.state, first.state),
        ({"singer_state": first.state}, first.state),
        (None, {"bookmarks": {}}),
        ({"bookmarks": 1}, {"bookmarks": {}}),
    ):
        states = [message["value"] for message in wire.sync(given).of("STATE")]
        assert states[0] == told
        assert told not in states[1:]
        assert len(states) == 4  # given, a, b, at the end


@pytest.mark.parametrize("reordered", ["instances", "webhooks"])
def test_another_order_of_the_list_is_no_change(wire: Wire, reordered: str) -> None:
    first = wire.sync()
    listed = wire.answers["a"] or []
    (listed if reordered == "instances" else listed[0]["Webhook"]).reverse()
    assert [wire.sync(first.state).records(stream) for stream in INCREMENTAL] == [[], [], []]


def test_a_change_is_emitted_whatever_its_updated_at_says(wire: Wire) -> None:
    first = wire.sync()
    wire.answers["b"] = [instance("i3", webhook("w4", "1999-01-01T00:00:00Z", enabled=False))]
    second = wire.sync(first.state)
    assert [(row["webhook_id"], row["enabled"]) for row in second.records("webhooks")] == [("w4", False)]
    assert ids(wire.sync(second.state), "webhooks") == []


def test_a_change_without_any_updated_at_is_emitted(wire: Wire) -> None:
    wire.answers["b"] = [instance("i3", webhook("w4", updatedAt=None))]
    first = wire.sync()
    wire.answers["b"] = [instance("i3", webhook("w4", updatedAt=None, url="https://elsewhere.example.com"))]
    assert [row["url"] for row in wire.sync(first.state).records("webhooks")] == ["https://elsewhere.example.com"]


def test_a_webhook_and_its_events_change_independently(wire: Wire) -> None:
    first = wire.sync()
    hook = webhook("w4")
    hook["WebhookEvents"]["messagesUpsert"] = False
    wire.answers["b"] = [instance("i3", hook)]
    second = wire.sync(first.state)
    assert (ids(second, "webhooks"), ids(second, "webhook_events")) == ([], ["w4"])


def test_a_reconnected_instance_brings_its_old_webhooks(wire: Wire) -> None:
    old = "2024-11-01T00:00:00.000Z"
    wire.answers["b"] = []
    first = wire.sync()
    wire.answers["b"] = [instance("i3", webhook("w4", old))]
    second = wire.sync(first.state)
    assert ids(second, "webhooks") == ids(second, "webhook_events") == ["w4"]
    assert second.records("webhooks")[0]["updated_at"] == "2024-11-01T00:00:00Z"
    wire.answers["b"] = []
    third = wire.sync(second.state)
    assert [third.records(stream) for stream in REMEMBERING] == [[], []]
    wire.answers["b"] = [instance("i3", webhook("w4", old, enabled=False), webhook("w9", old))]
    fourth = wire.sync(third.state)
    assert (ids(fourth, "webhooks"), ids(fourth, "webhook_events")) == (["w4", "w9"], ["w9"])  # what the table lacks


# ------------------------------------------------------------------------------------------------------ deletions


def test_a_webhook_deleted_from_a_listed_instance_gets_a_deleted_row(wire: Wire) -> None:
    first = wire.sync()
    wire.answers["a"] = [instance("i1", webhook("w1")), instance("i2", webhook("w3"))]
    second = wire.sync(first.state)
    [observed_at] = {row["observed_at"] for row in second.records("instances") if row["business_id"] == "a"}
    for stream in REMEMBERING:
        [row] = second.records(stream)
        assert {name: value for name, value in row.items() if value is not None} == {
            "instance_id": "i1",
            "webhook_id": "w2",
            "deleted_at": observed_at,
        }
        assert set(row) == set(first.records(stream)[0])
    assert [wire.sync(second.state).records(stream) for stream in REMEMBERING] == [[], []]


def test_events_that_are_gone_from_a_listed_webhook_get_a_deleted_row_and_can_come_back(wire: Wire) -> None:
    state = wire.sync().state
    wire.answers["b"] = [instance("i3", webhook("w4", WebhookEvents=None))]
    gone = wire.sync(state)
    assert (ids(gone, "webhooks"), ids(gone, "webhook_events")) == ([], ["-w4"])
    wire.answers["b"] = [instance("i3", webhook("w4"))]
    assert ids(wire.sync(gone.state), "webhook_events") == ["w4"]


def test_a_vanished_instance_is_away_and_nothing_of_it_is_deleted(wire: Wire) -> None:
    first = wire.sync()
    wire.answers["a"] = [instance("i2", webhook("w3"))]
    second = wire.sync(first.state)
    for stream in REMEMBERING:
        assert second.records(stream) == []
        assert set(seen(second.state, stream, "a")) == {"i2"}
        assert set(partitions(second.state, stream)["a"]["away"]) == {"i1"}
    assert seen(second.state, "connection_changes", "a") == ["i2"]


def test_a_webhook_that_moves_to_another_instance_is_not_deleted(wire: Wire) -> None:
    first = wire.sync()
    wire.answers["a"] = [instance("i1", webhook("w1")), instance("i2", webhook("w3"), webhook("w2"))]
    second = wire.sync(first.state)
    assert [(row["webhook_id"], row["instance_id"]) for row in second.records("webhooks")] == [("w2", "i2")]
    assert wire.sync(second.state).records("webhooks") == []


@pytest.mark.parametrize(("source", "other"), [("a", "b"), ("b", "a")])
def test_an_instance_that_moves_between_businesses_takes_its_webhooks_with_it(
    wire: Wire, source: str, other: str
) -> None:
    wire.answers[source], wire.answers[other] = [instance("i1", webhook("w1"))], []
    first = wire.sync()
    wire.answers[source], wire.answers[other] = [], [instance("i1", webhook("w1"))]
    second = wire.sync(first.state)
    assert ids(second, "webhooks") == []  # the table has it
    assert [row["business_id"] for row in second.records("instances")] == [other]
    changes = {(row["business_id"], row["change_type"]) for row in second.records("connection_changes")}
    assert changes == {(source, "disconnected"), (other, "connected")}
    assert not seen(second.state, "webhooks", source)
    assert wire.sync(second.state).records("webhooks") == []


# --------------------------------------------------------------------------------- what cannot be read, or is twice


@pytest.mark.parametrize("value", ["none", 5, True])
def test_nothing_is_deleted_where_webhooks_cannot_be_read(wire: Wire, value: object) -> None:
    first = wire.sync()
    wire.answers["b"] = [instance("i3", Webhook=value)]
    second = wire.sync(first.state)
    assert [second.records(stream) for stream in REMEMBERING] == [[], []]
    wire.answers["b"] = [instance("i3", webhook("w5"))]
    assert ids(wire.sync(second.state), "webhooks") == ["w5", "-w4"]


def test_nothing_is_deleted_where_events_cannot_be_read(wire: Wire) -> None:
    first = wire.sync()
    wire.answers["a"] = [instance("i1", webhook("w1", WebhookEvents=[]), webhook("w2"))]
    second = wire.sync(first.state)
    assert (ids(second, "webhooks"), ids(second, "webhook_events")) == (["w1"], [])
    wire.answers["a"] = [instance("i1", webhook("w1", WebhookEvents=[]))]
    third = wire.sync(second.state)  # the other one is gone, that can be read
    assert (ids(third, "webhooks"), ids(third, "webhook_events")) == (["-w2"], ["-w2"])
    wire.answers["a"] = [instance("i1")]
    fourth = wire.sync(third.state)
    assert (ids(fourth, "webhooks"), ids(fourth, "webhook_events")) == (["-w1"], ["-w1"])


def test_nothing_is_deleted_where_events_of_several_webhooks_cannot_be_read(wire: Wire) -> None:
    first = wire.sync()
    wire.answers["a"] = [instance("i1", webhook("w1", WebhookEvents=[]), webhook("w2", WebhookEvents=5))]
    assert ids(wire.sync(first.state), "webhook_events") == []


def test_nothing_is_concluded_from_absence_where_a_record_has_no_key(wire: Wire) -> None:
    first = wire.sync()
    wire.answers["a"] = [instance("i1", webhook("w1", enabled=False)), {"name": "who?"}]
    second = wire.sync(first.state)
    assert second.returncode == 1
    assert len(second.lines("ERROR")) == 1
    assert "business a: not emitted: Instances[1]: its instanceId is missing" in second.stderr
    assert (ids(second, "webhooks"), ids(second, "connection_changes")) == (["w1"], [])
    for stream in INCREMENTAL:
        assert partitions(second.state, stream)["a"] == partitions(first.state, stream)["a"]
    wire.answers["a"] = [instance("i1", webhook("w1", enabled=False))]
    third = wire.sync(second.state)
    assert (ids(third, "webhooks"), ids(third, "connection_changes")) == (["w1", "-w2"], ["i2"])


def test_an_instance_listed_twice_is_emitted_whole_and_still_tells_what_is_gone(wire: Wire) -> None:
    wire.answers["b"] = [instance("i3", webhook("w4"), webhook("w5")), instance("i3", webhook("w4", enabled=False))]
    first = wire.sync()
    assert ids(first, "connection_changes") == ["i1", "i2", "i3"]
    second = wire.sync(first.state)
    rows = [(row["webhook_id"], row["enabled"]) for row in second.records("webhooks")]
    assert rows == [("w4", True), ("w5", True), ("w4", False)]  # the last one stays, as in the run before
    assert second.records("connection_changes") == []
    wire.answers["b"] = [instance("i3", webhook("w4")), instance("i3", webhook("w4"))]
    third = wire.sync(second.state)
    assert ids(third, "webhooks") == ["w4", "w4", "-w5"]
    wire.answers["b"] = [instance("i3", webhook("w4"))]
    fourth = wire.sync(third.state)
    assert ids(fourth, "webhooks") == ["w4"]
    assert wire.sync(fourth.state).records("webhooks") == []


def test_a_webhook_listed_twice_does_not_flip_from_run_to_run(wire: Wire) -> None:
    wire.answers["b"] = [instance("i3", webhook("w4"), webhook("w4", enabled=False))]
    state = wire.sync().state
    for _ in range(2):
        again = wire.sync(state)
        assert [row["enabled"] for row in again.records("webhooks")] == [True, False]
        assert again.lines("WARNING") == []  # its state is understood
        state = again.state
    wire.answers["b"] = [instance("i3", webhook("w4"))]
    once = wire.sync(state)
    assert [row["enabled"] for row in once.records("webhooks")] == [True]
    assert wire.sync(once.state).records("webhooks") == []


def test_an_instance_listed_twice_of_which_one_cannot_be_read_remembers_the_other(wire: Wire) -> None:
    wire.answers["b"] = [instance("i3", webhook("w4")), instance("i3", Webhook="none")]
    first = wire.sync()
    assert (first.returncode, ids(first, "webhooks")) == (0, ["w1", "w2", "w3", "w4"])
    wire.answers["b"] = [instance("i3")]
    second = wire.sync(first.state)
    assert second.lines("WARNING") == []  # its state is understood
    assert ids(second, "webhooks") == ["-w4"]


def test_a_webhook_listed_under_two_instances_is_emitted_at_each_run_and_deleted_when_both_have_lost_it(
    wire: Wire,
) -> None:
    wire.answers["b"] = [instance("i3", webhook("w4", name="crm")), instance("i4", webhook("w4", name="other"))]
    state = wire.sync().state
    again = wire.sync(state)
    assert [row["name"] for row in again.records("webhooks")] == ["crm", "other"]
    assert ids(again, "webhook_events") == ["w4", "w4"]
    wire.answers["b"] = [instance("i3", webhook("w4", name="crm")), instance("i4")]
    one = wire.sync(again.state)
    assert [(row["name"], row["deleted_at"]) for row in one.records("webhooks")] == [("crm", None)]
    assert ids(wire.sync(one.state), "webhooks") == []
    wire.answers["b"] = [instance("i3"), instance("i4")]
    assert ids(wire.sync(one.state), "webhooks") == ["-w4"]


# ------------------------------------------------------------------------------------------------------ selection


@pytest.mark.parametrize("away", INCREMENTAL)
def test_deselecting_a_stream_for_a_while_loses_nothing(wire: Wire, away: str) -> None:
    wire.answers["b"] = [instance("i3", webhook("w4"), webhook("w5"), webhook("w6")), instance("i5")]
    state = wire.sync().state
    kept = partitions(state, away)
    hook = webhook("w5", enabled=False)
    hook["WebhookEvents"]["messagesUpsert"] = False
    wire.answers["b"] = [instance("i3", webhook("w4"), hook, webhook("w7"))]
    without = wire.sync(state, catalog=select(discover(), *(name for name in STREAMS if name != away)))
    assert without.records(away) == []
    assert partitions(without.state, away) == kept
    back = wire.sync(without.state)
    assert ids(back, away) == (["i5"] if away == "connection_changes" else ["w5", "w7", "-w6"])
    assert [back.records(other) for other in INCREMENTAL if other != away] == [[], []]


def test_a_parent_that_is_deselected_does_not_take_its_children_with_it(wire: Wire) -> None:
    run = wire.sync(catalog=select(discover(), "webhook_events"))
    assert {message["stream"] for message in run.of("RECORD")} == {"webhook_events"}
    assert ids(run, "webhook_events") == ["w1", "w2", "w3", "w4"]
    assert wire.sync(run.state, catalog=select(discover(), "webhook_events")).of("RECORD") == []


def test_another_choice_of_columns_emits_every_row_again_once(wire: Wire) -> None:
    without = discover()
    for entry in without["streams"]:
        if entry["tap_stream_id"] == "webhooks":
            for metadata in entry["metadata"]:
                if metadata["breadcrumb"] == ["properties", "url"]:
                    metadata["metadata"]["selected"] = False
    state: dict[str, Any] = wire.sync().state
    for catalog in (without, None):  # deselected, selected again
        changed = wire.sync(state, catalog=catalog)
        assert ids(changed, "webhooks") == ["w1", "w2", "w3", "w4"]
        assert ("url" in changed.records("webhooks")[0]) == (catalog is None)
        assert ids(changed, "webhook_events") == []
        again = wire.sync(changed.state, catalog=catalog)
        assert again.records("webhooks") == []
        state = again.state


def test_include_secrets_emits_again_what_it_reveals(wire: Wire) -> None:
    url = "https://crm.example.com/?token=not-a-real-token"
    wire.answers["b"] = [instance("i3", webhook("w4", url=url), webhook("w5"))]
    masked = wire.sync()
    revealed = wire.sync(masked.state, include_secrets=True)
    assert [row["url"] for row in revealed.records("webhooks")] == [url]
    hidden = wire.sync(revealed.state)
    assert [row["url"] for row in hidden.records("webhooks")] == ["https://crm.example.com/?token=***"]


# ------------------------------------------------------------------------------------------------ many businesses


@pytest.mark.parametrize(("bad", "good"), [("a", "b"), ("b", "a")])
def test_the_state_of_a_failed_business_does_not_move_and_the_others_does(wire: Wire, bad: str, good: str) -> None:
    first = wire.sync()
    wire.answers[bad], wire.answers[good] = None, [instance("i9", webhook("w9"))]
    second = wire.sync(first.state)
    assert second.returncode == 1
    for stream in INCREMENTAL:
        assert partitions(second.state, stream)[bad] == partitions(first.state, stream)[bad]
        assert "i9" in seen(second.state, stream, good)
    assert ids(second, "webhooks") == ids(second, "webhook_events") == ["w9"]


def test_a_failed_first_sync_leaves_no_partition(wire: Wire) -> None:
    wire.answers["a"] = None
    state = wire.sync().state
    assert all(set(partitions(state, stream)) == {"b"} for stream in INCREMENTAL)


def test_a_partition_tells_people_the_latest_updated_at_that_was_emitted(wire: Wire) -> None:
    times = ["2025-05-02T00:00:00Z", None, "2025-05-09T10:00:00.5Z", "2025-05-03T00:00:00Z"]
    hooks = [webhook(f"w{number}", updatedAt=time) for number, time in enumerate(times)]
    wire.answers["a"] = [instance("i1", *hooks[:2]), instance("i2", *hooks[2:]), instance("i3")]
    first = wire.sync()
    assert partitions(first.state, "webhooks")["a"]["replication_key_value"] == "2025-05-09T10:00:00.500000Z"
    assert partitions(first.state, "webhooks")["a"]["replication_key"] == "updated_at"
    wire.answers["a"] = [instance("i1", webhook("w0", updatedAt="2024-01-01T00:00:00Z"))]
    second = wire.sync(first.state)
    assert ids(second, "webhooks") == ["w0", "-w1"]
    assert partitions(second.state, "webhooks")["a"]["replication_key_value"] == "2025-05-09T10:00:00.500000Z"
    wire.answers = {"new": [instance("i9", webhook("w9", updatedAt=None))]}
    assert partitions(wire.sync().state, "webhooks")["new"]["replication_key_value"] is None


def test_the_state_of_businesses_that_are_not_configured_is_kept_as_it_is(wire: Wire) -> None:
    first = wire.sync()
    del wire.answers["a"]
    wire.answers["b"] = [instance("i9")]
    # of another version, too: this tap may not understand it, the next one may
    partitions(first.state, "webhooks")["a"].update(version=7, seen=[1, {"more": None}])
    first.state["bookmarks"]["another_stream"] = {"partitions": 5}
    second = wire.sync(first.state)
    assert second.lines("WARNING") == []
    for stream in INCREMENTAL:
        before, after = (json.dumps(partitions(run.state, stream)["a"]) for run in (first, second))
        assert before == after
        assert partitions(second.state, stream)["b"] != partitions(first.state, stream)["b"]
    assert second.state["bookmarks"]["another_stream"] == {"partitions": 5}


def test_a_bookmark_of_a_stream_that_remembers_nothing_is_left_out(wire: Wire) -> None:
    state = wire.sync().state
    state["bookmarks"]["instances"] = {"partitions": [{"context": {"business_id": "a"}, "progress_markers": {}}]}
    run = wire.sync(state)
    assert run.returncode == 0
    assert run.lines("WARNING") == []
    assert "instances" not in run.state["bookmarks"]


def test_an_empty_list_is_warned_of_only_when_the_last_sync_saw_some(wire: Wire) -> None:
    warning = "business a: nothing is connected now"
    wire.answers["a"] = []
    first = wire.sync()
    assert warning not in first.stderr
    assert warning not in wire.sync(first.state).stderr
    wire.answers["a"] = [instance("i1")]
    some = wire.sync(first.state)
    wire.answers["a"] = []
    none = wire.sync(some.state)
    assert warning in none.stderr
    assert none.returncode == 0
    assert warning not in wire.sync(none.state).stderr


def test_a_deselected_stream_that_remembers_more_does_not_warn_of_an_empty_list(wire: Wire) -> None:
    state = wire.sync().state
    wire.answers["a"] = []
    catalog = select(discover(), "businesses", "instances", "connection_changes")
    state = wire.sync(state, catalog=catalog).state
    assert wire.sync(state, catalog=catalog).lines("WARNING") == []


# --------------------------------------------------------------------------------------------- connection_changes


def test_a_connection_change_says_between_which_two_syncs_it_happened(wire: Wire) -> None:
    wire.answers = {"a": [instance("i1"), instance("i2")]}
    first = wire.sync()
    [at_first] = {row["observed_at"] for row in first.records("businesses")}
    expected = {
        "business_id": "a",
        "change_type": "connected",
        "previous_observed_at": at_first,
        "observed_at": at_first,
    }
    rows = first.records("connection_changes")
    assert rows == [{**expected, "instance_id": "i1"}, {**expected, "instance_id": "i2"}]

    between = wire.sync(first.state)
    [at_between] = {row["observed_at"] for row in between.records("businesses")}
    wire.answers = {"a": [instance("i2"), instance("i3")]}
    second = wire.sync(between.state)
    [now] = {row["observed_at"] for row in second.records("businesses")}
    times = {"business_id": "a", "previous_observed_at": at_between, "observed_at": now}
    assert second.records("connection_changes") == [
        {**times, "instance_id": "i3", "change_type": "connected"},
        {**times, "instance_id": "i1", "change_type": "disconnected"},
    ]


def test_a_retry_after_a_crash_makes_the_same_keys(wire: Wire) -> None:
    state = wire.sync().state
    wire.answers["a"] = [instance("i2"), instance("i9")]
    keys = ("business_id", "instance_id", "previous_observed_at")
    lost, retried = wire.sync(state), wire.sync(state)
    rows = [[[row[key] for key in keys] for row in run.records("connection_changes")] for run in (lost, retried)]
    assert rows[0] == rows[1] != []
    assert lost.records("connection_changes") != retried.records("connection_changes")  # observed_at


# ------------------------------------------------------------------------------------------------------ odd state

ODD_STATES: list[Any] = [
    ["bookmarks"],
    {"bookmarks": []},
    {"bookmarks": None},
    {"bookmarks": "webhooks"},
    {"completed": {"singer_state": {"bookmarks": {}}}},
    {"bookmarks": {"webhooks": {"partitions": [{"context": {"business_id": "\ud800"}}]}}},
]


@pytest.mark.parametrize("state", ODD_STATES)
def test_state_of_another_shape_is_a_warning_and_a_full_sync(wire: Wire, state: Any) -> None:  # noqa: ANN401
    wire.answers = {"a": [instance("i1", webhook("w1"))]}
    full = wire.sync()
    run = wire.sync(state)
    assert len(run.lines("WARNING")) == 1
    assert "synced again" in run.stderr
    assert run.returncode == 0
    assert [ids(run, stream) for stream in STREAMS[1:]] == [ids(full, stream) for stream in STREAMS[1:]]


@pytest.mark.parametrize(("text", "why"), [('{"bookmarks": {"webho', "it is not JSON"), ("[]", "it has no bookmarks")])
def test_a_state_file_that_was_cut_off_is_told_from_one_of_another_shape(
    caplog: pytest.LogCaptureFixture, text: str, why: str
) -> None:
    assert read_bookmarks(text.encode(), {}, []) == {}
    assert [f"the state is not understood ({why}): everything" in line for line in caplog.messages] == [True]


def test_the_state_of_another_tap_is_told_and_kept(wire: Wire) -> None:
    theirs = {"users": {"replication_key_value": 7}}
    run = wire.sync({"bookmarks": theirs})
    assert [line.partition("the state ")[2] for line in run.lines("WARNING")] == [
        "is not understood (it is another tap's): everything is synced again"
    ]
    assert run.state["bookmarks"]["users"] == theirs["users"]
    both = {"bookmarks": theirs | {"observations": {}}}
    assert wire.sync(both).lines("WARNING") == []


NO_PARTITIONS: list[Any] = [None, 5, "text", [], {"partitions": None}, {"partitions": {}}, {"partitions": "text"}]


def test_an_empty_bookmark_is_none(wire: Wire) -> None:
    run = wire.sync({"bookmarks": {stream: {} for stream in INCREMENTAL}})
    assert run.lines("WARNING") == []
    assert [ids(run, stream) for stream in STREAMS[1:]] == [ids(wire.sync(), stream) for stream in STREAMS[1:]]


@pytest.mark.parametrize("bookmark", [*NO_PARTITIONS, {"replication_key_value": "2025-01-01T00:00:00Z"}])
@pytest.mark.parametrize("stream", INCREMENTAL)
def test_a_stream_whose_state_is_nonsense_is_synced_in_full(wire: Wire, stream: str, bookmark: Any) -> None:  # noqa: ANN401
    first = wire.sync()
    broken = json.loads(json.dumps(first.state))
    broken["bookmarks"][stream] = bookmark
    run = wire.sync(broken)
    assert [f"the state of {stream} is not understood" in line for line in run.lines("WARNING")] == [True]
    assert ids(run, stream) == ids(first, stream)
    assert [run.records(other) for other in INCREMENTAL if other != stream] == [[], []]
    assert set(partitions(run.state, stream)) == {"a", "b"}


NO_PARTITION: list[tuple[str, Any]] = [
    ("version", 3),
    ("version", None),
    ("seen", None),
    ("seen", [["i1"]]),
    ("seen", 5),
    ("replication_key_value", "yesterday"),
    ("replication_key_value", 5),
    ("replication_key_value", {}),
]


@pytest.mark.parametrize(("name", "value"), [*NO_PARTITION, ("seen", {"i1": 5}), ("seen", {"i1": "w1"})])
@pytest.mark.parametrize("stream", INCREMENTAL)
def test_a_business_whose_state_is_nonsense_is_synced_in_full(
    wire: Wire, stream: str, name: str, value: Any  # noqa: ANN401
) -> None:  # fmt: skip
    first = wire.sync()
    broken = json.loads(json.dumps(first.state))
    partitions(broken, stream)["a"][name] = value
    run = wire.sync(broken)
    assert [f"the state of {stream}, business 'a', is not" in line for line in run.lines("WARNING")] == [True]
    assert ids(run, stream) == (["i1", "i2"] if stream == "connection_changes" else ["w1", "w2", "w3"])
    assert [run.records(other) for other in INCREMENTAL if other != stream] == [[], []]
    for other in REMEMBERING:
        assert memories(run.state, other) == memories(first.state, other)


@pytest.mark.parametrize("entry", [None, 5, "text", [], {}, {"context": None}, {"context": []}, {"context": {}},
                                   {"context": {"business_id": None}}, {"context": {"business_id": ["a"]}},
                                   {"context": {"business_id": {"a": "a"}}}])  # fmt: skip
def test_a_partition_of_nobody_is_a_warning_and_concerns_nobody(wire: Wire, entry: Any) -> None:  # noqa: ANN401
    first = wire.sync()
    broken = json.loads(json.dumps(first.state))
    broken["bookmarks"]["webhooks"]["partitions"].insert(0, entry)
    run = wire.sync(broken)
    assert len(run.lines("WARNING")) == 1
    assert [run.records(stream) for stream in INCREMENTAL] == [[], [], []]
    assert memories(run.state, "webhooks") == memories(first.state, "webhooks")
    assert len(run.state["bookmarks"]["webhooks"]["partitions"]) == 2


def test_two_partitions_of_a_business_are_not_understood(wire: Wire) -> None:
    state = wire.sync().state
    state["bookmarks"]["webhooks"]["partitions"] *= 2
    run = wire.sync(state)
    assert len(run.lines("WARNING")) == 4
    assert ids(run, "webhooks") == ["w1", "w2", "w3", "w4"]
    assert len(run.state["bookmarks"]["webhooks"]["partitions"]) == 2


@pytest.mark.parametrize("state", ["", "{", "[]", '"text"', "[" * 9000])
def test_a_state_file_that_holds_no_state_is_a_warning_and_a_full_sync(codechat: CodeChat, state: str) -> None:
    business = next(iter(codechat.world.businesses.values()))
    run = run_cli({"api_url": codechat.url, "business_id": business.id, "auth_token": business.token}, state=state)
    assert run.returncode == 0
    assert run.stderr.count("everything is synced again") == 1
    assert "Traceback" not in run.stderr
    assert len(run.records("webhooks")) == 3
