"""Many businesses in one run: fetched ahead, emitted in order, never too many at a time, and each for itself."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest
from singer_sdk.exceptions import ConfigValidationError

from demo.codechat import CodeChat, World
from tap_instances import client
from tap_instances import run as runs
from tap_instances.businesses import Business
from tap_instances.client import Client
from tap_instances.failures import SnapshotError
from tap_instances.responses import Snapshot, read_connected
from tap_instances.sdk.writer import LineWriter
from tests.kit.checked import STREAMS
from tests.kit.faults import FaultServer, answer, config, head, leave_surroundings, raw
from tests.kit.support import Run, run_cli, sync

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import requests

    from tap_instances.body import Body
    from tests.kit.faults import Act, Connection

SOON: Final = 0.2  # seconds in which what must not happen would have happened
LATE: Final = 10  # seconds after which what must happen has not


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leave_surroundings(monkeypatch, str(tmp_path))
    monkeypatch.setattr(client, "MAX_BACKOFF", 0.0)


def body(business: str, *instances: str) -> dict[str, Any]:
    """Make a 200 body; each instance has one webhook with events."""
    return {
        "businessId": business,
        "name": f"The {business}",
        "Instances": [
            {"instanceId": name, "Webhook": [{"webhookId": f"{name}-hook", "WebhookEvents": {"newJwt": True}}]}
            for name in instances
        ],
    }


def names(count: int) -> list[str]:
    """Name so many businesses."""
    return [f"b-{number}" for number in range(count)]


def scripts(businesses: Iterable[str]) -> dict[str, tuple[Act]]:
    """Let each business answer with two instances of its own."""
    return {business: (answer(200, body(business, f"{business}-x", f"{business}-y")),) for business in businesses}


def order(run: Run) -> list[str]:
    """Give the businesses in the order in which their rows came, all rows of all streams that tell it."""
    seen = [
        message["record"].get("business_id") or message["record"]["instance_id"][:-2] for message in run.of("RECORD")
    ]
    return [business for number, business in enumerate(seen) if number == 0 or seen[number - 1] != business]


def rows(run: Run, business: str) -> dict[str, list[dict[str, Any]]]:
    """Give a business's rows of each stream, without the time at which they were seen."""
    return {
        stream: [
            {name: value for name, value in row.items() if not name.endswith("observed_at")}
            for row in run.records(stream)
            if business in {row.get("business_id"), row.get("instance_id", "")[:-2]}
        ]
        for stream in STREAMS
    }


def partitions(state: dict[str, Any], business: str) -> dict[str, Any]:
    """Give what is remembered of a business, by stream."""
    return {
        stream: partition
        for stream, bookmark in state.get("bookmarks", {}).items()
        for partition in bookmark["partitions"]
        if partition["context"] == {"business_id": business}
    }


# ---------------------------------------------------------------------------------------------- ahead, and how far


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_as_many_requests_are_under_way_as_concurrency_says_and_no_more(concurrency: int) -> None:
    lock, full = threading.Lock(), threading.Event()
    under_way: list[int] = [0]
    seen: list[int] = []

    def act(connection: Connection) -> None:
        with lock:
            under_way[0] += 1
            seen.append(under_way[0])
            if under_way[0] == concurrency:
                full.set()
        full.wait(LATE)
        connection.wait(0.02)  # one more would come now
        with lock:
            under_way[0] -= 1
        answer(200, body("any"))(connection)

    with FaultServer(act) as server:
        assert sync(config(server, names(12), concurrency=concurrency)).returncode == 0
        assert len(server.requests) == 12
    assert max(seen) == concurrency


def test_rows_come_in_the_configured_order_however_the_answers_come() -> None:
    businesses = ["b-3", "b-1", "b-2", "b-0"]
    answered = {business: threading.Event() for business in businesses}

    def act(connection: Connection) -> None:
        business = connection.request.business
        later = businesses[businesses.index(business) + 1 :]
        assert all(answered[other].wait(LATE) for other in later)  # the last is the first to answer
        answer(200, body(business, f"{business}-x"))(connection)
        answered[business].set()

    with FaultServer(act) as server:
        run = sync(config(server, businesses, concurrency=4))
    assert run.returncode == 0
    assert order(run) == businesses


