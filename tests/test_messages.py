"""The API's own example comes out as the golden file says: every value, in the right order, once, valid."""

from __future__ import annotations

import contextlib
import io
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from xxhash import xxh3_64_hexdigest

from tap_instances.columns import api_columns
from tap_instances.run import some
from tap_instances.sdk.writer import PAGE
from tap_instances.tap import TapInstances
from tests.kit.checked import BUSINESS, STREAMS, checked, read, settings
from tests.kit.golden import DATA, messages
from tests.kit.support import COUNTS, TOKEN, Run, Unbuffered, discover, run_cli, select, sync

if TYPE_CHECKING:
    from requests_mock import Mocker

    from demo.codechat import CodeChat

GOLDEN = DATA / "messages.jsonl"
PARENTS = {"instances": "businesses", "webhooks": "instances", "webhook_events": "webhooks"}


@pytest.fixture
def run(codechat: CodeChat) -> Run:
    return checked(sync(settings(codechat)))


def test_the_messages_are_the_golden_ones(run: Run) -> None:
    assert messages(run) == GOLDEN.read_text(encoding="utf-8")


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without when it was observed, which differs from run to run."""
    return {name: value for name, value in row.items() if not name.endswith("observed_at")}


@pytest.mark.parametrize("size", [1, 2])
def test_pages_of_any_size_give_the_same_rows_and_the_same_state(
    codechat: CodeChat, run: Run, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tap_instances.run.PAGE", size)
    small = checked(sync(settings(codechat)))
    for stream in STREAMS:
        rows = [[without_times(row) for row in any_run.records(stream)] for any_run in (run, small)]
        assert rows[0] == rows[1] != []
    for stream in ("webhooks", "webhook_events", "connection_changes"):
        states = [any_run.state["bookmarks"][stream]["partitions"][0]["seen"] for any_run in (run, small)]
        assert states[0] == states[1]


def test_a_program_that_catches_stdout_as_text_gets_them_too(codechat: CodeChat) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        TapInstances(config=settings(codechat)).sync_all()
    assert messages(Run(0, out.getvalue(), "")) == GOLDEN.read_text(encoding="utf-8")


def test_an_unbuffered_stdout_that_takes_a_part_at_a_time_gets_them_whole(codechat: CodeChat) -> None:
    with contextlib.redirect_stdout(Unbuffered()) as out:
        TapInstances(config=settings(codechat)).sync_all()
    assert messages(Run(0, out.raw.taken.decode(), "")) == GOLDEN.read_text(encoding="utf-8")


def test_the_process_reads_a_catalog(codechat: CodeChat) -> None:
    run = run_cli(settings(codechat), catalog=select(discover(), "webhooks"))
    assert run.returncode == 0
    assert {message["stream"] for message in run.of("SCHEMA")} == {"webhooks"}
    assert len(run.records("webhooks")) == COUNTS["webhooks"]


def test_the_process_writes_the_golden_messages_too(codechat: CodeChat) -> None:
    run = checked(run_cli(settings(codechat)))
    assert run.returncode == 0
    assert messages(run) == GOLDEN.read_text(encoding="utf-8")


def test_each_level_has_its_count(run: Run) -> None:
    assert {stream: len(run.records(stream)) for stream in STREAMS} == COUNTS


def test_one_request_is_made(codechat: CodeChat, run: Run) -> None:
    assert run.returncode == 0
    assert [request.path for request in codechat.requests] == [f"/api/v2/business/{BUSINESS}/instance/connected"]


@pytest.mark.parametrize("api_url", ["https://codechat.example.com", "https://a.example:8443/base/path/"])
def test_the_server_may_be_anywhere(requests_mock: Mocker, connected: dict[str, Any], api_url: str) -> None:
    address = f"{api_url.rstrip('/')}/api/v2/business/{BUSINESS}/instance/connected"
    requests_mock.get(address, json=connected, request_headers={"Authorization": f"Bearer {TOKEN}"})
    run = checked(sync({"api_url": api_url, "business_id": BUSINESS, "auth_token": TOKEN}))
    assert messages(run) == GOLDEN.read_text(encoding="utf-8")
    assert requests_mock.call_count == 1


def test_each_stream_has_one_schema(run: Run) -> None:
    assert [message["stream"] for message in run.of("SCHEMA")] == list(STREAMS)


def test_an_empty_business_has_every_schema_and_its_own_row() -> None:
    run = read({"businessId": BUSINESS, "name": "new", "Instances": []})
    assert run.returncode == 0
    assert [message["stream"] for message in run.of("SCHEMA")] == list(STREAMS)
    assert [message["stream"] for message in run.of("RECORD")] == ["businesses", "observations"]
    [row] = run.records("observations")
    assert (row["instances"], row["webhooks"], row["previous_observed_at"]) == (0, 0, None)


def test_parents_come_before_their_children(run: Run) -> None:
    order = [message["stream"] for message in run.of("RECORD")]
    for child, parent in PARENTS.items():
        last_parent = len(order) - order[::-1].index(parent)
        assert last_parent <= order.index(child)
    known = {record["instance_id"] for record in run.records("instances")}
    assert {record["instance_id"] for record in run.records("webhooks")} <= known
    webhook_ids = [record["webhook_id"] for record in run.records("webhooks")]
    assert [record["webhook_id"] for record in run.records("webhook_events")] == webhook_ids


def same(value: object, column: object, path: str) -> bool:
    """Tell whether a column says what the body says: times as instants, all else as it is."""
    if path.endswith("At") and isinstance(value, str):
        return datetime.fromisoformat(value.replace("Z", "+00:00")) == datetime.fromisoformat(
            str(column).replace("Z", "+00:00")
        )
    return value == column and type(value) is type(column)


def at(item: dict[str, Any], path: str) -> object:
    """Return the value at a dotted path."""
    value: Any = item
    for key in path.split("."):
        value = value[key]
    return value


def test_every_value_equals_the_bodys(run: Run, connected: dict[str, Any]) -> None:
    instances = connected["Instances"]
    webhooks = [hook for instance in instances for hook in instance["Webhook"]]
    compared = 0
    for stream, items in {
        "businesses": [connected],
        "instances": instances,
        "webhooks": webhooks,
        "webhook_events": [hook["WebhookEvents"] for hook in webhooks],
    }.items():
        for item, record in zip(items, run.records(stream), strict=True):
            for path, column in api_columns(stream).items():
                if not column.secret:
                    assert same(at(item, path), record[column.name], path), (stream, path)
                    compared += 1
            assert record["additional_properties"] is None
    assert compared == 1 + 2 * 14 + 3 * 6 + 3 * 22


def test_children_carry_their_parents_ids(run: Run, connected: dict[str, Any]) -> None:
    owners = {hook["webhookId"]: item["instanceId"] for item in connected["Instances"] for hook in item["Webhook"]}
    for stream in ("webhooks", "webhook_events"):
        assert {record["webhook_id"]: record["instance_id"] for record in run.records(stream)} == owners
    assert {record["business_id"] for record in run.records("instances")} == {BUSINESS}


def test_observed_at_is_the_same_in_all_rows_and_is_when_they_were_extracted(run: Run) -> None:
    observed = {
        record["observed_at"]
        for stream in ("businesses", "instances", "connection_changes", "observations")
        for record in run.records(stream)
    }
    assert observed == {message["time_extracted"] for message in run.of("RECORD")}
    assert len(observed) == 1


def test_the_observation_counts_what_was_listed_and_the_next_one_names_it(codechat: CodeChat, run: Run) -> None:
    [first] = run.records("observations")
    assert (first["business_id"], first["instances"], first["webhooks"]) == (BUSINESS, 2, 3)
    second = checked(sync(settings(codechat), state=run.state))
    [row] = second.records("observations")
    assert (row["instances"], row["webhooks"]) == (2, 3)
    assert row["previous_observed_at"] == first["observed_at"] < row["observed_at"]


def test_at_the_first_sync_each_listed_instance_is_connected_as_of_then(run: Run) -> None:
    [business] = run.records("businesses")
    expected = {"business_id": BUSINESS, "change_type": "connected"}
    expected |= dict.fromkeys(("previous_observed_at", "observed_at"), business["observed_at"])
    ids = [record["instance_id"] for record in run.records("instances")]
    assert run.records("connection_changes") == [{**expected, "instance_id": instance_id} for instance_id in ids]


def test_every_time_is_utc_with_a_z(run: Run) -> None:
    times = [
        value
        for message in run.of("RECORD")
        for name, value in message["record"].items()
        if name.endswith("_at") and value
    ]
    assert len(times) > 20
    assert all(time.endswith("Z") for time in times)


def test_the_state_has_one_partition_a_business_and_none_a_parent(run: Run) -> None:
    bookmarks = run.state["bookmarks"]
    assert set(bookmarks) == {"webhooks", "webhook_events", "connection_changes", "observations"}
    for bookmark in bookmarks.values():
        assert [partition["context"] for partition in bookmark["partitions"]] == [{"business_id": BUSINESS}]


@pytest.mark.parametrize("stream", ["webhooks", "webhook_events"])
def test_a_row_is_remembered_by_the_digest_of_its_json_as_it_was_written(run: Run, stream: str) -> None:
    # Another digest would emit every row again after an update of the tap.
    lines = [line for line in run.stdout.split("\n") if line.startswith(f'{{"type":"RECORD","stream":"{stream}"')]
    rows = [bytes(msgspec.json.decode(line, type=dict[str, msgspec.Raw])["record"]) for line in lines]
    digests = {json.loads(row)["webhook_id"]: xxh3_64_hexdigest(row) for row in rows}
    [partition] = run.state["bookmarks"][stream]["partitions"]
    memories = partition["seen"].values()
    assert {key: digest for memory in memories for key, digest in memory["rows"].items()} == digests
    assert len(digests) == COUNTS[stream]


def test_no_jwt_and_no_token_leaves(codechat: CodeChat, run: Run) -> None:
    assert "eyJ" not in run.stdout + run.stderr
    token = codechat.world.businesses[BUSINESS].token
    assert token not in run.stdout + run.stderr


def test_a_long_list_is_written_a_page_of_instances_at_a_time() -> None:
    items = [{"instanceId": f"i{n}", "Webhook": [{"webhookId": f"w{n}"}]} for n in range(2 * PAGE + 1)]
    run = read({"Instances": items})
    kinds = [message["stream"] for message in run.of("RECORD") if message["stream"] in {"instances", "webhooks"}]
    page = ["instances"] * PAGE + ["webhooks"] * PAGE
    assert kinds == page + page + ["instances", "webhooks"]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["a", "ção"], "a, ção"),
        (["a\nb", "\u202e"], r"a\nb, \u202e"),
        ([str(number) for number in range(20)], ", ".join(map(str, range(20)))),
        ([str(number) for number in range(22)], ", ".join(map(str, range(20))) + " and 2 more"),
    ],
)
def test_names_in_a_line_are_printable_and_not_too_many(names: list[str], line: str) -> None:
    assert some(names) == line
