"""What only each run can tell: `connection_changes`, and `observations`, one row per business and good run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.simulated_target import SimulatedTarget
from tests.kit.support import discover, select
from tests.kit.wire import Wire, ids, instance, webhook

if TYPE_CHECKING:
    from tests.kit.support import Run


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    monkeypatch.setattr("tap_instances.run.PAGE", 1)
    return Wire(
        monkeypatch,
        a=[instance("i1", webhook("w1"), webhook("w2")), instance("i2", webhook("w3"))],
        b=[],
    )


def observed(run: Run) -> dict[str, str]:
    """Return business -> when its answer was complete."""
    return {row["business_id"]: row["observed_at"] for row in run.records("businesses")}


def observation(run: Run, business_id: str, before: Run | None, instances: int, webhooks: int) -> dict[str, Any]:
    """Return the row that a run shall have of a business."""
    since = observed(before)[business_id] if before else None
    return {"business_id": business_id, "observed_at": observed(run)[business_id], "previous_observed_at": since,
            "instances": instances, "webhooks": webhooks}  # fmt: skip


# --------------------------------------------------------------------------------------------------- observations


def test_each_business_has_one_observation_per_good_run(wire: Wire) -> None:
    first = wire.sync()
    assert first.records("observations") == [observation(first, "a", None, 2, 3), observation(first, "b", None, 0, 0)]
    wire.answers["a"] = [instance("i1", webhook("w1"))]
    second = wire.sync(first.state)
    rows = [observation(second, "a", first, 1, 1), observation(second, "b", first, 0, 0)]
    assert second.records("observations") == rows
    unchanged = wire.sync(second.state)  # its webhooks are counted though none is read
    assert unchanged.records("observations")[0] == observation(unchanged, "a", second, 1, 1)


def test_a_business_that_failed_has_no_observation_and_the_next_spans_the_gap(wire: Wire) -> None:
    first = wire.sync()
    listed, wire.answers["a"] = wire.answers["a"], None
    failed = wire.sync(first.state)
    assert ids(failed, "observations") == ["b"]
    wire.answers["a"] = listed
    back = wire.sync(failed.state)
    assert back.records("observations") == [observation(back, "a", first, 2, 3), observation(back, "b", failed, 0, 0)]


@pytest.mark.parametrize("item", [{"name": "no id"}, instance("i3", {"url": "https://no-id.example.com"})])
def test_a_business_with_a_record_without_key_has_no_observation(wire: Wire, item: dict[str, Any]) -> None:
    first = wire.sync()
    wire.answers["a"] = [item]
    faulty = wire.sync(first.state)
    assert faulty.returncode == 1
    assert ids(faulty, "observations") == ["b"]
    wire.answers["a"] = [instance("i1")]
    back = wire.sync(faulty.state)
    assert back.records("observations")[0] == observation(back, "a", first, 1, 0)


def test_a_stream_map_that_hides_instances_does_not_change_what_was_observed(wire: Wire) -> None:
    run = wire.sync(stream_maps={"instances": {"__filter__": "False"}})
    assert run.records("observations")[0] == observation(run, "a", None, 2, 3)
    assert ids(run, "connection_changes") == ["i1", "i2"]


@pytest.mark.parametrize("others", [["businesses"], ["businesses", "webhook_events"], ["businesses", "webhooks"]])
def test_observations_count_the_same_whatever_else_is_selected(wire: Wire, others: list[str]) -> None:
    catalog = select(discover(), "observations", *others)
    first = wire.sync(catalog=catalog)
    assert first.records("observations")[0] == observation(first, "a", None, 2, 3)
    second = wire.sync(first.state, catalog=catalog)
    assert second.records("observations")[0] == observation(second, "a", first, 2, 3)


def test_one_webhook_id_twice_is_counted_twice_at_each_run(wire: Wire) -> None:
    wire.answers = {"a": [instance("i1", webhook("w1"), webhook("w1")), instance("i2", webhook("w1"))]}
    first = wire.sync()
    second = wire.sync(first.state)
    assert [run.records("observations")[0]["webhooks"] for run in (first, second)] == [3, 3]


# --------------------------------------------------------------------------------------------- connection_changes


def test_the_key_of_connection_changes_holds_what_changed(wire: Wire) -> None:
    [schema] = wire.sync().of("SCHEMA", "connection_changes")
    assert schema["key_properties"] == ["business_id", "instance_id", "previous_observed_at", "change_type"]


def test_a_drop_in_the_very_next_run_does_not_overwrite_the_first_row(wire: Wire) -> None:
    target = SimulatedTarget()
    first = wire.sync()
    wire.answers["a"] = [instance("i1")]
    second = wire.sync(first.state)
    for run in (first, second):
        target.load(run.messages)
    rows = [(row["change_type"], row["previous_observed_at"], row["observed_at"])
            for row in target.rows("connection_changes") if row["instance_id"] == "i2"]  # fmt: skip
    before, now = observed(first)["a"], observed(second)["a"]
    assert rows == [("connected", before, before), ("disconnected", before, now)]


def test_a_run_without_state_overwrites_no_history(wire: Wire) -> None:
    target = SimulatedTarget()
    first = wire.sync()
    target.load(first.messages)
    history = [dict(row) for row in target.rows("connection_changes")]
    anew = wire.sync()
    target.load(anew.messages)
    rows = target.rows("connection_changes")
    assert rows[: len(history)] == history
    assert {row["previous_observed_at"] for row in rows[len(history) :]} == {observed(anew)["a"]}
    for row in rows:  # no transition: it was there when first looked
        assert row["change_type"] == "connected"
        assert row["previous_observed_at"] == row["observed_at"]


def test_a_first_look_at_an_empty_business_is_remembered_so_that_what_appears_is_a_transition(wire: Wire) -> None:
    first = wire.sync()
    wire.answers["b"] = [instance("i9")]
    [row] = wire.sync(first.state).records("connection_changes")
    assert (row["previous_observed_at"], row["change_type"]) == (observed(first)["b"], "connected")
    assert row["previous_observed_at"] < row["observed_at"]
