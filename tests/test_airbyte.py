"""The tap as a source for Airbyte: each message is held to the models of Airbyte's protocol as it is read."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from copy import deepcopy
from datetime import datetime, timedelta
from importlib.metadata import distribution
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import duckdb
import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.codechat import CodeChat, World
from source_codechat_instances.messages import CURSOR, AirbyteWriter
from tap_instances import responses
from tap_instances.settings import SETTINGS
from tap_instances.tap import TapInstances
from tests.kit.airbyte import (
    COMMAND,
    INTEGRATION_TESTS,
    Output,
    airbyte,
    airbyte_cli,
    arguments,
    check_message,
    configured,
    discovered,
    integration_tests,
    read,
    timeless,
    world,
)
from tests.kit.faults import BUSINESS, TOKEN, FaultServer, answer, echo, stall
from tests.kit.faults import settings as settings_of
from tests.kit.support import Unbuffered
from tests.kit.wire import Wire, instance, webhook
from tools.docs import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kit.faults import Connection

STREAMS = TapInstances(config={}, validate_config=False).discover_streams()
NAMES = [stream.name for stream in STREAMS]
HISTORIES = {"connection_changes", "observations"} & set(NAMES)
SECRET = {"auth_token", "admin_token", "value"}  # the texts of the spec that are secrets
LATE = 30  # seconds after which a process hangs


@pytest.fixture
def server() -> Iterator[CodeChat]:
    """Serve a world of three businesses."""
    with CodeChat(World.seeded(7)) as running:
        yield running


@pytest.fixture
def config(server: CodeChat) -> dict[str, Any]:
    """Give the settings that read it."""
    return server.world.settings(server.url) | {"max_retries": 0}


def form() -> dict[str, Any]:
    """Return the spec's properties."""
    properties: dict[str, Any] = airbyte("spec").of("SPEC")[0]["connectionSpecification"]["properties"]
    return properties


