"""``batch_config``: files hold the rows as mapped and selected, all of them, once, before the STATE that says so."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from demo.codechat import CodeChat, World
from tests.kit.checked import STREAMS, checked, read, settings
from tests.kit.support import Run, discover, run_cli, select, sync

if TYPE_CHECKING:
    from collections.abc import Iterator


def config(folder: Path, size: int = 10_000) -> dict[str, Any]:
    """Return a batch_config that writes into a folder."""
    encoding = {"format": "jsonl", "compression": "gzip"}  # the SDK's batcher writes no other
    return {"encoding": encoding, "storage": {"root": folder.as_uri()}, "batch_size": size}


def batches(run: Run, stream: str) -> list[list[dict[str, Any]]]:
    """Return the rows of each file of a stream, in order; each row is valid against the stream's SCHEMA."""
    result = []
    for message in run.of("BATCH", stream):
        for address in message["manifest"]:
            text = gzip.decompress(Path(address.removeprefix("file://")).read_bytes()).decode()
            result.append([json.loads(line) for line in text.split("\n") if line])
    [schema] = run.of("SCHEMA", stream)
    validator = Draft202012Validator(schema["schema"], format_checker=Draft202012Validator.FORMAT_CHECKER)
    for rows in result:
        for row in rows:
            validator.validate(row)
    return result


def rows(run: Run, stream: str) -> list[dict[str, Any]]:
    return [row for batch in batches(run, stream) for row in batch]


@pytest.fixture
def world() -> Iterator[tuple[World, CodeChat]]:
    """Serve three businesses, the last of them empty, with many webhooks."""
    made = World.seeded(11, businesses=3, instances=12)
    with CodeChat(made) as server:
        yield made, server


def test_batches_hold_what_records_would(tmp_path: Path, connected: dict[str, Any]) -> None:
    connected["Instances"][0]["new"] = {"a": [1, None, "🥖\u2028"]}
    plain = read(connected)
    run = read(connected, batch_config=config(tmp_path))
    assert run.returncode == 0
    assert not run.of("RECORD")
    for stream in STREAMS:
        expected = plain.records(stream)
        got = rows(run, stream)
        for row in (*expected, *got):
            row.pop("observed_at", None)
            row.pop("previous_observed_at", None)
        assert got == expected


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_all_rows_are_sent_once_in_files_of_at_most_the_batch_size(
    tmp_path: Path, world: tuple[World, CodeChat], size: int
) -> None:
    made, server = world
    plain = sync(made.settings(server.url))
    run = checked(sync({**made.settings(server.url), "batch_config": config(tmp_path, size)}))
    assert run.returncode == 0
    for stream, key in (("businesses", "business_id"), ("instances", "instance_id"), ("webhooks", "webhook_id"),
                        ("webhook_events", "webhook_id"), ("connection_changes", "instance_id"),
                        ("observations", "business_id")):  # fmt: skip
        files = batches(run, stream)
        assert all(0 < len(file) <= size for file in files)
        assert [row[key] for file in files for row in file] == [record[key] for record in plain.records(stream)]
    total = sum(len(rows(run, stream)) for stream in STREAMS)
    assert total == len(plain.of("RECORD"))


def test_full_batches_are_of_exactly_the_batch_size(tmp_path: Path, world: tuple[World, CodeChat]) -> None:
    made, server = world
    run = checked(sync({**made.settings(server.url), "batch_config": config(tmp_path, 5)}))
    *full, last = [len(file) for file in batches(run, "webhooks")]
    assert len(full) > 2
    assert set(full) == {5}
    assert last <= 5


def test_the_schema_comes_before_the_batch_and_the_state_after_it(tmp_path: Path, connected: dict[str, Any]) -> None:
    run = read(connected, batch_config=config(tmp_path, 2))
    order = [(message["type"], message.get("stream")) for message in run.messages]
    for stream in STREAMS:
        assert order.index(("SCHEMA", stream)) < order.index(("BATCH", stream))
    assert order[-1] == ("STATE", None)
    assert all(("BATCH", stream) in order for stream in STREAMS)


