"""The catalog: what discovery says, and what the tap makes of one that a person wrote or that is of another day."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tap_instances.columns import load_schema
from tests.kit.checked import STREAMS, checked, settings
from tests.kit.golden import DATA, pretty
from tests.kit.support import Run, discover, run_cli, select, sync

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from demo.codechat import CodeChat

KEYS = {stream: load_schema(stream)["required"] for stream in STREAMS}


def streams_of(run: Run, kind: str = "RECORD") -> list[str]:
    """Return the streams that messages of a type are of, each once."""
    return list(dict.fromkeys(message["stream"] for message in run.of(kind)))


def minimal(stream: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what a person would write for a stream."""
    schema = {"type": "object", "properties": load_schema(stream)["properties"]}
    selected = {"breadcrumb": [], "metadata": {"selected": True}}
    return {"tap_stream_id": stream, "stream": stream, "schema": schema, "metadata": [selected], **more}


def test_the_discovered_catalog_is_the_one_of_the_snapshot() -> None:
    assert pretty(discover()) == (DATA / "catalog.json").read_text(encoding="utf-8")


def test_with_secrets_the_catalog_has_one_column_more() -> None:
    catalog = discover(include_secrets=True)
    [instances] = [entry for entry in catalog["streams"] if entry["tap_stream_id"] == "instances"]
    assert instances["schema"]["properties"].pop("auth_jwt")["type"] == ["string", "null"]
    instances["metadata"] = [entry for entry in instances["metadata"] if "auth_jwt" not in entry["breadcrumb"]]
    assert catalog == discover()


def test_discovery_needs_no_settings_and_no_network() -> None:
    run = run_cli(None, "--discover", env={"HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1"})
    assert run.returncode == 0
    assert not run.lines("ERROR")
    assert json.loads(run.stdout) == json.loads((DATA / "catalog.json").read_text(encoding="utf-8"))


def test_discovery_with_wrong_settings_works_too(codechat: CodeChat) -> None:
    run = run_cli(settings(codechat, concurrency=0), "--discover")
    assert run.returncode == 0
    assert json.loads(run.stdout) == json.loads((DATA / "catalog.json").read_text(encoding="utf-8"))
    assert not codechat.requests


@pytest.mark.parametrize("stream", STREAMS)
def test_the_catalog_names_keys_parents_and_replication(stream: str) -> None:
    [entry] = [entry for entry in discover()["streams"] if entry["tap_stream_id"] == stream]
    assert entry["key_properties"] == KEYS[stream]
    replication_key = dict.fromkeys(("webhooks", "webhook_events"), "updated_at")
    replication_key |= dict.fromkeys(("connection_changes", "observations"), "observed_at")
    assert entry.get("replication_key") == replication_key.get(stream)
    assert entry["replication_method"] == ("INCREMENTAL" if stream in replication_key else "FULL_TABLE")
    automatic = {
        m["breadcrumb"][1]
        for m in entry["metadata"]
        if m["metadata"].get("inclusion") == "automatic" and m["breadcrumb"]
    }
    assert set(KEYS[stream]) <= automatic


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_selected_alone_emits_nothing_of_the_others(codechat: CodeChat, stream: str) -> None:
    run = checked(sync(settings(codechat), catalog=select(discover(), stream)))
    assert run.returncode == 0
    assert streams_of(run) == streams_of(run, "SCHEMA") == [stream]
    whole = sync(settings(codechat))
    ids = [key for key in KEYS[stream] if not key.endswith("observed_at")]  # times differ from run to run
    assert [[row[key] for key in ids] for row in run.records(stream)] == [
        [row[key] for key in ids] for row in whole.records(stream)
    ]
    assert len(codechat.requests) == 2


@pytest.mark.parametrize("stream", STREAMS)
def test_a_state_remembers_selected_streams_only(codechat: CodeChat, stream: str) -> None:
    run = sync(settings(codechat), catalog=select(discover(), stream))
    kept = [] if stream in {"businesses", "instances"} else [stream]
    assert list(run.state.get("bookmarks", {})) == kept