def leaves(properties: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give every property that holds no others, at any depth."""
    for name, schema in properties.items():
        inner = schema.get("items", schema).get("properties")
        if inner:
            yield from leaves(inner)
        else:
            yield name, schema


# -------------------------------------------------------------------------------------------------------------- spec


def test_the_spec_is_the_declared_settings_but_the_path_and_those_of_every_tap() -> None:
    left_out = {"businesses_file", "emit_activate_version_messages", "batch_config", "stream_maps"}
    left_out |= {"stream_map_config", "faker_config", *(name for name in SETTINGS["properties"] if "flatten" in name)}
    assert list(form()) == [name for name in SETTINGS["properties"] if name not in left_out]
    for name, field in form().items():
        assert field["title"] == SETTINGS["properties"][name]["title"]
        assert field.get("default") == SETTINGS["properties"][name].get("default")
    assert [field["order"] for field in form().values()] == list(range(len(form())))


def test_the_spec_marks_secrets_and_nothing_else() -> None:
    fields = dict(leaves(form()))
    assert {name for name, schema in fields.items() if schema.get("airbyte_secret")} == SECRET & fields.keys()


def test_no_field_of_the_spec_has_two_types() -> None:
    assert all(isinstance(schema["type"], str) for _, schema in leaves(form()))


def test_the_spec_speaks_of_nothing_that_a_form_does_not_have() -> None:
    text = json.dumps(form())
    assert [word for word in ("businesses_file", "environment", "an object of") if word in text] == []


def test_a_client_that_checks_settings_by_the_spec_has_no_secret_to_quote() -> None:
    assert [name for name, schema in leaves(form()) if schema.keys() & {"pattern", "format", "minLength", "enum"}] == []


# ---------------------------------------------------------------------------------------------------------- discover


def test_every_stream_has_its_key_and_the_cursor_that_the_source_adds(config: dict[str, Any]) -> None:
    streams = discovered(config)
    assert list(streams) == NAMES
    for stream in STREAMS:
        found = streams[stream.name]
        assert found["source_defined_cursor"] is True
        assert found["default_cursor_field"] == [CURSOR]
        assert found["source_defined_primary_key"] == [[key] for key in stream.primary_keys]


def test_all_streams_are_incremental_and_all_but_the_histories_can_be_replaced(config: dict[str, Any]) -> None:
    for name, stream in discovered(config).items():
        modes = {"incremental"} if name in HISTORIES else {"incremental", "full_refresh"}
        assert set(stream["supported_sync_modes"]) == modes


def test_times_are_declared_with_their_zone(config: dict[str, Any]) -> None:
    for stream in discovered(config).values():
        columns = stream["json_schema"]["properties"]
        assert columns[CURSOR]["type"] == "string"
        for column in columns.values():
            is_time = column.get("format") == "date-time"
            assert (column.get("airbyte_type") == "timestamp_with_timezone") == is_time


def test_a_token_of_whatsapp_is_a_column_only_with_include_secrets(config: dict[str, Any]) -> None:
    columns = [
        discovered(config | {"include_secrets": on})["instances"]["json_schema"]["properties"] for on in (True, False)
    ]
    assert columns[0].keys() - columns[1].keys() == {"auth_jwt"}
    assert read(config | {"include_secrets": True}, "instances").records("instances")[0]["auth_jwt"]


# ------------------------------------------------------------------------------------------------------------- check


def test_check_succeeds_when_every_business_answers(config: dict[str, Any], server: CodeChat) -> None:
    output = airbyte("check", config=config)
    assert (output.returncode, output.of("CONNECTION_STATUS")) == (0, [{"status": "SUCCEEDED"}])
    assert len(server.requests) == len(config["businesses"])
    assert not [*output.of("RECORD"), *output.of("STATE"), *output.of("TRACE")]


def test_check_names_the_businesses_that_fail(config: dict[str, Any]) -> None:
    config["businesses"][1]["auth_token"] = "not-the-token-of-this-business"
    output = airbyte("check", config=config)
    [status] = output.of("CONNECTION_STATUS")
    assert (output.returncode, status["status"]) == (0, "FAILED")
    assert status["message"].startswith(f"business {config['businesses'][1]['business_id']}: 401 Unauthorized")
    assert config["businesses"][0]["business_id"] not in status["message"]
    assert "not-the-token" not in output.stdout


def test_check_names_twenty_and_counts_the_rest(config: dict[str, Any]) -> None:
    config["businesses"] = [{"business_id": f"b-{number}", "auth_token": "a-token"} for number in range(25)]
    [status] = airbyte("check", config=config).of("CONNECTION_STATUS")
    assert status["message"].startswith("25 businesses failed: business b-0: ")
    assert status["message"].endswith("; and 5 more")
    assert status["message"].count("business b-") == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"api_url": None}, "api_url is missing"),
        ({"api_url": 5}, "api_url must be of type string"),
        ({"businesses": []}, "businesses"),
        ({"headers": {"a": "b"}}, "headers must be a list of {name, value}"),
        ({"headers": [{"name": "a"}]}, "headers must be a list of {name, value}"),
        ({"headers": [{"name": "a", "value": "b"}] * 2}, "headers has a name twice"),
        ({"stream_maps": {}}, "stream_maps is a setting of the Singer tap"),
        ({"businesses_file": "b.json"}, "businesses_file is a setting of the Singer tap"),
    ],
)
def test_wrong_settings_fail_the_check_by_name(config: dict[str, Any], change: dict[str, Any], message: str) -> None:
    output = airbyte("check", config=config | change)
    [status] = output.of("CONNECTION_STATUS")
    assert (output.returncode, status["status"]) == (0, "FAILED")
    assert message in status["message"]


# -------------------------------------------------------------------------------------------------------------- read


def test_a_read_gives_every_row_with_its_cursor(config: dict[str, Any], server: CodeChat) -> None:
    output = read(config)
    assert output.returncode == 0
    listed = [i for business in server.world.businesses.values() for i in business.connected]
    assert {row["instance_id"] for row in output.records("instances")} == {i["instanceId"] for i in listed}
    assert len(output.records("webhooks")) == sum(len(i["Webhook"]) for i in listed)
    observed_at = {row["business_id"]: row["observed_at"] for row in output.records("businesses")}
    assert len(observed_at) == 3
    for row in [row for name in ("businesses", "instances", "connection_changes") for row in output.records(name)]:
        assert row[CURSOR] == observed_at[row["business_id"]]
    for name in NAMES:
        assert all(isinstance(row[CURSOR], str) for row in output.records(name))


def test_a_stream_is_started_running_and_complete(config: dict[str, Any]) -> None:
    first = read(config)
    assert first.statuses == {name: ["STARTED", "RUNNING", "COMPLETE"] for name in NAMES}
    second = read(config, state=first.state)
    assert second.statuses["webhooks"] == ["STARTED", "COMPLETE"]  # nothing has changed


def test_every_stream_has_a_state_that_counts_its_records(config: dict[str, Any]) -> None:
    output = read(config)
    counted = dict.fromkeys(NAMES, 0)
    for state in output.of("STATE"):
        assert state["type"] == "STREAM"
        counted[state["stream"]["stream_descriptor"]["name"]] += state["sourceStats"]["recordCount"]
    assert counted == {name: len(output.records(name)) for name in NAMES}
    assert [state["stream"]["stream_descriptor"]["name"] for state in output.state] == NAMES


def test_times_of_emission_are_in_milliseconds(config: dict[str, Any]) -> None:
    before = int(time.time() * 1000)
    output = read(config)
    moments = [body["emitted_at"] for kind in ("RECORD", "TRACE") for body in output.of(kind)]
    assert before <= min(moments) <= max(moments) <= int(time.time() * 1000)


def test_states_follow_the_records_they_count(config: dict[str, Any]) -> None:
    kinds = [message["type"] for message in read(config).messages if message["type"] in {"RECORD", "STATE"}]
    assert kinds.index("RECORD") < kinds.index("STATE") or kinds.count("STATE") > len(NAMES)
    assert kinds[-len(NAMES) :] == ["STATE"] * len(NAMES)


def test_a_resumed_read_gives_what_changed(config: dict[str, Any], server: CodeChat) -> None:
    first = read(config)
    unchanged = read(config, state=first.state)
    assert [unchanged.records(name) for name in ("webhooks", "webhook_events", "connection_changes")] == [[], [], []]
    assert len(unchanged.records("instances")) == len(first.records("instances"))
    server.world.step()
    changed = read(config, state=unchanged.state)
    assert 0 < len(changed.records("webhooks")) < len(first.records("webhooks"))
    assert any(row["deleted_at"] for row in changed.records("webhooks"))
    kinds = {row["change_type"] for row in changed.records("connection_changes")}
    assert kinds == {"connected", "disconnected"}


@pytest.mark.parametrize(
    "names", [("webhook_events",), ("connection_changes", "businesses"), ("webhooks", "instances")]
)
def test_streams_can_be_read_alone_and_in_any_order(config: dict[str, Any], names: tuple[str, ...]) -> None:
    every, some = read(config), read(config, *names)
    assert some.returncode == 0
    assert list(some.statuses) == list(names)
    assert {record["stream"] for record in some.of("RECORD")} == set(names)
    assert {state["stream"]["stream_descriptor"]["name"] for state in some.of("STATE")} == set(names)
    for name in names:
        assert len(some.records(name)) == len(every.records(name))


def test_a_catalog_without_streams_reads_nothing(config: dict[str, Any]) -> None:
    output = airbyte("read", config=config, catalog={"streams": []})
    assert (output.returncode, output.of("RECORD"), output.of("STATE")) == (0, [], [])


def test_a_full_refresh_does_not_look_at_the_state(config: dict[str, Any]) -> None:
    first = read(config)
    again = read(config, state=first.state, webhooks="full_refresh", instances="full_refresh")
    assert len(again.records("webhooks")) == len(first.records("webhooks"))
    assert again.records("webhook_events") == []
    assert read(config, state=again.state).records("webhooks") == []


def test_a_history_that_is_to_be_replaced_is_warned_of(config: dict[str, Any]) -> None:
    output = read(config, "connection_changes", connection_changes="full_refresh")
    assert output.returncode == 0
    [warning] = [line for line in output.log("WARN") if "full_refresh" in line]
    assert warning.startswith("connection_changes ")


def test_columns_that_the_configured_catalog_lacks_are_left_out(config: dict[str, Any]) -> None:
    streams = deepcopy(discovered(config))
    columns = streams["instances"]["json_schema"]["properties"]
    for name in ("whatsapp_push_name", "whatsapp_remote_jid", "instance_id"):  # a key always comes
        del columns[name]
    output = airbyte("read", config=config, catalog=configured(streams, "instances"))
    for row in output.records("instances"):
        assert row.keys() == {*columns, "instance_id"}


def test_without_columns_in_the_configured_catalog_all_are_emitted(config: dict[str, Any]) -> None:
    streams = deepcopy(discovered(config))
    streams["businesses"]["json_schema"] = {}
    output = airbyte("read", config=config, catalog=configured(streams, "businesses"))
    assert {"name", "observed_at"} <= output.records("businesses")[0].keys()


def test_headers_are_sent_as_they_are_listed(config: dict[str, Any], server: CodeChat) -> None:
    pairs = [{"name": "apikey", "value": "not-a-real-key-of-a-gateway"}, {"name": "X-Two", "value": "2"}]
    output = airbyte("check", config=config | {"headers": pairs})
    assert output.of("CONNECTION_STATUS") == [{"status": "SUCCEEDED"}]
    for request in server.requests:
        assert (request.headers["apikey"], request.headers["x-two"]) == ("not-a-real-key-of-a-gateway", "2")
    assert "not-a-real-key" not in output.stdout


# ---------------------------------------------------------------------------------- what destinations make of two reads

# A destination keeps, of each key, the row with the highest cursor, nulls last; of equal ones the one emitted last.
DEDUPLICATED = """
    select * exclude (position) from (
        select *, row_number() over (partition by {keys} order by {cursor} desc nulls last, position desc) as place
        from (select *, row_number() over () as position from read_json_auto('{file}'))
    ) where place = 1
"""


def kept(folder: Path, name: str, keys: tuple[str, ...], *outputs: Output) -> list[dict[str, Any]]:
    """Return what a destination keeps of a stream after these reads, by SQL."""
    file = folder / f"{name}.jsonl"
    rows = [row for output in outputs for row in output.records(name)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    relation = duckdb.sql(DEDUPLICATED.format(keys=", ".join(keys), cursor=CURSOR, file=file))
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def test_a_destination_that_keeps_the_highest_cursor_keeps_what_is_true(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wire = Wire(monkeypatch, b=[instance("i", webhook("edited"), webhook("deleted"), webhook("stays"))])
    first = read(wire.config())
    # An edit whose time lies before that of the row it replaces, and a deletion, whose row has no updated_at.
    wire.answers["b"] = [
        instance("i", webhook("edited", "2024-01-01T00:00:00.000Z", name="new name"), webhook("stays"), name="renamed")
    ]
    second = read(wire.config(), state=first.state)
    rows = {row["webhook_id"]: row for row in kept(tmp_path, "webhooks", ("webhook_id",), first, second)}
    assert rows["edited"]["name"] == "new name"
    assert rows["deleted"]["deleted_at"] is not None
    assert rows["stays"]["deleted_at"] is None
    assert len(rows) == 3
    [row] = kept(tmp_path, "instances", ("instance_id",), first, second)
    assert row["name"] == "renamed"


@pytest.mark.parametrize("streams", [("instances", "webhooks"), ("webhooks",)])
def test_a_clock_that_is_set_back_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, streams: tuple[str, ...]
) -> None:
    ahead = SimpleNamespace(now=lambda zone: datetime.now(zone) + timedelta(hours=5))
    lists = {"first": ("edited", "deleted"), "second": ("edited",), "third": ("edited", "new"), "fourth": ("edited",)}
    items = [instance("i", *(webhook(hook, name=name) for hook in hooks), name=name) for name, hooks in lists.items()]
    state: list[dict[str, Any]] | None = None
    outputs = []
    with FaultServer(*(answer(200, {"Instances": [item]}) for item in items)) as server:
        for clock in (ahead, datetime, datetime, datetime):
            monkeypatch.setattr(responses, "datetime", clock)
            outputs.append(read(settings_of(server.url), *streams, state=state))
            state = outputs[-1].state
    rows = {row["webhook_id"]: row for row in kept(tmp_path, "webhooks", ("webhook_id",), *outputs)}
    assert (rows["edited"]["name"], rows["edited"]["deleted_at"]) == ("fourth", None)
    assert [rows[gone]["deleted_at"] is None for gone in ("deleted", "new")] == [False, False]
    if "instances" in streams:
        [row] = kept(tmp_path, "instances", ("instance_id",), *outputs)
        assert row["name"] == "fourth"


def test_the_state_holds_the_latest_cursor_whichever_answer_came_last() -> None:
    def late(connection: Connection) -> None:
        connection.wait(0.2)
        answer(200, {"Instances": []})(connection)

    with FaultServer(businesses={"b-1": [late], "b-2": [answer(200, {"Instances": []})]}) as server:
        businesses = [{"business_id": name, "auth_token": TOKEN} for name in ("b-1", "b-2")]
        output = read({"api_url": server.url, "businesses": businesses}, "businesses")
    late_one, early_one = (row[CURSOR] for row in output.records("businesses"))
    [state] = output.state
    assert early_one < late_one == state["stream"]["stream_state"]["observed_at"]


def test_a_cursor_after_which_there_is_none_is_not_gone_on_from(config: dict[str, Any]) -> None:
    first = read(config, "businesses")
    first.state[0]["stream"]["stream_state"]["observed_at"] = "9999-12-31T23:59:59.999999Z"
    assert read(config, "businesses", state=first.state).returncode == 0


def test_a_webhook_that_moves_to_a_business_whose_answer_came_first_is_not_deleted(tmp_path: Path) -> None:
    def late(connection: Connection) -> None:
        connection.wait(0.2)
        answer(200, {"Instances": [instance("i-1")]})(connection)

    moved = webhook("w")
    lists = {
        "b-1": [answer(200, {"Instances": [instance("i-1", moved)]}), late],
        "b-2": [answer(200, {"Instances": [instance("i-2", *hooks)]}) for hooks in ((), (moved,))],
    }
    with FaultServer(businesses=lists) as server:
        businesses = [{"business_id": name, "auth_token": TOKEN} for name in lists]
        config = {"api_url": server.url, "businesses": businesses}
        first = read(config)
        second = read(config, state=first.state)
    for stream in ("webhooks", "webhook_events"):
        [row] = kept(tmp_path, stream, ("webhook_id",), first, second)
        assert (row["instance_id"], row["deleted_at"]) == ("i-2", None)
        cursors = [row[CURSOR] for row in second.records(stream)]
        assert cursors == sorted(set(cursors))


def test_states_within_a_sync_begin_with_the_given_one(
    config: dict[str, Any], server: CodeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read(config)
    monkeypatch.setattr("tap_instances.run.STATE_INTERVAL", -1.0)
    server.world.step()
    second = read(config, state=first.state)
    assert second.returncode == 0
    [given, *others] = [
        state["stream"]["stream_state"]
        for state in second.of("STATE")
        if state["stream"]["stream_descriptor"]["name"] == "webhooks"
    ]
    [former] = [each for each in first.state if each["stream"]["stream_descriptor"]["name"] == "webhooks"]
    assert given == former["stream"]["stream_state"]
    assert [CURSOR in state for state in others] == [True] * (len(config["businesses"]) + 1)


# ---------------------------------------------------------------------------------------------------------- failures


def test_a_failed_business_leaves_the_others_records_and_states(config: dict[str, Any], server: CodeChat) -> None:
    whole = read(config)
    failing = config["businesses"][0]["business_id"]
    config["businesses"][0]["auth_token"] = "not-the-token-of-this-business"
    server.world.step()
    output = read(config, state=whole.state)
    assert output.returncode == 1
    assert failing not in {row["business_id"] for row in output.records("businesses")}
    assert len(output.records("businesses")) == len(config["businesses"]) - 1
    assert {statuses[-1] for statuses in output.statuses.values()} == {"INCOMPLETE"}
    [error] = output.errors
    assert error["failure_type"] == "config_error"
    assert error["message"].startswith(f"business {failing}: 401 Unauthorized")
    assert "not-the-token" not in output.stdout
    # From here on: the one that failed gives what it missed, the others nothing twice.
    config["businesses"][0]["auth_token"] = server.world.businesses[failing].token
    later = read(config, state=output.state)
    assert later.returncode == 0
    assert {row["business_id"] for row in later.records("connection_changes")} == {failing}


@pytest.mark.parametrize(
    ("status", "failure_type"),
    [
        (401, "config_error"),
        (403, "config_error"),
        (404, "config_error"),
        (503, "transient_error"),
        (429, "transient_error"),
    ],
)
def test_the_kind_of_a_failure_says_whether_waiting_helps(status: int, failure_type: str) -> None:
    with FaultServer(answer(status, {"message": "no"})) as server:
        output = read(settings_of(server.url, max_retries=0), "instances")
    [error] = output.errors
    assert (output.returncode, error["failure_type"]) == (1, failure_type)
    assert error["message"].startswith(f"business {BUSINESS}: {status} ")


def test_one_failure_that_needs_a_person_makes_it_a_config_error() -> None:
    businesses = [{"business_id": name, "auth_token": TOKEN} for name in ("b-1", "b-2")]
    acts = {"b-1": [answer(503, b"")], "b-2": [answer(401, b"")]}
    with FaultServer(businesses=acts) as server:
        config = {"api_url": server.url, "businesses": businesses, "max_retries": 0}
        [error] = read(config, "instances").errors
    assert error["failure_type"] == "config_error"
    assert error["message"].startswith("2 businesses failed: business b-1: 503")


def test_a_row_without_a_key_makes_the_read_incomplete_and_the_check_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch, b=[instance("i"), {"name": "no id"}])
    output = read(wire.config())
    assert output.returncode == 1
    assert [row["instance_id"] for row in output.records("instances")] == ["i"]
    [error] = output.errors
    assert error["failure_type"] == "system_error"
    assert output.statuses["instances"][-1] == "INCOMPLETE"
    [status] = airbyte("check", config=wire.config()).of("CONNECTION_STATUS")
    assert status == {"status": "FAILED", "message": error["message"]}


def test_a_retry_and_its_wait_are_seen(config: dict[str, Any]) -> None:
    del config
    with FaultServer(answer(503, b""), answer()) as server:
        output = read(settings_of(server.url), "businesses")
    assert output.returncode == 0
    [line] = [line for line in output.log("WARN") if "503" in line]
    assert "try 2 of 3 in" in line


def test_log_lines_are_messages_of_their_level(config: dict[str, Any]) -> None:
    config["businesses"][0]["auth_token"] = "not-the-token-of-this-business"
    output = read(config)
    assert any("instances, " in line for line in output.log("INFO"))
    assert any("401" in line for line in output.log("ERROR"))


@pytest.mark.parametrize("command", ["check", "read"])
def test_a_token_that_the_server_echoes_is_in_no_message(command: str) -> None:
    with FaultServer(echo(401)) as server:
        config = settings_of(server.url)
        inputs = {"catalog": configured(discovered(config))} if command == "read" else {}
        output = airbyte(command, config=config, **inputs)
    assert TOKEN not in output.stdout
    assert "401" in output.stdout


@pytest.mark.parametrize(("status", "failure_type"), [(401, "config_error"), (503, "transient_error")])
def test_a_list_of_businesses_that_cannot_be_read_is_the_error(status: int, failure_type: str) -> None:
    token = "not-a-real-admin-token"
    with FaultServer(answer(status, {"message": f"no: {token}"})) as server:
        config = {"api_url": server.url, "admin_token": token, "max_retries": 0}
        checked, output = airbyte("check", config=config), read(config, "instances")
    [error] = output.errors
    assert (output.returncode, error["failure_type"]) == (1, failure_type)
    assert error["message"].startswith(f"the list of businesses: {status} ")
    assert checked.of("CONNECTION_STATUS") == [{"status": "FAILED", "message": error["message"]}]
    assert output.statuses["instances"] == ["STARTED", "INCOMPLETE"]
    assert token not in output.stdout + checked.stdout


def test_a_business_that_fails_unexpectedly_says_so_without_a_traceback(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = config["businesses"][0]["auth_token"]

    def broken(_: object) -> None:
        raise KeyError(f"a bug that shows {token}")

    monkeypatch.setattr("tap_instances.tap.TapInstances.sync_all", broken)
    output = read(config)
    [error] = output.errors
    assert error["failure_type"] == "system_error"
    assert "unexpected KeyError" in error["message"]
    assert "please report it" in error["message"]
    assert token not in output.stdout
    assert "Traceback" not in output.stdout
    assert {statuses[-1] for statuses in output.statuses.values()} == {"INCOMPLETE"}


# ------------------------------------------------------------------------------------------------------------ inputs

STATE = {"type": "STREAM", "stream": {"stream_descriptor": {"name": "webhooks"}, "stream_state": {}}}
SECRET_TEXT = "not-a-real-token-in-a-bad-file"  # must not be shown


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"config": SECRET_TEXT.encode()}, "the file of --config is not a JSON object with the settings"),
        ({"config": [SECRET_TEXT]}, "the file of --config is not a JSON object with the settings"),
        ({"config": b"\xff\xfe"}, "the file of --config"),
        ({"config": {"auth_token": [SECRET_TEXT]}}, "api_url is missing"),
        ({"catalog": b"{"}, "the file of --catalog is not a configured catalog"),
        ({"catalog": {"streams": [{"stream": {}}]}}, "the file of --catalog is not a configured catalog"),
        ({"catalog": {"streams": [{"stream": {"name": "x"}, "sync_mode": "INVALID"}]}}, "is not a configured catalog"),
        (
            {"catalog": {"streams": [{"stream": {"name": "x"}, "sync_mode": "incremental"}]}},
            "stream 'x' of the catalog",
        ),
        (
            {"catalog": {"streams": [{"stream": {"name": "instances"}, "sync_mode": "incremental"}] * 2}},
            "a stream stands twice in the catalog",
        ),
        ({"state": b"no JSON"}, "the file of --state is not JSON with a list of states"),
        ({"state": b"[" * 100_000}, "the file of --state is not JSON with a list of states"),
    ],
)
def test_a_bad_file_is_one_error_with_what_to_do(config: dict[str, Any], inputs: dict[str, Any], message: str) -> None:
    output = airbyte("read", **({"config": config, "catalog": {"streams": []}} | inputs))
    [error] = output.errors
    assert (output.returncode, error["failure_type"]) == (1, "config_error")
    assert message in error["message"]
    assert SECRET_TEXT not in output.stdout
    assert output.of("RECORD") == []


NULL = {"type": "STREAM", "stream": {"stream_descriptor": {"name": "webhooks"}, "stream_state": None}}
COUNTED = STATE | {"sourceStats": {"recordCount": 2.0}}


@pytest.mark.parametrize("state", [[], {}, {"webhooks": None}, [STATE], [NULL], [COUNTED]])
def test_an_empty_state_is_none(config: dict[str, Any], state: Any) -> None:  # noqa: ANN401
    output = airbyte("read", config=config, catalog=configured(discovered(config)), state=state)
    assert (output.returncode, output.log("WARN")) == (0, [])
    assert output.records("webhooks")


def test_a_state_that_the_tap_does_not_understand_is_warned_of_and_read_anew(config: dict[str, Any]) -> None:
    state = deepcopy(STATE)
    state["stream"]["stream_state"] = {"partitions": [{"from": "elsewhere"}]}  # type: ignore[index]
    output = read(config, "webhooks", state=[state])
    assert output.returncode == 0
    assert output.records("webhooks")
    assert output.log("WARN")


@pytest.mark.parametrize(
    "state",
    [
        [STATE | {"type": "GLOBAL"}],
        STATE | {"type": "LEGACY", "data": {}},
        {"webhooks": SECRET_TEXT},
        [{"type": "STREAM", "stream": SECRET_TEXT}],
        [None],
    ],
)
def test_a_state_of_another_shape_is_warned_of_and_read_anew(config: dict[str, Any], state: Any) -> None:  # noqa: ANN401
    output = read(config, "webhooks", state=state)
    assert output.returncode == 0
    assert output.records("webhooks")
    assert "synced in full" in output.log("WARN")[0]
    assert SECRET_TEXT not in output.stdout


def test_a_state_of_another_shape_does_not_touch_the_others(config: dict[str, Any]) -> None:
    first = read(config)
    again = read(config, state=[*first.state, STATE | {"type": "LEGACY"}])
    assert (again.records("webhooks"), len(again.log("WARN"))) == ([], 1)


def test_a_state_in_several_lines_is_given_back_in_one(config: dict[str, Any]) -> None:
    first = read(config)
    failing = config | {"businesses": [{**entry, "auth_token": "wrong"} for entry in config["businesses"]]}
    text = json.dumps(first.state, indent=2).encode()
    catalog = configured(discovered(config))
    for settings_now in (config, failing):
        output = airbyte("read", config=settings_now, catalog=catalog, state=text)
        assert [state["stream"]["stream_descriptor"]["name"] for state in output.state] == NAMES
    for before, after in zip(first.state, output.state, strict=True):
        assert before["stream"] == after["stream"]


def test_an_empty_list_of_a_form_is_not_set(config: dict[str, Any]) -> None:
    one = {"api_url": config["api_url"], **config["businesses"][0]}
    output = airbyte("check", config=one | {"businesses": [], "headers": []})
    assert output.of("CONNECTION_STATUS")[0]["status"] == "SUCCEEDED"


def test_a_state_of_a_stream_that_is_no_more_is_left_alone(config: dict[str, Any]) -> None:
    state = deepcopy(STATE)
    state["stream"]["stream_descriptor"] = {"name": "of an old version"}  # type: ignore[index]
    assert read(config, "webhooks", state=[state]).returncode == 0


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("write",),
        ("check",),
        ("discover", "--confi", "x"),
        ("read", "--config", "x"),
        ("spec", SECRET_TEXT),
        ("check", "--config", f"/{SECRET_TEXT}"),
    ],
)
def test_wrong_arguments_are_one_error(args: tuple[str, ...]) -> None:
    output = airbyte_cli(*args)
    assert output.stderr == ""
    assert SECRET_TEXT not in output.stdout
    if args[:2] == ("check", "--config"):
        assert output.of("CONNECTION_STATUS")[0]["status"] == "FAILED"
    else:
        [error] = output.errors
        assert (output.returncode, error["failure_type"]) == (1, "config_error")
        assert error["message"].startswith("the arguments must be one of: spec; check --config FILE;")


def test_settings_of_the_environment_are_the_taps_not_airbytes(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAP_INSTANCES_API_URL", "http://127.0.0.1:1")
    assert airbyte("check", config=config).of("CONNECTION_STATUS") == [{"status": "SUCCEEDED"}]


# ----------------------------------------------------------------------------------------------------------- process


def test_the_tap_knows_nothing_of_this_source() -> None:
    modules = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tap_instances").rglob("*.py")}
    assert modules
    assert [path.name for path, text in modules.items() if "source_codechat_instances" in text] == []


def test_the_installed_command_writes_messages_to_stdout_and_nothing_to_stderr(config: dict[str, Any]) -> None:
    command = Path(sys.executable).parent / "source-codechat-instances"
    with arguments("discover", config=config) as made:
        done = subprocess.run([command, *made], capture_output=True, timeout=LATE, check=False)  # noqa: S603
    output = Output(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert (output.returncode, output.stderr) == (0, "")
    assert list(output.streams) == NAMES


@pytest.mark.parametrize(("command", "code"), [("check", -signal.SIGTERM), ("read", 128 + signal.SIGTERM)])
def test_sigterm_ends_a_command_within_seconds(command: str, code: int) -> None:
    with FaultServer(stall()) as server:
        config = settings_of(server.url, request_timeout=60)
        inputs = {"catalog": configured(discovered(config))} if command == "read" else {}
        with arguments(command, config=config, **inputs) as made:
            process = subprocess.Popen([*COMMAND, *made], stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: S603
            try:
                until = time.monotonic() + LATE
                while not server.requests and time.monotonic() < until:
                    time.sleep(0.05)
                process.terminate()
                stdout, stderr = process.communicate(timeout=LATE)
            finally:
                process.kill()
    assert (process.returncode, stderr) == (code, b"")
    Output(code, stdout.decode())  # whole messages


def test_a_reader_that_goes_away_ends_a_read_quietly(config: dict[str, Any]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (
        arguments("read", config=config, catalog=configured(discovered(config))) as made,
        os.fdopen(writer, "wb") as closed,
    ):
        done = subprocess.run([*COMMAND, *made], stdout=closed, stderr=subprocess.PIPE, timeout=LATE, check=False)  # noqa: S603
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_pipe_that_closes_while_a_thread_logs_ends_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, closed = os.pipe()
    os.close(reader)
    with os.fdopen(closed, "wb") as pipe:
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(pipe, write_through=True))
        writer = AirbyteWriter()
        line = logging.makeLogRecord({"msg": "a retry", "levelno": logging.WARNING})
        thread = threading.Thread(target=writer.log.handle, args=(line,))
        thread.start()
        thread.join()
        with pytest.raises(SystemExit) as end:
            writer.log.handle(line)
        assert end.value.code == 141


def test_a_log_level_that_does_not_exist_is_one_line() -> None:
    around = {**os.environ, "LOGLEVEL": "loud"}
    done = subprocess.run([*COMMAND, "spec"], env=around, capture_output=True, text=True, timeout=LATE, check=False)  # noqa: S603
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "LOGLEVEL must be DEBUG, INFO, WARNING, ERROR or CRITICAL: correct it, or unset it\n"


def test_an_unbuffered_stdout_that_takes_a_part_at_a_time_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Unbuffered()
    monkeypatch.setattr("sys.stdout", out)
    writer = AirbyteWriter()
    line = logging.makeLogRecord({"msg": "x" * 1000, "levelno": logging.WARNING})
    threads = [threading.Thread(target=lambda: [writer.log.handle(line) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        writer.send({"type": "RECORD", "record": {"x": "y" * 1000}})
    for thread in threads:
        thread.join()
    kinds = [json.loads(line)["type"] for line in out.raw.taken.splitlines()]
    assert (kinds.count("LOG"), kinds.count("RECORD")) == (200, 50)


@pytest.mark.parametrize("command", ["check", "read"])
def test_a_full_disk_is_one_line(command: str, config: dict[str, Any]) -> None:
    inputs = {"catalog": configured(discovered(config))} if command == "read" else {}
    with (
        arguments(command, config=config, **inputs) as made,
        Path("/dev/full").open("wb") as full,
    ):
        done = subprocess.run([*COMMAND, *made], stdout=full, stderr=subprocess.PIPE, timeout=LATE, check=False)  # noqa: S603
    assert done.returncode == 1
    [line] = done.stderr.decode().splitlines()
    assert "No space left on device" in line


def test_debug_lines_come_when_they_are_asked_for(config: dict[str, Any]) -> None:
    with arguments("check", config=config) as made:
        assert airbyte_cli(*made, "--debug").log("DEBUG")
        assert not airbyte_cli(*made).log("DEBUG")


# -------------------------------------------------------------------------------------------------------- any content

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=4,
)
KEYS = st.sampled_from(["name", "state", "url", "createdAt", "newJwt", "record", "time_extracted", CURSOR])
ODD = st.dictionaries(KEYS | st.text(max_size=8), VALUES, max_size=4)


@st.composite
def instances(draw: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Make instances with odd values under known and unknown keys."""
    made = []
    for number in draw(st.lists(st.integers(0, 99), max_size=4, unique=True)):
        hook = draw(ODD) | {"webhookId": f"w-{number}", "WebhookEvents": draw(ODD)}
        made.append(draw(ODD) | {"instanceId": f"i-{number}", "Webhook": [hook]})
    return made


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(instances())
def test_whatever_an_answer_holds_gives_valid_messages_and_the_taps_own_rows(items: list[dict[str, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])  # else pytest keeps every line of every example
        wire = Wire(patch, b=items)
        singer = wire.sync()
        wire.seconds -= 1  # the same answer at the same time
        output = read(wire.config())  # each message is checked there
    assert output.returncode == singer.returncode == 0
    for name in NAMES:
        rows = [message["record"] | {CURSOR: message["time_extracted"]} for message in singer.of("RECORD", name)]
        assert output.records(name) == rows


def test_a_message_of_another_shape_would_be_seen() -> None:
    good = {"type": "RECORD", "record": {"stream": "s", "data": {}, "emitted_at": 1}}
    check_message(good)
    record: Any = good["record"]
    for bad in (record | {"emitted_at": "1"}, record | {"extra": 1}, {"stream": "s", "data": {}}):
        with pytest.raises((msgspec.MsgspecError, ValueError, AssertionError)):
            check_message(good | {"record": bad})


# -------------------------------------------------------------------------------------------------- the folder airbyte/

AIRBYTE = ROOT / "airbyte"
METADATA = yaml.safe_load((AIRBYTE / "metadata.yaml").read_text(encoding="utf-8"))["data"]
VERSION = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[0]


def test_the_files_of_the_acceptance_tests_are_what_the_demo_gives() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in INTEGRATION_TESTS.iterdir()}
    assert written == integration_tests(), "python -m tests.kit.airbyte writes them"


def test_the_expected_records_are_read_with_an_abnormal_state_too() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in INTEGRATION_TESTS.iterdir()}
    catalog, state = json.loads(files["configured_catalog.json"]), json.loads(files["abnormal_state.json"])
    with CodeChat(world()) as server:
        config = json.loads(files["config.json"]) | {"api_url": server.url}
        output = airbyte("read", config=config, catalog=catalog, state=state)
    assert (output.returncode, output.log("WARN")) == (0, [])  # it is understood
    assert timeless(output.of("RECORD")) == [
        json.loads(line) for line in files["expected_records.jsonl"].split("\n") if line
    ]


