"""``schemas/`` declares the columns that the design promises, and nothing a target would stumble over."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tap_instances.columns import api_columns, load_schema
from tests.kit.checked import STREAMS

ROOT = Path(__file__).parent.parent
FLAGS = (
    "qrcode_update state_instance messages_set messages_upsert messages_update send_message contacts_set "
    "contacts_upsert contacts_update presence_update chats_set chats_update chats_upsert groups_upsert group_update "
    "group_participants_update connection_update call_upsert new_jwt"
)
COLUMNS = {
    "businesses": "business_id name observed_at additional_properties",
    "instances": "business_id instance_id name state connection created_at deleted_at auth_id auth_jwt auth_created_at "
    "auth_updated_at whatsapp_id whatsapp_remote_jid whatsapp_picture_url whatsapp_push_name whatsapp_created_at "
    "observed_at additional_properties",
    "webhooks": "instance_id webhook_id name url enabled created_at updated_at deleted_at additional_properties",
    "webhook_events": f"instance_id webhook_id webhook_events_id {FLAGS} created_at updated_at deleted_at "
    "additional_properties",
    "connection_changes": "business_id instance_id change_type previous_observed_at observed_at",
    "observations": "business_id observed_at previous_observed_at instances webhooks",
}
KEYS = {
    "businesses": ["business_id"],
    "instances": ["instance_id"],
    "webhooks": ["webhook_id"],
    "webhook_events": ["webhook_id"],
    "connection_changes": ["business_id", "instance_id", "previous_observed_at", "change_type"],
    "observations": ["business_id", "observed_at"],
}


@pytest.mark.parametrize("stream", STREAMS)
def test_a_schema_is_valid_json_schema_and_an_object(stream: str) -> None:
    schema = load_schema(stream)
    Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"
    assert schema["title"] == stream


@pytest.mark.parametrize("stream", STREAMS)
def test_the_columns_are_the_designed_ones(stream: str) -> None:
    assert sorted(load_schema(stream)["properties"]) == sorted(COLUMNS[stream].split())


@pytest.mark.parametrize("stream", STREAMS)
def test_keys_are_required_and_not_null_and_all_else_is_nullable(stream: str) -> None:
    schema = load_schema(stream)
    assert schema["required"] == KEYS[stream]
    for name, column in schema["properties"].items():
        if name in KEYS[stream]:
            assert column["type"] == "string"
        else:
            assert len(column["type"]) == 2
            assert column["type"][1] == "null"


@pytest.mark.parametrize("stream", STREAMS)
def test_each_description_names_its_api_field(stream: str) -> None:
    for name, column in load_schema(stream)["properties"].items():
        if "x-api" in column:
            assert column["description"].startswith(f"`{column['x-api']}`"), name
        else:
            assert len(column["description"]) > 20, name


@pytest.mark.parametrize("stream", STREAMS)
def test_a_column_is_named_after_its_api_field(stream: str) -> None:
    renamed = {"Auth.authId": "auth_id", "WhatsApp.whatsappId": "whatsapp_id", "webhookEventsId": "webhook_events_id"}
    for name, column in load_schema(stream)["properties"].items():
        if "x-api" in column:
            words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column["x-api"].replace("WhatsApp", "Whatsapp")).lower()
            assert name == renamed.get(column["x-api"], words.replace(".", "_"))


@pytest.mark.parametrize("stream", STREAMS)
def test_exactly_the_times_are_date_time(stream: str) -> None:
    for name, column in load_schema(stream)["properties"].items():
        assert (column.get("format") == "date-time") == name.endswith("_at"), name


@pytest.mark.parametrize("stream", STREAMS)
def test_exactly_the_flags_are_boolean(stream: str) -> None:
    properties = load_schema(stream)["properties"]
    flags = {name for name, column in properties.items() if "boolean" in column["type"]}
    assert flags == {"webhooks": {"enabled"}, "webhook_events": set(FLAGS.split())}.get(stream, set())


@pytest.mark.parametrize("stream", STREAMS)
def test_exactly_the_counts_are_integers(stream: str) -> None:
    properties = load_schema(stream)["properties"]
    counts = {name for name, column in properties.items() if "integer" in column["type"]}
    assert counts == ({"instances", "webhooks"} if stream == "observations" else set())


def test_the_jwt_is_the_one_secret_column() -> None:
    secret = [
        (stream, name)
        for stream in STREAMS
        for name, column in load_schema(stream)["properties"].items()
        if "x-secret" in column
    ]
    assert secret == [("instances", "auth_jwt")]


def test_every_documented_api_field_has_one_column(connected: dict[str, Any]) -> None:
    def paths(value: dict[str, Any], prefix: str = "") -> set[str]:
        nested = {"Auth", "WhatsApp"}
        leaves = {prefix + key for key in value if key not in {"Instances", "Webhook", "WebhookEvents", *nested}}
        return leaves.union(*(paths(value[key], f"{key}.") for key in nested & value.keys()))

    instance = connected["Instances"][0]
    webhook = instance["Webhook"][0]
    used_up = {"businessId", "instanceInstanceId"}  # copies of keys that are known anyway
    for stream, item in {
        "businesses": connected,
        "instances": instance,
        "webhooks": webhook,
        "webhook_events": webhook["WebhookEvents"],
    }.items():
        assert paths(item) - used_up == set(api_columns(stream))


@pytest.mark.e2e
def test_the_wheel_holds_both_packages_and_the_schemas_and_works_alone(tmp_path: Path) -> None:
    def run(*command: str | Path) -> str:
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)  # noqa: S603
        assert done.returncode == 0, done.stderr
        return done.stdout

    source = tmp_path / "source"
    left_out = {"output", "tests", "mutants"}
    shutil.copytree(ROOT, source, ignore=lambda _, names: [n for n in names if n[0] == "." or n in left_out])
    environment = tmp_path / "environment"
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "venv", environment)
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", tmp_path, source)
    [wheel] = tmp_path.glob("tap_instances-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("tap_instances/schemas/")}
        assert {"tap_instances/py.typed", "source_codechat_instances/py.typed"} <= set(archive.namelist())
    assert held == {f"tap_instances/schemas/{stream}.json" for stream in STREAMS}
    run(python, "-m", "pip", "install", "-q", wheel)
    catalog = json.loads(run(environment / "bin" / "tap-instances", "--discover"))
    assert {stream["tap_stream_id"] for stream in catalog["streams"]} == set(STREAMS)
    config = tmp_path / "config.json"
    config.write_text('{"api_url": "http://127.0.0.1:1", "business_id": "b", "auth_token": "t"}', encoding="utf-8")
    message = json.loads(run(environment / "bin" / "source-codechat-instances", "discover", "--config", config))
    assert {stream["name"] for stream in message["catalog"]["streams"]} == set(STREAMS)