def test_no_more_is_fetched_ahead_of_a_slow_business_than_concurrency_says() -> None:
    ahead: list[int] = []
    third = threading.Event()

    def slow(connection: Connection) -> None:
        assert third.wait(LATE)
        connection.wait(SOON)  # a further one would be asked for now
        ahead.append(len(server.requests))
        answer(200, body("b-0"))(connection)

    def last(connection: Connection) -> None:
        answer(200, body("b-2"))(connection)
        third.set()

    with FaultServer(businesses=scripts(names(9)) | {"b-0": (slow,), "b-2": (last,)}) as server:
        assert sync(config(server, names(9), concurrency=3)).returncode == 0
    assert ahead == [3]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_one_body_more_than_concurrency_is_in_memory_and_none_with_the_last_state(
    concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [0]  # of those alive, after each birth and death
    changed = threading.Condition()

    def count(change: int) -> None:
        with changed:
            counts.append(counts[-1] + change)
            changed.notify_all()

    class Counted(Snapshot):
        def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
            super().__init__(*args, **kwargs)
            count(1)

        def __del__(self) -> None:
            count(-1)

    write, end, held = LineWriter.write, runs.Run.end, []

    def noted_end(self: runs.Run) -> None:
        held.append(counts[-1])
        end(self)

    def slow_write(self: LineWriter, lines: bytes) -> None:
        if b'"stream":"businesses","record"' in lines:
            with changed:  # until all that may be fetched ahead is there; towards the end there is less
                changed.wait_for(lambda: counts[-1] > concurrency, timeout=SOON)
        write(self, lines)

    monkeypatch.setattr("tap_instances.responses.Snapshot", Counted)
    monkeypatch.setattr(LineWriter, "write", slow_write)
    monkeypatch.setattr(runs.Run, "end", noted_end)
    with FaultServer(businesses=scripts(names(12))) as server:
        assert sync(config(server, names(12), concurrency=concurrency)).returncode == 0
    assert len(counts) == 1 + 2 * 12
    assert max(counts) == concurrency + 1
    assert held == [counts[-1]] == [0]


def test_a_failure_holds_no_body() -> None:
    with FaultServer(answer(200, [1] * 1000)) as server:
        asked = Client({"api_url": server.url, "concurrency": 1, "request_timeout": 5, "max_retries": 0}, "test")
        [outcome] = asked.snapshots([Business("b-0", "token")])
    assert isinstance(outcome, SnapshotError)
    assert (outcome.__traceback__, outcome.__cause__, outcome.__context__) == (None, None, None)


def test_the_threads_end_with_the_run() -> None:
    before = set(threading.enumerate())
    with FaultServer(businesses=scripts(names(9))) as server:
        sync(config(server, names(9), concurrency=5))
    left = [thread for thread in threading.enumerate() if thread not in before and thread.name.startswith("fetch")]
    for thread in left:
        thread.join(LATE)
    assert not any(thread.is_alive() for thread in left)


# ------------------------------------------------------------------------------------------------- each for itself

FAILURES: Final[dict[str, tuple[Act, str]]] = {
    "401": (answer(401, {"message": "no"}), "401 Unauthorized"),
    "503": (answer(503, b""), "503 Service Unavailable (1 try)"),
    "cut": (
        raw(head(Content_Length=999) + b'{"Instances": [{"instanceId": "lost'),
        "the response was cut short (1 try)",
    ),
    "shape": (answer(200, {"Instances": None}), "Instances is null in the response"),
    "page": (answer(200, b"<html>"), "the response is a web page, not JSON (1 try)"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("activate", [False, True])
def test_one_that_fails_leaves_the_others_whole(failure: str, activate: bool) -> None:  # noqa: FBT001
    act, why = FAILURES[failure]
    businesses = names(4)
    more = {"emit_activate_version_messages": activate, "concurrency": 2}
    with FaultServer(businesses=scripts(businesses)) as server:
        before = sync(config(server, businesses, **more))
    with FaultServer(businesses=scripts(businesses) | {"b-1": (act,)}) as server:
        run = sync(config(server, businesses, **more), state=before.state)
        fresh = sync(config(server, businesses, **more))
        alone = sync(config(server, ["b-0", "b-2", "b-3"], **more))

    assert (before.returncode, run.returncode, fresh.returncode, alone.returncode) == (0, 1, 1, 0)
    for business in ("b-0", "b-2", "b-3"):  # as if it had not been there
        assert rows(fresh, business) == rows(alone, business)
        assert len(rows(run, business)["instances"]) == 2
        assert partitions(fresh.state, business).keys() == partitions(before.state, business).keys()
        for stream, partition in partitions(run.state, business).items():
            old = partitions(before.state, business)[stream]
            assert (partition["replication_key_value"] != old["replication_key_value"]) == (
                stream in {"connection_changes", "observations"}
            )
    assert not any(rows(run, "b-1").values())
    assert partitions(run.state, "b-1") == partitions(before.state, "b-1")
    assert partitions(fresh.state, "b-1") == {}

    assert bool(before.of("ACTIVATE_VERSION")) == bool(alone.of("ACTIVATE_VERSION")) == activate
    assert run.of("ACTIVATE_VERSION") == fresh.of("ACTIVATE_VERSION") == []
    [line, summary] = run.lines("ERROR")
    assert f"business b-1: {why}" in line
    assert "1 of 4 businesses failed" in summary
    assert f": b-1 ({why}" in summary


def test_the_summary_names_each_that_failed_and_why() -> None:
    businesses = [*names(3), *FAILURES]
    acts = {business: (act,) for business, (act, _) in FAILURES.items()}
    with FaultServer(businesses=scripts(names(3)) | acts) as server:
        run = run_cli(config(server, businesses))
    assert run.returncode == 1
    *lines, summary = run.lines("ERROR")
    assert len(lines) == len(FAILURES)
    assert "5 of 8 businesses failed" in summary
    for business, (_, why) in FAILURES.items():
        assert f"{business} ({why}" in summary
    assert order(run) == names(3)


def test_all_that_fail_leave_the_state_as_it_was() -> None:
    with FaultServer(businesses=scripts(names(2))) as server:
        before = sync(config(server, names(2)))
    with FaultServer(answer(401, b"")) as server:
        run = sync(config(server, names(2)), state=before.state)
    assert run.returncode == 1
    assert run.of("RECORD") == []
    assert run.state == before.state
    assert "2 of 2 businesses failed" in run.lines("ERROR")[-1]


def test_one_without_a_key_leaves_the_others_whole() -> None:
    keyless = body("b-1", "b-1-x") | {"Instances": [{"name": "nobody"}, *body("b-1", "b-1-x")["Instances"]]}
    more = {"emit_activate_version_messages": True}
    with FaultServer(businesses=scripts(names(3)) | {"b-1": (answer(200, keyless),)}) as server:
        run = sync(config(server, names(3), **more))
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert "business b-1: not emitted: Instances[0]: its instanceId is missing" in line
    assert [len(rows(run, business)["instances"]) for business in names(3)] == [2, 1, 2]
    assert [bool(partitions(run.state, business)) for business in names(3)] == [True, False, True]
    assert run.of("ACTIVATE_VERSION") == []


def test_of_broken_text_in_one_is_told_after_the_others() -> None:
    broken = b'{"name":"\xff","Instances":[]}'
    with FaultServer(businesses=scripts(names(3)) | {"b-1": (answer(200, broken),)}) as server:
        run = sync(config(server, names(3)))
    assert run.returncode == 0
    assert "bytes that are not UTF-8" in run.lines("WARNING")[-1]


def test_a_bug_in_one_is_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(response: requests.Response, body: Body) -> Snapshot:
        if "b-1" in response.url:
            raise ZeroDivisionError
        return read_connected(response, body)

    monkeypatch.setattr(client, "read_connected", broken)
    with FaultServer(businesses=scripts(names(3))) as server:
        run = sync(config(server, names(3)))
    assert run.returncode == 1
    assert "business b-1: unexpected ZeroDivisionError: please report it" in run.lines("ERROR")[0]
    assert order(run) == ["b-0", "b-2"]


def test_a_business_that_listed_instances_last_time_and_none_now_is_warned_of() -> None:
    empty = {"b-1": (answer(200, body("b-1")),)}
    with FaultServer(businesses=scripts(names(3))) as server:
        first = sync(config(server, names(3)))
    with FaultServer(businesses=scripts(names(3)) | empty) as server:
        second = sync(config(server, names(3)), state=first.state)
        third = sync(config(server, names(3)), state=second.state)
        fresh = sync(config(server, names(3)))
    assert [run.returncode for run in (first, second, third, fresh)] == [0, 0, 0, 0]
    [line] = second.lines("WARNING")
    assert "business b-1: nothing is connected now; the last sync saw some" in line
    assert [run.lines("WARNING") for run in (first, third, fresh)] == [[], [], []]
    assert [row["change_type"] for row in second.records("connection_changes")] == ["disconnected"] * 2


def test_the_same_business_twice_is_refused_before_anything_is_asked() -> None:
    with FaultServer(businesses=scripts(names(2))) as server:
        with pytest.raises(ConfigValidationError, match=r"businesses\[2\].business_id is the same as businesses\[0\]"):
            sync(config(server, ["b-0", "b-1", "b-0"]))
        assert server.requests == []


# --------------------------------------------------------------------------------------------------------- hundreds


def test_three_hundred_businesses_are_a_normal_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: 0.0))
    world = World.seeded(5, businesses=300, instances=2)
    with CodeChat(world) as server:
        run = sync(world.settings(server.url) | {"concurrency": 8})
        assert len(server.requests) == 300
    assert run.returncode == 0
    assert [row["business_id"] for row in run.records("businesses")] == list(world.businesses)
    connected = [[instance["instanceId"] for instance in business.connected] for business in world.businesses.values()]
    assert [row["instance_id"] for row in run.records("instances")] == [name for listed in connected for name in listed]
    progress = [line for line in run.lines("INFO") if " of 300): " in line]
    assert len(progress) == 300
    for number, (line, business) in enumerate(zip(progress, world.businesses, strict=True), 1):
        assert f"business {business} ({number} of 300): {len(connected[number - 1])} instances, " in line
    assert len(run.of("STATE")) == 1  # not one a business, unless it takes longer
    assert [len(bookmark["partitions"]) for bookmark in run.state["bookmarks"].values()] == [300] * 4
    assert json.dumps(run.state).count("token") == 0