def without_metadata(catalog: dict[str, Any]) -> dict[str, Any]:
    """Return the catalog as a person may have cut it: no metadata, so nothing is selected."""
    return {"streams": [{name: entry[name] for name in entry if name != "metadata"} for entry in catalog["streams"]]}


@pytest.mark.parametrize("catalog", [select(discover()), {"streams": []}, without_metadata(discover())])
def test_with_nothing_selected_nothing_is_emitted_and_asked_and_a_warning_says_so(
    codechat: CodeChat, catalog: dict[str, Any]
) -> None:
    run = checked(sync(settings(codechat), catalog=catalog))
    assert run.returncode == 0
    [line] = run.lines("WARNING")
    assert "the catalog selects no stream" in line
    assert streams_of(run) == streams_of(run, "SCHEMA") == []
    assert not codechat.requests


@pytest.mark.parametrize("stream", STREAMS)
def test_a_catalog_by_hand_with_one_stream_and_no_keys_gives_that_stream_with_its_keys(
    codechat: CodeChat, stream: str
) -> None:
    run = checked(sync(settings(codechat), catalog={"streams": [minimal(stream)]}))
    assert run.returncode == 0
    assert streams_of(run) == [stream]
    [schema] = run.of("SCHEMA")
    assert schema["key_properties"] == KEYS[stream]


def test_a_catalog_may_name_a_stream_otherwise_than_its_id(codechat: CodeChat) -> None:
    run = checked(sync(settings(codechat), catalog={"streams": [{**minimal("webhooks"), "stream": "hooks"}]}))
    assert run.returncode == 0
    assert streams_of(run) == ["webhooks"]


def test_a_catalog_can_come_from_stdin(codechat: CodeChat, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(settings(codechat)))
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "tap_instances", "--config", str(config), "--catalog", "-"],
        input=json.dumps({"streams": [minimal("webhooks")]}), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert streams_of(checked(Run(done.returncode, done.stdout, done.stderr))) == ["webhooks"]


def test_key_properties_in_the_metadata_are_taken(codechat: CodeChat) -> None:
    entry = minimal("webhooks")
    entry["metadata"][0]["metadata"]["table-key-properties"] = ["instance_id", "webhook_id"]
    run = checked(sync(settings(codechat), catalog={"streams": [entry]}))
    assert run.of("SCHEMA")[0]["key_properties"] == ["instance_id", "webhook_id"]


@pytest.mark.parametrize(("name", "meant"), [("webhoks", ": did you mean 'webhooks'?"), ("messages", "")])
def test_an_unknown_stream_in_the_catalog_is_ignored_with_a_warning_of_the_one_that_may_be_meant(
    codechat: CodeChat, name: str, meant: str
) -> None:
    unknown = {**minimal("webhooks"), "tap_stream_id": name, "stream": name}
    run = checked(sync(settings(codechat), catalog={"streams": [unknown, minimal("instances")]}))
    assert run.returncode == 0
    assert streams_of(run) == ["instances"]
    [line] = run.lines("WARNING")
    assert line.endswith(f"the catalog's stream {name!r} is not known{meant}")


def test_an_unknown_column_in_the_catalog_emits_nothing_and_breaks_nothing(codechat: CodeChat) -> None:
    entry = minimal("instances")
    entry["schema"] = {"type": "object", "properties": {**entry["schema"]["properties"], "colour": {"type": "string"}}}
    run = checked(sync(settings(codechat), catalog={"streams": [entry]}))
    assert run.returncode == 0
    assert len(run.records("instances")) == 2
    assert all("colour" not in record for record in run.records("instances"))