def test_every_state_comes_after_the_batches_of_what_it_remembers(
    tmp_path: Path, world: tuple[World, CodeChat], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tap_instances.run.STATE_INTERVAL", 0.0)
    made, server = world
    run = checked(sync({**made.settings(server.url), "batch_config": config(tmp_path)}))
    sent: set[str] = set()
    states = 0
    for message in run.messages:
        if message["type"] == "BATCH" and message["stream"] == "webhooks":
            for address in message["manifest"]:
                lines = gzip.decompress(Path(address.removeprefix("file://")).read_bytes()).splitlines()
                sent |= {json.loads(line)["webhook_id"] for line in lines}
        elif message["type"] == "STATE":
            states += 1
            seen = message["value"].get("bookmarks", {}).get("webhooks", {}).get("partitions", [])
            memories = [memory for partition in seen for memory in partition["seen"].values()]
            remembered = {webhook_id for memory in memories for webhook_id in memory["rows"]}
            assert remembered <= sent
    assert states >= 3
    assert len(sent) > 10


def test_a_second_run_writes_only_what_is_new(tmp_path: Path, connected: dict[str, Any]) -> None:
    first = read(connected, batch_config=config(tmp_path))
    connected["Instances"][0]["Webhook"][0]["enabled"] = False
    second = read(connected, batch_config=config(tmp_path), state=first.state)
    assert [row["name"] for row in rows(second, "webhooks")] == ["crm"]
    assert rows(second, "webhook_events") == []
    assert len(rows(second, "instances")) == 2


def test_batches_hold_mapped_and_filtered_rows(tmp_path: Path, connected: dict[str, Any]) -> None:
    maps = {
        "instances": {"whatsapp_remote_jid": "sha256(whatsapp_remote_jid)", "whatsapp_push_name": None},
        "webhooks": {"__alias__": "hooks", "__filter__": "enabled"},
    }
    run = read(connected, batch_config=config(tmp_path), stream_maps=maps)
    assert run.returncode == 0
    assert [len(row["whatsapp_remote_jid"]) for row in rows(run, "instances")] == [64, 64]
    assert all("whatsapp_push_name" not in row for row in rows(run, "instances"))
    assert [row["name"] for row in rows(run, "hooks")] == ["crm", "erp"]
    assert len(rows(run, "webhook_events")) == 2
    assert not run.of("BATCH", "webhooks")
    files = b"".join(gzip.decompress(path.read_bytes()) for path in tmp_path.iterdir())
    assert b"5511987650001" not in files


def test_batches_hold_no_deselected_column(tmp_path: Path, connected: dict[str, Any]) -> None:
    catalog = select(discover(), "instances", "webhooks")
    for entry in catalog["streams"]:
        for metadata in entry["metadata"]:
            if metadata["breadcrumb"] in (["properties", "url"], ["properties", "whatsapp_remote_jid"]):
                metadata["metadata"]["selected"] = False
    run = read(connected, batch_config=config(tmp_path), catalog=catalog)
    assert run.returncode == 0
    assert {message["stream"] for message in run.of("BATCH")} == {"instances", "webhooks"}
    assert all("url" not in row and "name" in row for row in rows(run, "webhooks"))
    assert all("whatsapp_remote_jid" not in row for row in rows(run, "instances"))


def test_batches_hold_no_secret(tmp_path: Path, connected: dict[str, Any]) -> None:
    connected["Instances"][0]["Webhook"][0]["url"] = "https://u:s3cr3t@a.example/?token=s3cr3t"
    run = read(connected, batch_config=config(tmp_path))
    files = b"".join(gzip.decompress(path.read_bytes()) for path in tmp_path.iterdir())
    assert b"u:***@a.example/?token=***" in files
    assert b"s3cr3t" not in files
    assert b"eyJ" not in files
    assert "eyJ" not in run.stdout


def test_nothing_is_activated_with_batches_and_a_warning_says_why(tmp_path: Path, connected: dict[str, Any]) -> None:
    run = read(connected, batch_config=config(tmp_path), emit_activate_version_messages=True)
    assert run.returncode == 0
    assert not run.of("ACTIVATE_VERSION")
    [line] = run.lines("WARNING")
    assert "ACTIVATE_VERSION" in line
    assert "batch_config" in line
    assert run.of("BATCH", "instances")
    assert all("version" not in message for message in run.of("BATCH"))


def test_a_failed_business_sends_no_batch(tmp_path: Path, codechat: CodeChat) -> None:
    run = checked(sync(settings(codechat, auth_token="wrong", batch_config=config(tmp_path))))
    assert run.returncode == 1
    assert not run.of("BATCH")
    assert not list(tmp_path.iterdir())


def test_a_storage_that_cannot_be_written_is_named_and_no_state_is_written(tmp_path: Path, codechat: CodeChat) -> None:
    (tmp_path / "file").touch()
    run = run_cli(settings(codechat, batch_config=config(tmp_path / "file")))
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert "batch_config: a batch cannot be written (" in line
    assert line.endswith("): check its storage")
    assert not run.of("STATE")


def test_a_folder_that_is_not_there_is_made(tmp_path: Path, codechat: CodeChat) -> None:
    run = checked(sync(settings(codechat, batch_config=config(tmp_path / "new" / "folder"))))
    assert run.returncode == 0
    assert len(run.of("BATCH")) == len(STREAMS)
