"""State is bounded by what was listed in 90 days, is written seldom, and nothing grows with the square of anything.

Costs are counted, in calls, lines and bytes: a count is the same on a busy machine.
"""

from __future__ import annotations

import json
import logging
import sys
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tap_instances import run as running
from tap_instances.records import ApiObject, Reader
from tests.kit.wire import Wire, instance, webhook

if TYPE_CHECKING:
    from types import FrameType

    from tests.kit.support import Run

Tracer = Any  # what a trace function returns: the next one


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch)


def uuid_of(number: int) -> str:
    """Make an id as the API has them."""
    return str(uuid.UUID(int=number << 80, version=4))


def numbers(first: int, count: int, **values: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Make instances with a webhook each; with other `values` these have changed."""
    return [instance(uuid_of(n), webhook(uuid_of(n), **values)) for n in range(first, first + count)]


def size(run: Run) -> int:
    """Give the bytes of the last STATE."""
    return len(json.dumps(run.state, separators=(",", ":")))


def work(wire: Wire, state: dict[str, Any] | None) -> tuple[int, Run]:
    """Count what a sync does in this thread: every call, Python's own functions included, and the tap's lines."""
    done = 0

    def calls(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal done
        done += event in {"call", "c_call"}

    def lines(_frame: FrameType, _event: str, _argument: object) -> Tracer:
        nonlocal done
        done += 1  # a loop in one line, too: each turn is an event
        return lines

    def trace(frame: FrameType, _event: str, _argument: object) -> Tracer | None:
        return lines if frame.f_globals.get("__name__", "").startswith("tap_instances.") else None

    before = sys.getprofile(), sys.gettrace()
    logging.disable()  # what a line costs depends on the tests before: their secrets are looked for in it
    sys.setprofile(calls)
    sys.settrace(trace)
    try:
        run = wire.sync(state)
    finally:
        sys.settrace(before[1])
        sys.setprofile(before[0])
        logging.disable(logging.NOTSET)
    return done, run


def two_runs(
    wire: Wire, listed: dict[str, list[dict[str, Any]] | None], changed: dict[str, list[dict[str, Any]] | None]
) -> tuple[int, int, Run]:
    """Sync what is listed, then what became of it; give both counts of calls, and the second run."""
    wire.answers = listed
    first, run = work(wire, None)
    wire.answers = changed
    second, run = work(wire, run.state)
    assert run.returncode == 0
    return first, second, run


# ------------------------------------------------------------------------------------------------------- its size


def test_state_is_bounded_by_what_was_listed_in_ninety_days_however_many_runs_there_are(wire: Wire) -> None:
    state, sizes = None, []
    for turn in range(50):  # every ten days a tenth of the numbers has gone for ever, and new ones have come
        wire.answers = {"a": numbers(10 * turn, 100), "b": numbers(10_000 + turn, 1)}
        run = wire.sync(state)
        state = run.state
        sizes.append(size(run))
        wire.seconds += 10 * 86_400
    assert len(set(sizes[12:])) <= 2  # by a second of a clock, nine or ten turns lie in ninety days
    assert max(sizes) <= 2.1 * sizes[0]
    wire.answers = {"a": [], "b": []}
    wire.seconds += 91 * 86_400
    assert size(wire.sync(state)) < 2000


def test_hourly_runs_of_a_world_that_stands_still_do_not_grow_the_state(wire: Wire) -> None:
    wire.answers = {"a": numbers(0, 100)}
    state, sizes = None, set()
    for _ in range(20):
        run = wire.sync(state)
        state = run.state
        sizes.add(size(run))
    assert len(sizes) == 1


def test_an_instance_with_two_webhooks_costs_at_most_460_bytes(wire: Wire) -> None:
    sizes = []
    for count in (0, 1000):
        listed = [instance(uuid_of(n), webhook(uuid_of(2 * n)), webhook(uuid_of(2 * n + 1))) for n in range(count)]
        wire.answers = {"a": listed}
        sizes.append(size(wire.sync()))
    assert sizes[1] - sizes[0] <= 1000 * 460


def test_an_instance_that_is_away_costs_hardly_more_than_one_that_is_listed(wire: Wire) -> None:
    wire.answers = {"a": numbers(0, 1000)}
    listed = wire.sync()
    wire.answers = {"a": []}
    assert size(wire.sync(listed.state)) <= size(listed) + 1000 * 2 * len(',"last_listed":"2025-06-01T00:00:00Z"')


# ------------------------------------------------------------------------------------------------ an unchanged run


def test_an_unchanged_run_reads_nothing_below_an_instance(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    values = Reader._values

    def noted(self: Reader, kind: ApiObject, item: Any, extra: dict[str, Any]) -> Any:  # noqa: ANN401
        if kind.stream == "webhooks":
            read.append(item.webhookId)
        return values(self, kind, item, extra)

    monkeypatch.setattr(Reader, "_values", noted)
    wire.answers = {"a": numbers(0, 50), "b": numbers(50, 50)}
    first = wire.sync()
    assert len(read) == 100
    read.clear()
    second = wire.sync(first.state)
    assert read == []
    assert len(second.records("instances")) == 100
    for item in wire.answers["b"] or []:  # a picture's URL is signed anew often: that is no reason to read webhooks
        item["WhatsApp"] = {"pictureUrl": "https://pictures.example.com/?signed=again"}
    wire.answers["a"] = numbers(0, 49) + numbers(49, 1, enabled=False)
    third = wire.sync(second.state)
    assert read == [uuid_of(49)]
    assert [row["webhook_id"] for row in third.records("webhooks")] == [uuid_of(49)]


def test_an_unchanged_run_does_less_than_two_thirds_of_a_first_one(wire: Wire) -> None:
    def listed() -> list[dict[str, Any]]:
        return [instance(uuid_of(n), *(webhook(uuid_of(4 * n + k)) for k in range(4))) for n in range(500)]

    first, second, run = two_runs(wire, {"a": listed()}, {"a": listed()})
    assert len(run.records("instances")) == 500
    assert second < first * 2 / 3


# --------------------------------------------------------------------------------------------------- how often


@pytest.mark.parametrize("failing", [None, "b099"])
def test_state_is_written_every_ten_seconds_at_most_and_at_the_end(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, failing: str | None
) -> None:
    clock = SimpleNamespace(now=0.0)
    sync_business = running.Run.sync_business

    def slowly(self: running.Run, *arguments: Any) -> None:  # noqa: ANN401
        before = self.read_count
        sync_business(self, *arguments)
        clock.now += 3 * (self.read_count - before)  # a business that fails takes no time

    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(running.Run, "sync_business", slowly)
    wire.answers = {f"b{number:03}": numbers(number, 1) for number in range(100)}
    if failing:
        wire.answers[failing] = None
    run = wire.sync()
    assert run.returncode == (1 if failing else 0)
    done, written = 0, []
    for message in run.messages:
        done += message["type"] == "RECORD" and message["stream"] == "businesses"
        if message["type"] == "STATE":
            written.append(done)
            partitions = message["value"]["bookmarks"].get("webhooks", {"partitions": []})["partitions"]
            # Each holds what stands before it, and no more; but the first, which is what the run was given.
            assert len(partitions) == (0 if len(written) == 1 else done)
    assert written == [4, *range(4, 100, 4), *([] if failing else [100]), 99 if failing else 100]
    assert run.messages[-1]["type"] == "STATE"


def test_a_quick_run_writes_one_state_however_many_businesses_there_are(wire: Wire) -> None:
    wire.answers = {f"b{number}": numbers(number, 1) for number in range(100)}
    assert len(wire.sync().of("STATE")) == 1


# ------------------------------------------------------------------------------------------------ nothing quadratic


def test_five_times_the_businesses_are_five_times_the_work(wire: Wire) -> None:
    few, many = (
        two_runs(
            wire,
            {f"b{n:04}": numbers(2 * n, 2) for n in range(count)},
            {f"b{n:04}": numbers(2 * n + 1, 2, enabled=False) for n in range(count)},
        )
        for count in (200, 1000)
    )
    assert many[0] < 5.2 * few[0]
    assert many[1] < 5.2 * few[1]
    assert size(many[2]) < 5.1 * size(few[2])
    assert len(many[2].stdout) < 5.2 * len(few[2].stdout)


def test_ten_times_the_instances_are_ten_times_the_work(wire: Wire) -> None:
    few, many = (
        two_runs(wire, {"a": numbers(0, count)}, {"a": [*numbers(count // 2, count // 2, enabled=False),
                                                        *(instance(uuid_of(n)) for n in range(count // 2))]})
        for count in (1_000, 10_000)
    )  # fmt: skip
    assert [len(run.records("webhooks")) for _, _, run in (few, many)] == [1_000, 10_000]  # half of them deleted
    assert many[0] < 10.2 * few[0]
    assert many[1] < 10.2 * few[1]
    assert size(many[2]) < 10.1 * size(few[2])


def test_ten_times_the_webhooks_of_an_instance_are_ten_times_the_work(wire: Wire) -> None:
    def hooks(count: int, first: int = 0) -> dict[str, list[dict[str, Any]] | None]:
        return {"a": [instance("i", *(webhook(uuid_of(n)) for n in range(first, first + count)))]}

    few, many = (two_runs(wire, hooks(count), hooks(count, count // 2)) for count in (500, 5_000))
    assert many[0] < 10.2 * few[0]
    assert many[1] < 10.2 * few[1]
