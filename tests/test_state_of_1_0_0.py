"""State that other hands wrote: tap 1.0.0's, in a wrapper, or as an editor saved it.

`data/state-1.0.0.json` was written by tap 1.0.0 in two runs. Business `a` has i1 (w1, w2) and i2 (w3, and w4 without
events), `b` has `i 3%é` (`w 5=%é`, w6) and i4; in the second run `a` failed and `b` listed i1 too, with w2 disabled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.kit.checked import command, settings
from tests.kit.support import discover, select, sync
from tests.kit.wire import Wire, ids, instance, webhook

if TYPE_CHECKING:
    from demo.codechat import CodeChat

REMEMBERING = ("webhooks", "webhook_events")
OLD: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "state-1.0.0.json").read_text(encoding="utf-8")
)

I2 = instance("i2", webhook("w3"), webhook("w4", WebhookEvents=None))
I3 = instance("i 3%é", webhook("w 5=%é"), webhook("w6"))
I1 = instance("i1", webhook("w1"), webhook("w2", enabled=False))


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch, a=[I2], b=[I3, instance("i4"), I1])


def test_what_went_since_a_run_of_1_0_0_is_told(wire: Wire) -> None:
    wire.answers = {"a": [instance("i2", webhook("w3"))], "b": [instance("i 3%é", webhook("w6")), I1]}
    run = wire.sync(OLD)
    assert run.lines("WARNING") == []
    assert [key for key in ids(run, "webhooks") if key.startswith("-")] == ["-w4", "-w 5=%é"]
    assert [key for key in ids(run, "webhook_events") if key.startswith("-")] == ["-w 5=%é"]
    changes = [(row["business_id"], row["instance_id"], row["change_type"], row["previous_observed_at"])
               for row in run.records("connection_changes")]  # fmt: skip
    assert changes == [("a", "i1", "disconnected", "2025-06-01T00:00:02Z"),
                       ("b", "i4", "disconnected", "2025-06-01T00:00:05Z")]  # fmt: skip


def test_an_instance_that_1_0_0_remembers_twice_is_remembered_once_and_comes_whole(wire: Wire) -> None:
    """Which of its two memories is right cannot be known."""
    wire.answers = {"a": [], "b": [instance("i1", webhook("w1"))]}
    run = wire.sync(OLD)
    assert ids(run, "webhooks") == ["w1", "-w2"]
    for stream in REMEMBERING:
        entries = run.state["bookmarks"][stream]["partitions"]
        known = [instance_id for entry in entries for instance_id in [*entry["seen"], *entry["away"]]]
        assert len(known) == len(set(known)) == 4
    assert ids(wire.sync(run.state), "webhooks") == []


def test_of_an_instance_that_1_0_0_remembers_in_three_businesses_no_row_is_lost(wire: Wire) -> None:
    state = json.loads(json.dumps(OLD))
    for stream in REMEMBERING:
        partitions = state["bookmarks"][stream]["partitions"]
        partitions.append({**partitions[0], "context": {"business_id": "c"}, "seen": {"i1": "0123456789abcdef=w7"}})
    wire.answers = {"a": [], "b": [instance("i1", webhook("w1"))], "c": []}
    run = wire.sync(state)
    assert sorted(ids(run, "webhooks")) == ["-w2", "-w7", "w1"]
    for entry in run.state["bookmarks"]["webhooks"]["partitions"]:
        known = {*entry["seen"], *entry["away"]}
        assert ("i1" in known) == (entry["context"]["business_id"] == "b")


def test_after_one_run_an_unchanged_world_emits_nothing(wire: Wire) -> None:
    first = wire.sync(OLD)
    assert ids(first, "connection_changes") == ["i1"]  # in a, where 1.0.0 had seen it last
    second = wire.sync(first.state)
    assert [second.records(stream) for stream in (*REMEMBERING, "connection_changes")] == [[], [], []]
    assert second.state["bookmarks"]["webhooks"]["partitions"][0]["version"] == 2


def test_a_stream_that_is_not_selected_keeps_what_1_0_0_remembers(wire: Wire) -> None:
    others = select(discover(), "businesses", "instances", "webhook_events")
    state = wire.sync(OLD, catalog=others).state
    wire.answers["b"] = [instance("i 3%é", webhook("w6")), I1]
    assert [key for key in ids(wire.sync(state), "webhooks") if key.startswith("-")] == ["-w 5=%é"]


def test_a_business_that_is_not_configured_keeps_what_1_0_0_remembers(wire: Wire) -> None:
    del wire.answers["a"]
    state = wire.sync(OLD).state
    wire.answers = {"a": [instance("i2")], "b": [I3]}
    assert {"-w3", "-w4"} <= set(ids(wire.sync(state), "webhooks"))


@pytest.mark.parametrize(
    "broken",
    [{"i1": 5}, {"i1": "no-equals-sign"}, ["i1"], "i1", None],
)
def test_what_1_0_0_never_wrote_is_a_warning_and_a_full_sync_of_what_it_concerns(wire: Wire, broken: object) -> None:
    state = json.loads(json.dumps(OLD))
    state["bookmarks"]["webhooks"]["partitions"][0]["seen"] = broken
    run = wire.sync(state)
    assert ["webhooks, business 'a', is not understood" in line for line in run.lines("WARNING")] == [True]
    assert {"w3", "w4"} <= set(ids(run, "webhooks"))


# ------------------------------------------------------------------------------------------------- wrappers and bytes


def wrapped_by_meltano(state: dict[str, Any]) -> dict[str, Any]:
    """Wrap it as `meltano state get` prints it."""
    return {"singer_state": state}


def as_message(state: dict[str, Any]) -> dict[str, Any]:
    """Wrap it as the last line of a tap's output."""
    return {"type": "STATE", "value": state}


def wrapped_twice(state: dict[str, Any]) -> dict[str, Any]:
    """Wrap it as a STATE message that holds Meltano's wrapper."""
    return as_message(wrapped_by_meltano(state))


WRAPPERS = [dict, wrapped_by_meltano, as_message, wrapped_twice]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda wrap: wrap.__name__)
def test_a_state_file_is_read_in_a_wrapper_with_a_byte_order_mark_and_windows_line_ends(
    codechat: CodeChat, tmp_path: Path, wrap: Any, encoding: str  # noqa: ANN401
) -> None:  # fmt: skip
    state = sync(settings(codechat)).state
    text = json.dumps(wrap(state), indent=1).replace("\n", "\r\n") + "\r\n"
    (tmp_path / "state").write_bytes(text.encode(encoding))
    (tmp_path / "config").write_text(json.dumps(settings(codechat)), encoding="utf-8")
    run = command("--config", str(tmp_path / "config"), "--state", str(tmp_path / "state"))
    assert run.returncode == 0, run.stderr
    assert "not understood" not in run.stderr
    assert ids(run, "webhooks") == ids(run, "webhook_events") == ids(run, "connection_changes") == []
    assert set(run.state) == {"bookmarks"}


@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda wrap: wrap.__name__)
def test_an_empty_state_is_none_in_a_wrapper_too(wire: Wire, wrap: Any) -> None:  # noqa: ANN401
    run = wire.sync(wrap({}))
    assert run.lines("WARNING") == []
    assert len(ids(run, "webhooks")) == 6