def test_the_acceptance_tests_name_files_that_exist() -> None:
    text = (AIRBYTE / "acceptance-test-config.yml").read_text(encoding="utf-8")
    paths = re.findall(r"_path: (\S+)", text)
    assert {Path(path).name for path in paths} == {
        path.name for path in INTEGRATION_TESTS.iterdir() if path.name != "expected_records.jsonl"
    }
    assert all((AIRBYTE / path).is_file() for path in paths)


def test_the_metadata_names_this_version_every_stream_and_the_host() -> None:
    assert METADATA["dockerImageTag"] == VERSION
    assert METADATA["suggestedStreams"]["streams"] == NAMES
    assert METADATA["allowedHosts"]["hosts"] == ["${api_url}"]
    assert "api_url" in form()
    assert METADATA["documentationUrl"] == airbyte("spec").of("SPEC")[0]["documentationUrl"]


def test_the_image_starts_the_command_of_this_package_as_its_own_user() -> None:
    text = (AIRBYTE / "Dockerfile").read_text(encoding="utf-8")
    [command] = re.findall(r'^ENTRYPOINT \["(.*)"\]$', text, re.MULTILINE)
    assert command in {entry.name for entry in distribution("tap-instances").entry_points}
    assert f'ENV AIRBYTE_ENTRYPOINT="{command}"' in text
    assert f"LABEL io.airbyte.version={VERSION}" in text
    assert f"LABEL io.airbyte.name={METADATA['dockerRepository']}" in text
    assert re.search(r"^USER (?!0|root)", text, re.MULTILINE)


def test_the_icon_is_a_square() -> None:
    icon = ET.parse(AIRBYTE / METADATA["icon"]).getroot()  # noqa: S314 - our own file
    assert icon.tag == "{http://www.w3.org/2000/svg}svg"
    assert icon.attrib["width"] == icon.attrib["height"]


def test_columns_that_are_not_an_object_are_named(config: dict[str, Any]) -> None:
    streams = deepcopy(discovered(config))
    streams["webhooks"]["json_schema"] = {"properties": 5}
    output = airbyte("read", config=config, catalog=configured(streams, "webhooks"))
    [error] = output.errors
    assert "json_schema.properties of stream 'webhooks' must be an object" in str(error)
    assert output.returncode == 1


@pytest.mark.parametrize("name", [5, None])
def test_a_header_whose_name_is_not_a_text_is_one_line(config: dict[str, Any], name: object) -> None:
    output = airbyte("check", config=config | {"headers": [{"name": name, "value": "v"}]})
    assert "headers must be a list of {name, value}" in output.stdout