def test_a_catalog_without_the_newest_column_still_works(codechat: CodeChat) -> None:
    entry = minimal("instances")
    columns = {name: spec for name, spec in entry["schema"]["properties"].items() if name != "additional_properties"}
    entry["schema"] = {"type": "object", "properties": columns}
    run = checked(sync(settings(codechat), catalog={"streams": [entry]}))
    assert run.returncode == 0
    assert all("additional_properties" not in record for record in run.records("instances"))


def test_a_catalog_discovered_with_secrets_gives_none_without_the_setting(codechat: CodeChat) -> None:
    catalog = discover(include_secrets=True)
    for entry in catalog["streams"]:
        for metadata in entry["metadata"]:
            metadata["metadata"]["selected"] = True
    run = checked(sync(settings(codechat), catalog=catalog))
    assert run.returncode == 0
    assert "auth_jwt" not in run.stdout
    assert "eyJ" not in run.stdout + run.stderr
    assert "auth_id" in run.records("instances")[0]


def test_a_catalog_discovered_without_secrets_gives_none_with_the_setting(codechat: CodeChat) -> None:
    run = checked(sync(settings(codechat, include_secrets=True), catalog=discover()))
    assert run.returncode == 0
    assert "auth_jwt" not in run.stdout


def test_a_key_that_is_deselected_leaves_nevertheless(codechat: CodeChat) -> None:
    catalog = discover()
    for entry in catalog["streams"]:
        for metadata in entry["metadata"]:
            if metadata["breadcrumb"]:
                metadata["metadata"]["selected"] = False
    run = checked(sync(settings(codechat), catalog=catalog))
    assert run.returncode == 0
    for stream in STREAMS:
        assert run.records(stream)
        assert all(set(KEYS[stream]) <= set(record) for record in run.records(stream))
    assert set(run.records("instances")[0]) == {"instance_id"}


def without_key_column(entry: dict[str, Any]) -> None:
    """Misspell the key in the schema."""
    entry["schema"]["properties"]["webhook_idd"] = entry["schema"]["properties"].pop("webhook_id")


def with_deselected_key(entry: dict[str, Any]) -> None:
    """Deselect the key, as if it were any column."""
    for part in entry["metadata"]:
        if part["breadcrumb"] == ["properties", "webhook_id"]:
            part["metadata"] = {"inclusion": "available", "selected": False}


def without_columns(entry: dict[str, Any]) -> None:
    """Leave the schema empty."""
    entry["schema"] = {}


@pytest.mark.parametrize("change", [without_key_column, with_deselected_key, without_columns])
def test_key_columns_leave_and_stand_in_the_schema_whatever_a_catalog_says(
    codechat: CodeChat, change: Callable[[dict[str, Any]], None]
) -> None:
    catalog = discover()
    for entry in catalog["streams"]:
        if entry["tap_stream_id"] == "webhooks":
            change(entry)
    run = checked(sync(settings(codechat), catalog=catalog))
    assert run.returncode == 0
    [schema] = run.of("SCHEMA", "webhooks")
    assert schema["key_properties"] == ["webhook_id"]
    assert schema["schema"]["properties"]["webhook_id"]["type"] == "string"
    assert all(row["webhook_id"] for row in run.records("webhooks"))
    assert len(run.records("webhooks")) == 3


@pytest.mark.parametrize("keys", ["webhook_id", ["nope"], ["webhook_id", "nope"]])
def test_keys_of_a_catalog_that_are_not_columns_are_ignored_with_a_warning(codechat: CodeChat, keys: Any) -> None:  # noqa: ANN401
    catalog = discover()
    for entry in catalog["streams"]:
        if entry["tap_stream_id"] == "webhooks":
            entry["key_properties"] = keys
    run = sync(settings(codechat), catalog=catalog)
    [schema] = run.of("SCHEMA", "webhooks")
    assert (run.returncode, schema["key_properties"]) == (0, ["webhook_id"])
    assert "the catalog's keys of webhooks are not columns of it" in run.stderr
