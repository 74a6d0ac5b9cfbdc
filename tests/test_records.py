"""An API object becomes a row: what each column holds, what is kept beside them, withheld, or reported."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from demo.codechat import World
from tap_instances import records
from tap_instances.columns import api_columns, column_names
from tap_instances.memory import Memory
from tap_instances.records import MAX_UNKNOWN, Instance, Reader, Source
from tap_instances.values import MISFIT, encode, parse_json, to_flag, to_text, to_time

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW: Final = datetime(2025, 6, 30, 12, tzinfo=timezone.utc)
SOURCE: Final = Source("b-1", NOW)
A_JWT: Final = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJleGFtcGxlIn0.not-a-signature"


def make_reader(*, include_secrets: bool = False, shape: int = 0) -> Reader:
    return Reader(include_secrets=include_secrets, shape=shape)


def read_item(reader: Reader, item: Any, index: int = 0) -> Instance | None:  # noqa: ANN401
    """Read an item of `Instances`: JSON as it came, or what stands for it in Python."""
    raw = item if isinstance(item, bytes) else json.dumps(item).encode()
    return reader.read_instance(raw, index, SOURCE)


def members(text: str) -> bytes:
    """Return an instance that has these members, as JSON."""
    return b'{"instanceId":"i-1",' + text.encode() + b"}"


def instance(reader: Reader, item: Any = None, **keys: Any) -> tuple[dict[str, Any], Instance]:  # noqa: ANN401
    """Read an instance with these keys; return its row too."""
    read = read_item(reader, item or {"instanceId": "i-1", **keys})
    assert read is not None
    return json.loads(read.row), read


def hook(reader: Reader, **keys: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:  # noqa: ANN401
    """Read a webhook with these keys; return its row and its events'."""
    _, read = instance(reader, Webhook=[{"webhookId": "w-1", **keys}])
    [webhook] = read.webhooks
    events = [json.loads(row.json) for row in read.webhook_events]
    return json.loads(webhook.json), events[0] if events else None


def business(reader: Reader, **keys: Any) -> dict[str, Any]:  # noqa: ANN401
    """Read a business with these keys; return its row."""
    row: dict[str, Any] = json.loads(reader.read_business(keys, SOURCE))
    return row


# -------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('"a"', "a"), ('""', ""), ("5", "5"), ("-5", "-5"), ("0", "0"), ("-0.0", "-0.0"), ("1.50", "1.50"),
        ("1e5", "1e5"), ("1E-7", "1E-7"), ("0.0000001", "0.0000001"), ("1e400", "1e400"), ("1" * 23, None),
        ("1" * 5000, None), ("1e" + "9" * 20, None), ('"a\\u0000b"', "ab"), ('"\\ud800"', "\ufffd"),
        ('"x\\udc00y"', "x\ufffdy"), ('"\\ud83e\\udd56"', "🥖"), ('"\\ud83e"', "\ufffd"),
        ('"\\u2028\\u200f"', "\u2028\u200f"),
    ],
)  # fmt: skip
def test_a_text_column_holds_text_and_numbers_as_their_json_text(value: str, text: str | None) -> None:
    row, _ = instance(make_reader(), members(f'"name":{value}'))
    assert row["name"] == (value if text is None else text)
    assert row["additional_properties"] is None


TIMES: Final = {
    "2025-03-04T10:15:30.123Z": "2025-03-04T10:15:30.123000Z",
    "2025-03-04T10:15:30Z": "2025-03-04T10:15:30Z",
    "2025-03-04T10:15:30.1Z": "2025-03-04T10:15:30.100000Z",
    "2025-03-04T10:15:30.123456Z": "2025-03-04T10:15:30.123456Z",
    # with an offset: UTC
    "2025-03-04T10:15:30+03:00": "2025-03-04T07:15:30Z",
    "2025-03-04T10:15:30-03:00": "2025-03-04T13:15:30Z",
    "2025-03-04T23:59:59.999-00:01": "2025-03-05T00:00:59.999000Z",
    "2025-03-04T10:15:30+0330": "2025-03-04T06:45:30Z",
    "2025-03-04 10:15:30.123+03": "2025-03-04T07:15:30.123000Z",
    "2025-03-04 10:15:30-03": "2025-03-04T13:15:30Z",
    "2025-03-04T10:15:30+00:00": "2025-03-04T10:15:30Z",
    "2025-03-04T10:15:30-00:00": "2025-03-04T10:15:30Z",
    "2025-03-04T10:15:30+23:59": "2025-03-03T10:16:30Z",
    # without a zone: taken as UTC
    "2025-03-04T10:15:30.123": "2025-03-04T10:15:30.123000Z",
    # without seconds
    "2025-03-04T10:15": "2025-03-04T10:15:00Z",
    "2025-03-04 10:15Z": "2025-03-04T10:15:00Z",
    "2025-03-04T10:15+03": "2025-03-04T07:15:00Z",
    # a date alone: its midnight
    "2025-03-04": "2025-03-04T00:00:00Z",
    "2024-02-29": "2024-02-29T00:00:00Z",
    # a space for the T
    "2025-03-04 10:15:30.123Z": "2025-03-04T10:15:30.123000Z",
    "2025-03-04 10:15:30": "2025-03-04T10:15:30Z",
    "2025-03-04 10:15:30+03:00": "2025-03-04T07:15:30Z",
    "2025-03-04t10:15:30z": "2025-03-04T10:15:30Z",
    # more than six digits of a second's fraction: rounded
    "2025-03-04T10:15:30.1234564999Z": "2025-03-04T10:15:30.123456Z",
    "2025-03-04T10:15:30.1234565Z": "2025-03-04T10:15:30.123457Z",
    "2025-03-04T23:59:59.999999999+03:00": "2025-03-04T21:00:00Z",
    # the ends of time
    "0001-01-01T00:00:00Z": "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.9999999Z": "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59.999999Z": "9999-12-31T23:59:59.999999Z",
}
NO_TIMES: Final = [
    "", " ", "now", "0", "1741083330", "2025", "2025-03", "2025-13-01", "2025-02-29", "2025-03-04T24:00:00Z",
    "2025-03-04T10:60:00Z", "2025-03-04T10:15:60Z", "2025-03-04T10:15:30+24:00", "2025-03-04T10:15:30+03:60",
    "2025-03-04T10:15:30 UTC", "2025-03-04T10:15:30Z[UTC]", "2025-03-04T10:15:30.Z", "2025-03-04T10:1",
    "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "-2025-03-04T10:15:30Z", "0001-01-01T00:00:00+00:01",
    "9999-12-31T23:59:59-00:01", "04/03/2025", "Tue Mar 04 2025", "2025-W10-2", "20250304T101530Z", "٢٠٢٥-٠٣-٠٤",
    "2025-03-04T10:15:30Z\n\nx",
]  # fmt: skip


@pytest.mark.parametrize(("value", "written"), TIMES.items())
def test_a_time_is_written_in_utc(value: str, written: str) -> None:
    row, _ = instance(make_reader(), createdAt=value)
    assert row["created_at"] == written
    assert row["additional_properties"] is None


def test_a_time_without_a_zone_is_in_utc_wherever_the_tap_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/Sao_Paulo")
    time.tzset()
    try:
        row, _ = instance(make_reader(), createdAt="2025-03-04T10:15:30", WhatsApp={"createdAt": "2025-03-04"})
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (row["created_at"], row["whatsapp_created_at"]) == ("2025-03-04T10:15:30Z", "2025-03-04T00:00:00Z")


@pytest.mark.parametrize(("value", "written"), TIMES.items())
def test_a_time_is_the_same_beside_a_key_that_is_new(value: str, written: str) -> None:
    row, _ = instance(make_reader(), createdAt=value, newThing=1)
    assert row["created_at"] == written


@pytest.mark.parametrize("value", [*NO_TIMES, 0, 1741083330, 1.5, True, False, [], {}, ["2025-03-04"], {"at": 1}])
def test_what_is_not_a_time_is_kept_beside_its_column(value: Any) -> None:  # noqa: ANN401
    row, _ = instance(make_reader(), createdAt=value)
    assert row["created_at"] is None
    assert row["additional_properties"] == {"createdAt": value}


@pytest.mark.parametrize("digits", ["1234567", "999999999", "12345678901234567890", "0000000"])
@pytest.mark.parametrize("zone", ["Z", "+00:00", "+03:00", ""])
def test_a_time_with_more_than_six_digits_of_a_second_loses_less_than_a_microsecond(digits: str, zone: str) -> None:
    row, _ = instance(make_reader(), createdAt=f"2025-12-31T23:59:59.{digits}{zone}")
    whole = datetime.fromisoformat(f"2025-12-31T23:59:59{(zone or 'Z').replace('Z', '+00:00')}")
    cut = whole + timedelta(microseconds=int(digits[:6]))
    written = datetime.fromisoformat(row["created_at"].replace("Z", "+00:00"))
    assert timedelta() <= written - cut <= timedelta(microseconds=1)


@pytest.mark.parametrize(("value", "written"), TIMES.items())
def test_a_times_text_can_be_read_again_and_is_what_the_rows_hold(value: str, written: str) -> None:
    assert encode(to_time(value)).decode() == f'"{written}"'
    assert to_time(written) == to_time(value)


MISFITS: Final = {
    "text": [True, False, [], {}, [1], {"a": 1}],
    "flag": [0, 1, 1.0, "true", "", [], {}],
    "time": [0, 1.5, True, "soon", [], {}],
}


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in MISFITS.items() for value in values])
def test_a_misfit_is_kept_under_its_api_name_wherever_it_stands(kind: str, value: Any) -> None:  # noqa: ANN401
    checked = 0
    for stream in ("instances", "webhooks", "webhook_events"):
        for path, column in api_columns(stream).items():
            if column.kind != kind or path in {"instanceId", "webhookId"}:
                continue
            reader = make_reader(include_secrets=True)
            part, _, name = path.rpartition(".")
            if stream == "instances":
                row, _ = instance(reader, **({part: {name: value}} if part else {name: value}))
            elif stream == "webhooks":
                row, _ = hook(reader, **{name: value})
            else:
                _, events = hook(reader, WebhookEvents={name: value})
                assert events is not None
                row = events
            assert row[column.name] is None, path
            assert row["additional_properties"] == {path: value}, path
            assert not reader.findings.unknown
            checked += 1
    assert checked == {"text": 12, "flag": 20, "time": 9}[kind]


def test_null_is_not_a_misfit() -> None:
    assert [convert(None) for convert in (to_text, to_flag, to_time)] == [None, None, None]
    assert to_flag("true") is MISFIT


# -------------------------------------------------------------------------------------------------- unknown keys


def test_an_unknown_key_is_kept_by_its_path_from_the_streams_own_object() -> None:
    reader = make_reader()
    row, _ = instance(reader, new=1, WhatsApp={"newThing": [1, {"b": None}]}, Auth=None)
    assert row["additional_properties"] == {"WhatsApp.newThing": [1, {"b": None}], "new": 1}
    webhook, events = hook(reader, newThing="x", WebhookEvents={"chatsDeleted": True})
    assert webhook["additional_properties"] == {"newThing": "x"}
    assert events is not None
    assert events["additional_properties"] == {"chatsDeleted": True}
    assert set(reader.findings.unknown) == {
        "instances.new",
        "instances.WhatsApp.newThing",
        "webhooks.newThing",
        "webhook_events.chatsDeleted",
    }
    assert not reader.findings.withheld


def test_an_unknown_key_of_a_business_is_kept() -> None:
    row = business(make_reader(), businessId="b-1", name="x", plan={"tier": 2})
    assert row == {
        "business_id": "b-1",
        "name": "x",
        "observed_at": "2025-06-30T12:00:00Z",
        "additional_properties": {"plan": {"tier": 2}},
    }


def test_an_unknown_key_that_is_null_is_left_out() -> None:
    reader = make_reader()
    row, _ = instance(reader, new=None, WhatsApp={"newThing": None})
    assert row["additional_properties"] is None
    assert not reader.findings.unknown


def test_an_unknown_key_is_kept_where_another_one_is_missing() -> None:
    reader = make_reader()
    for keys in ({"first": 1, "second": 2}, {"second": 3}, {"first": None, "second": 4}):
        row, _ = instance(reader, **keys)
        assert row["additional_properties"] == {name: value for name, value in keys.items() if value}


def test_with_secrets_the_name_of_an_unknown_key_stays_as_it_is() -> None:
    url = "https://user:password@example.com/?token=1"
    row, _ = instance(make_reader(include_secrets=True), **{url: 1, "new": {url: 2}})
    assert row["additional_properties"] == {url: 1, "new": {url: 2}}


def test_a_key_with_a_dot_is_not_taken_for_a_nested_one() -> None:
    row, _ = instance(
        make_reader(include_secrets=True),
        **{"Auth.authId": "dotted", "Auth": {"authId": "own", "new": 1}, "Auth.new": 2, "WhatsApp.pushName": "dotted"},
    )
    assert row["auth_id"] == "own"
    assert row["whatsapp_push_name"] is None
    assert row["additional_properties"] == {
        "Auth.authId": "dotted",
        "Auth.new": 2,
        "Auth.new_": 1,
        "WhatsApp.pushName": "dotted",
    }


def test_keys_that_become_the_same_are_both_kept() -> None:
    row, _ = instance(make_reader(), members(r'"a\u0000":1,"a":2,"\ud800":3,"\udc00":{"x\u0000":4,"x":5}'))
    assert row["additional_properties"] == {"a": 1, "a_": 2, "\ufffd": 3, "\ufffd_": {"x": 4, "x_": 5}}


def test_what_is_kept_stands_in_one_order() -> None:
    _, one = instance(make_reader(), b=1, a={"y": 2, "x": 1}, WhatsApp={"z": 3})
    _, other = instance(make_reader(), WhatsApp={"z": 3}, a={"x": 1, "y": 2}, b=1)
    assert one.row == other.row
    assert b'{"WhatsApp.z":3,"a":{"x":1,"y":2},"b":1}' in one.row


@pytest.mark.parametrize(("value", "kept"), [("same", False), (None, False), ("other", True), (5, True), ([], True)])
def test_a_copy_of_a_key_is_used_up_where_equal_and_kept_where_not(value: Any, kept: bool) -> None:  # noqa: ANN401, FBT001
    owner = "i-1" if value == "same" else value
    row, _ = hook(make_reader(), instanceInstanceId=owner)
    assert row["additional_properties"] == ({"instanceInstanceId": owner} if kept else None)
    assert row["instance_id"] == "i-1"
    business_id = "b-1" if value == "same" else value
    row = business(make_reader(), businessId=business_id)
    assert row["additional_properties"] == ({"businessId": business_id} if kept else None)
    assert row["business_id"] == "b-1"


def test_a_copy_of_a_key_may_be_its_number() -> None:
    read = read_item(make_reader(), {"instanceId": 7, "Webhook": [{"webhookId": 8, "instanceInstanceId": 7}]})
    assert read is not None
    assert read.id == "7"
    [webhook] = read.webhooks
    assert webhook.key == "8"
    row = json.loads(webhook.json)
    assert row["additional_properties"] is None
    assert row["instance_id"] == "7"


# -------------------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize("part", [None, {}])
def test_a_part_that_is_null_or_empty_gives_nulls(part: Any) -> None:  # noqa: ANN401
    row, read = instance(make_reader(), Auth=part, WhatsApp=part, Webhook=[{"webhookId": "w", "WebhookEvents": part}])
    assert {value for name, value in row.items() if name.startswith(("auth", "whatsapp"))} == {None}
    assert row["additional_properties"] is None
    assert len(read.webhook_events) == (part is not None)


@pytest.mark.parametrize("value", ["x", 1, True, [], [1], ""])
def test_a_part_that_is_not_an_object_is_kept_under_its_name(value: Any) -> None:  # noqa: ANN401
    reader = make_reader(include_secrets=True)
    row, _ = instance(reader, Auth=value, WhatsApp=value)
    assert row["additional_properties"] == {"Auth": value, "WhatsApp": value}
    webhook, events = hook(reader, WebhookEvents=value)
    assert webhook["additional_properties"] == {"WebhookEvents": value}
    assert events is None
    assert not reader.findings.faults


def test_one_webhook_may_stand_without_its_list() -> None:
    row, read = instance(make_reader(), Webhook={"webhookId": "w-1", "name": "crm"})
    assert row["additional_properties"] is None
    assert read.digest
    assert [webhook.key for webhook in read.webhooks] == ["w-1"]


@pytest.mark.parametrize("value", ["x", 1, True, ""])
def test_webhooks_that_are_not_a_list_or_object_are_kept_in_instances_and_not_known(value: Any) -> None:  # noqa: ANN401
    reader = make_reader()
    row, read = instance(reader, Webhook=value)
    assert row["additional_properties"] == {"Webhook": value}
    assert (read.digest, [*read.webhooks]) == ("", [])
    assert set(reader.findings.misfits) == {"instances.Webhook"}
    assert not reader.findings.missing


@pytest.mark.parametrize("value", [None, []])
def test_that_there_is_no_webhook_can_be_known(value: Any) -> None:  # noqa: ANN401
    reader = make_reader()
    _, read = instance(reader, Webhook=value)
    assert read.digest
    assert not read.webhooks
    assert not reader.findings.missing


def test_a_missing_webhook_key_is_noted_and_nothing_is_known() -> None:
    reader = make_reader()
    row, read = instance(reader)
    assert (read.digest, [*read.webhooks]) == ("", [])
    assert row["additional_properties"] is None
    assert set(reader.findings.missing) == {"instances.Webhook"}


@pytest.mark.parametrize(("keys", "unknown"), [
    ({}, True), ({"WebhookEvents": "x"}, True), ({"WebhookEvents": []}, True), ({"WebhookEvents": None}, False),
    ({"WebhookEvents": {}}, False),
])  # fmt: skip
def test_events_that_are_missing_or_not_an_object_are_not_known(keys: dict[str, Any], unknown: bool) -> None:  # noqa: FBT001
    reader = make_reader()
    _, read = instance(reader, Webhook=[{"webhookId": "w-1", **keys}])
    assert read.unknown_events == ({"w-1"} if unknown else set())
    assert set(reader.findings.missing) == ({"webhooks.WebhookEvents"} if not keys else set())
    assert len(read.webhook_events) == (keys == {"WebhookEvents": {}})


def test_a_row_has_its_key_and_when_the_api_changed_it() -> None:
    changed = "2025-03-04T10:15:30.123Z"
    _, read = instance(
        make_reader(), Webhook=[{"webhookId": "w-1", "updatedAt": changed, "WebhookEvents": {"updatedAt": "?"}}]
    )
    [webhook], [events] = read.webhooks, read.webhook_events
    assert (webhook.key, webhook.updated_at) == ("w-1", to_time(changed))
    assert (events.key, events.updated_at) == ("w-1", None)


NO_KEYS: Final[list[tuple[dict[str, Any], str]]] = [
    ({}, "missing"),
    ({"id": None}, "null"),
    ({"id": ""}, "empty"),
    ({"id": "\x00"}, "empty"),
    ({"id": True}, "a boolean"),
    ({"id": []}, "an array"),
    ({"id": {}}, "an object"),
]


@pytest.mark.parametrize(("key", "what"), NO_KEYS)
def test_an_instance_without_a_key_is_reported_and_not_read(key: dict[str, Any], what: str) -> None:
    reader = make_reader()
    item: dict[str, Any] = {
        "name": "x",
        "new": 1,
        "Webhook": [{"webhookId": "w"}],
        **{name.replace("id", "instanceId"): value for name, value in key.items()},
    }
    assert read_item(reader, item, 4) is None
    assert reader.findings.faults == [f"Instances[4]: its instanceId is {what}"]
    assert not reader.findings.unknown


@pytest.mark.parametrize(("key", "what"), NO_KEYS)
def test_a_webhook_without_a_key_is_reported_and_the_others_are_read(key: dict[str, Any], what: str) -> None:
    reader = make_reader()
    odd: dict[str, Any] = {
        "WebhookEvents": {"newJwt": True},
        **{name.replace("id", "webhookId"): value for name, value in key.items()},
    }
    _, read = instance(reader, Webhook=[{"webhookId": "w-1"}, odd, {"webhookId": "w-2"}])
    assert [webhook.key for webhook in read.webhooks] == ["w-1", "w-2"]
    assert read.webhook_events == []
    assert reader.findings.faults == [f"Instances[0].Webhook[1]: its webhookId is {what}"]


@pytest.mark.parametrize(
    ("item", "what"),
    [(None, "null"), (1, "a number"), ("x", "a string"), (True, "a boolean"), ([], "an array"), ([{}], "an array")],
)
def test_a_list_item_that_is_not_an_object_is_reported(item: Any, what: str) -> None:  # noqa: ANN401
    reader = make_reader()
    assert read_item(reader, item, 2) is None
    _, read = instance(reader, Webhook=[item])
    assert not read.webhooks
    assert reader.findings.faults == [
        f"Instances[2] is {what}, not an object",
        f"Instances[0].Webhook[0] is {what}, not an object",
    ]


def test_a_fault_never_quotes_the_value() -> None:
    reader = make_reader()
    assert read_item(reader, {"instanceId": ["s3cr3t"]}) is None
    assert read_item(reader, "s3cr3t") is None
    assert len(reader.findings.faults) == 2
    assert not any("s3cr3t" in fault for fault in reader.findings.faults)


# ------------------------------------------------------------------------------------------------------- secrets

SECRETS: Final = {"token": "s3cr3t", "deep": {"list": [{"api-key": "s3cr3t", "x": 1}], "Cookie": {"a": ["s3cr3t"]}}}


def test_of_auth_only_what_its_columns_hold_leaves() -> None:
    reader = make_reader()
    row, _ = instance(
        reader,
        Auth={
            "authId": ["s3cr3t"],
            "jwt": "s3cr3t",
            "createdAt": "s3cr3t",
            "updatedAt": NOW.isoformat(),
            "new": "s3cr3t",
        },
    )
    assert "s3cr3t" not in json.dumps(row)
    assert row["auth_updated_at"] == "2025-06-30T12:00:00Z"
    assert "auth_jwt" not in row
    assert set(reader.findings.withheld) == {"instances.Auth.authId", "instances.Auth.createdAt", "instances.Auth.new"}
    assert not reader.findings.unknown


@pytest.mark.parametrize("auth", ["s3cr3t", ["s3cr3t"], 1, False])
def test_an_auth_that_is_not_an_object_is_withheld(auth: Any) -> None:  # noqa: ANN401
    reader = make_reader()
    row, _ = instance(reader, Auth=auth)
    assert row["additional_properties"] is None
    assert set(reader.findings.withheld) == {"instances.Auth"}


def test_an_unknown_secret_is_withheld_at_each_level_and_depth() -> None:
    reader = make_reader()
    row, _ = instance(reader, **SECRETS, WhatsApp={"sessionToken": "s3cr3t", "kept": {"jwt": 1, "y": 2}})
    assert row["additional_properties"] == {"WhatsApp.kept": {"y": 2}, "deep": {"list": [{"x": 1}]}}
    webhook, events = hook(reader, secret={"a": 1}, WebhookEvents={"passwordHash": "s3cr3t", "PASSWD": None})
    assert webhook["additional_properties"] is None
    assert events is not None
    assert events["additional_properties"] is None
    assert set(reader.findings.withheld) == {
        "instances.token",
        "instances.deep.list[].api-key",
        "instances.deep.Cookie",
        "instances.WhatsApp.sessionToken",
        "instances.WhatsApp.kept.jwt",
        "webhooks.secret",
        "webhook_events.passwordHash",
    }
    assert set(reader.findings.unknown) == {"instances.deep", "instances.WhatsApp.kept"}


def test_an_unknown_secret_of_a_business_is_withheld() -> None:
    reader = make_reader()
    row = business(reader, adminToken="s3cr3t", name={"token": "s3cr3t", "a": 1})
    assert row["additional_properties"] == {"name": {"a": 1}}
    assert set(reader.findings.withheld) == {"businesses.adminToken", "businesses.name.token"}


def test_a_boolean_is_not_a_secret() -> None:
    reader = make_reader()
    row, _ = instance(reader, refreshToken=True, deep={"jwt": False})
    assert row["additional_properties"] == {"deep": {"jwt": False}, "refreshToken": True}
    _, events = hook(reader, WebhookEvents={"newJwt": True, "refreshToken": False})
    assert events is not None
    assert events["new_jwt"] is True
    assert events["additional_properties"] == {"refreshToken": False}
    assert not reader.findings.withheld


@pytest.mark.parametrize("value", ["s3cr3t", 1, ["s3cr3t"], {"a": "s3cr3t"}])
def test_a_misfit_of_a_known_key_with_such_a_name_is_withheld(value: Any) -> None:  # noqa: ANN401
    reader = make_reader()
    _, events = hook(reader, WebhookEvents={"newJwt": value})
    assert events is not None
    assert events["new_jwt"] is None
    assert events["additional_properties"] is None
    assert set(reader.findings.withheld) == {"webhook_events.newJwt"}


def test_a_jwt_is_withheld_under_whatever_name() -> None:
    reader = make_reader()
    row, _ = instance(reader, session=f"Bearer {A_JWT}", history=[A_JWT, "x"], state={"was": A_JWT})
    assert row["additional_properties"] == {"history": ["x"], "state": {}}
    assert set(reader.findings.withheld) == {"instances.session", "instances.history[]", "instances.state.was"}


def test_a_jwt_in_the_of_of_an_object_is_named_by_where_it_stood() -> None:
    reader = make_reader()
    instance(reader, Webhook=A_JWT)
    hook(reader, WebhookEvents=A_JWT, instanceInstanceId=A_JWT)
    business(reader, businessId=A_JWT)
    assert set(reader.findings.withheld) == {
        "businesses.businessId",
        "instances.Webhook",
        "webhooks.WebhookEvents",
        "webhooks.instanceInstanceId",
    }


def test_a_url_beside_the_columns_is_masked_too() -> None:
    row, _ = instance(make_reader(), callback="https://u:p@a.example/?token=1", Webhook="https://u:p@a.example")
    assert row["additional_properties"] == {
        "Webhook": "https://u:***@a.example",
        "callback": "https://u:***@a.example/?token=***",
    }


def test_a_url_in_the_place_of_a_key_is_masked_too() -> None:
    url, masked = "https://user:{}@a.example", "https://user:***@a.example"
    nested = {url.format("one"): 1, url.format("two"): 2, "https://a.example/?key=three": {"a": 4}}
    row, _ = instance(make_reader(), things=nested, **{url.format("four"): 5})
    assert row["additional_properties"] == {
        "things": {masked: 1, f"{masked}_": 2, "https://a.example/?key=***": {"a": 4}},
        masked: 5,
    }
    row, _ = instance(make_reader(include_secrets=True), things=nested)
    assert row["additional_properties"] == {"things": nested}


def test_a_text_that_is_not_a_url_is_left_as_it_is() -> None:
    row, _ = instance(make_reader(), note="as ever?token=1", address="u:p@a.example")
    assert row["additional_properties"] == {"address": "u:p@a.example", "note": "as ever?token=1"}


def test_a_webhooks_url_is_masked() -> None:
    row, _ = hook(make_reader(), url="https://bot:s3cr3t@a.example/x?team=ops&token=s3cr3t#top")
    assert row["url"] == "https://bot:***@a.example/x?team=ops&token=***#top"


def test_with_include_secrets_everything_leaves() -> None:
    reader = make_reader(include_secrets=True)
    row, _ = instance(reader, **SECRETS, Auth={"jwt": A_JWT, "new": "s3cr3t", "authId": []}, session=A_JWT)
    assert row["auth_jwt"] == A_JWT
    assert row["additional_properties"] == {**SECRETS, "Auth.authId": [], "Auth.new": "s3cr3t", "session": A_JWT}
    url = "https://bot:s3cr3t@a.example/x?token=s3cr3t"
    webhook, events = hook(reader, url=url, fallback=url, WebhookEvents={"newJwt": "s3cr3t"})
    assert webhook["url"] == url
    assert webhook["additional_properties"] == {"fallback": url}
    assert events is not None
    assert events["additional_properties"] == {"newJwt": "s3cr3t"}
    assert not reader.findings.withheld


# ---------------------------------------------------------------------------------------------------------- JSON


def test_numbers_beside_the_columns_are_written_as_they_came() -> None:
    text = '{"fraction":1.50,"huge":1e400,"int":123456789012345678901234567890,"minus":-0.0,"power":1E5}'
    _, read = instance(make_reader(), members(f'"x":{text}'))
    assert f'"additional_properties":{{"x":{text}}}' in read.row.decode()


def test_an_integer_that_python_would_refuse_to_read_is_kept_as_its_text() -> None:
    reader = make_reader()
    row, _ = instance(reader, members(f'"fits":-{"1" * 4299},"long":{"1" * 4301}'))
    assert row["additional_properties"] == {"fits": -int("1" * 4299), "long": "1" * 4301}


@pytest.mark.parametrize("depth", [99, 100, 101, 500])
def test_what_is_nested_deep_is_kept_as_its_json_text_below_a_hundred_levels(depth: int) -> None:
    value = json.loads("[" * depth + '"\ud800x\x00"'.replace("\x00", "\\u0000") + "]" * depth)
    row, _ = instance(make_reader(), deep=value)
    kept, levels = row["additional_properties"]["deep"], 0
    while isinstance(kept, list):
        [kept] = kept
        levels += 1
    assert levels == min(depth, records.MAX_DEPTH)
    below = depth - levels
    assert kept == ("[" * below + '"\ufffdx"' + "]" * below if below else "\ufffdx")


def test_a_secret_is_withheld_however_deep_it_is_and_nothing_else() -> None:
    reader = make_reader()
    deep = {"apiToken": "s3cr3t", "x": A_JWT, "newJwt": True, "y": "no secret"}
    row, _ = instance(reader, deep=json.loads("[" * 300 + json.dumps(deep) + "]" * 300))
    text = json.dumps(row)
    assert "s3cr3t" not in text
    assert A_JWT not in text
    assert json.dumps('{"newJwt":true,"y":"no secret"}')[1:-1] in text
    levels = "[]" * 300
    assert set(reader.findings.withheld) == {f"instances.deep{levels}.apiToken", f"instances.deep{levels}.x"}


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'"\\ud800"', "\ud800"), (b'"\xff"', "\ufffd"), (b"\xef\xbb\xbf[1]", [1]), ("[1]".encode("utf-16"), [1]),
        (b'{"a":1,"a":2}', {"a": 2}), (b'"\t"', "\t"), (b" [ ] \n", []),
    ],
)  # fmt: skip
def test_json_is_read_so_that_nothing_is_lost(raw: bytes, value: Any) -> None:  # noqa: ANN401
    assert parse_json(raw) == value


@pytest.mark.parametrize("raw", [b"", b" ", b"NaN", b"[Infinity]", b"-Infinity", b"{", b"[1,]", b"<html>", b"[1] x"])
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(raw)


# ----------------------------------------------------------------------------------------------------- whole rows


def test_every_row_has_every_column_in_the_schemas_order() -> None:
    for include_secrets in (False, True):
        reader = make_reader(include_secrets=include_secrets)
        row, _ = instance(reader)
        webhook, events = hook(reader, WebhookEvents={})
        rows = {"businesses": business(reader), "instances": row, "webhooks": webhook, "webhook_events": events}
        for stream, item in rows.items():
            assert item is not None
            assert list(item) == list(column_names(stream, include_secrets=include_secrets))


# -------------------------------------------------------------------------------------------- what is not read again


@pytest.mark.parametrize("created_at", ["2025-03-04T10:15:30Z", "2025-03-04T10:15:30+03:00", "2025-03-04", "soon"])
def test_of_an_unchanged_instance_only_its_own_row_is_read_and_it_is_the_same(created_at: str) -> None:
    for item in example_items():
        raw = as_json({**item, "new": {"a": 1.50}, "WhatsApp": {"createdAt": created_at}})
        reader = make_reader()
        read_item(reader, raw)  # here keys are met that no schema knows
        whole = read_item(reader, raw)
        assert whole is not None
        assert read_item(reader, raw) == whole
        for digest in (whole.digest, "another"):
            reader.remembered = {whole.id: Memory({"v": "1", "w": "2"}, digest)}
            own, again = read_item(reader, raw), read_item(reader, raw)
            assert own is not None
            assert (own.id, own.row, own.digest) == (whole.id, whole.row, whole.digest)
            if digest == whole.digest:
                assert (own.is_unchanged, own.webhook_count, own.webhooks, own.webhook_events) == (True, 2, [], [])
            else:
                assert own == whole
            assert again == whole  # what is listed twice in a run is not taken for unchanged twice


@pytest.mark.parametrize("webhook", [b"[]", b"null", b"{}", b'[{"webhookId":"x"}]', b'[{"webhookId": "w"}]'])
def test_another_webhook_or_another_shape_of_rows_makes_another_digest(webhook: bytes) -> None:
    def digest(raw: bytes, shape: int = 0) -> str:
        read = read_item(make_reader(shape=shape), b'{"instanceId":"i","Webhook":' + raw + b"}")
        assert read is not None
        return read.digest

    assert digest(webhook) == digest(webhook) != digest(webhook, shape=1)
    assert digest(webhook) != digest(b'[{"webhookId":"w"}]')


# ------------------------------------------------------------------------------------------- whatever a server may send

TIME_TEXTS = st.one_of(
    st.datetimes(timezones=st.just(timezone.utc)).map(lambda time: time.isoformat().replace("+00:00", "Z")),
    st.datetimes().map(datetime.isoformat),
    st.sampled_from([*TIMES, *NO_TIMES, "2025-06-30T23:59:60Z", "2025-03-04T10:15:30,5Z", " 2025-03-04T10:15:30Z "]),
)
TEXTS = st.one_of(
    st.text(st.characters(), max_size=8),  # surrogates too
    st.sampled_from(["", "a\x00b", "\ud800", "\udc00x", "\ud83d\ude00", "😀", "\u2028", A_JWT]),
)
URLS = st.sampled_from([
    "https://a.example/x", "https://u:p@a.example/x", "https://a.example/x?token=1&b=2", "https://a.example/@?a:b@c",
    "u:p@a.example", "https://a.example/?next=https://u:p@b.example", "?", "@", "https://a.example/?Key=1#?key=2",
])  # fmt: skip
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.integers(10**20, 10**30))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, TIME_TEXTS, URLS)
ANY = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
KEYS = st.one_of(
    TEXTS,
    st.sampled_from([
        "newThing", "apiToken", "a_jwt", "x-api-key", "chatsDeleted", 'quo"te', "back\\slash", "new\nline", "f0", "x0",
        "", "Auth.authId", "Auth.jwt", "WhatsApp.newThing", "webhookId", "instanceId", "deleted_at", "WebhookEvents",
        "businessId", "__init__", "self", "class", "é", "additional_properties",
    ]),
)  # fmt: skip
FITTING = {"text": TEXTS | URLS, "flag": st.booleans(), "time": TIME_TEXTS}


@st.composite
def objects(draw: st.DrawFn, /, stream: str, prefix: str = "", **children: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Draw an API object: most values fit, some keys are missing, null, odd or new; in any order."""
    result: dict[str, Any] = {}
    for path, column in api_columns(stream).items():
        key = path.removeprefix(prefix)
        if not path.startswith(prefix) or "." in key or (chance := draw(st.integers(0, 30))) == 0:
            continue
        value = st.sampled_from(["i-1", "i-2"]) if column.name.endswith("ce_id") else FITTING[column.kind]
        result[key] = draw(st.none() if chance == 1 else ANY if chance == 2 else value)
    for key, strategy in children.items():
        result[key] = draw(strategy if draw(st.integers(0, 19)) else ANY)
    if draw(st.booleans()):
        result |= draw(st.dictionaries(KEYS, ANY, max_size=2))
    return dict(draw(st.permutations(list(result.items()))))


WEBHOOKS = objects(
    "webhooks",
    instanceInstanceId=st.sampled_from(["i-1", "i-2", None, 1]),
    WebhookEvents=st.none() | objects("webhook_events"),
)
INSTANCES = objects(
    "instances",
    Auth=st.none() | objects("instances", "Auth."),
    WhatsApp=st.none() | objects("instances", "WhatsApp."),
    Webhook=st.none() | st.lists(WEBHOOKS, max_size=2) | WEBHOOKS,
)


def as_json(value: Any, *, ascii_only: bool = True) -> bytes:  # noqa: ANN401
    """Write JSON as servers do: escapes, or UTF-8 with lone surrogates as escapes."""
    return json.dumps(value, ensure_ascii=ascii_only).encode(errors="backslashreplace")


@contextmanager
def value_by_value() -> Iterator[None]:
    """Let the structs of readers that are made now refuse all JSON, so that each value is converted by itself."""
    refusing = mock.Mock(decode=mock.Mock(side_effect=msgspec.ValidationError))
    with mock.patch.object(records, "decoder", return_value=refusing):
        yield


def assert_same(*raws: bytes, include_secrets: bool = False) -> None:
    """Read these items by the structs, before and after they know each key, and value by value: all is the same."""
    quick = make_reader(include_secrets=include_secrets)
    read = [read_item(quick, raw) for raw in raws]
    with value_by_value():
        slow = make_reader(include_secrets=include_secrets)
        assert [read_item(slow, raw) for raw in raws] == read
        assert quick.findings == slow.findings
        assert [read_item(slow, raw) for raw in raws] == read
    assert [read_item(quick, raw) for raw in raws] == read
    assert quick.findings == slow.findings


@pytest.mark.parametrize("include_secrets", [False, True])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(items=st.lists(INSTANCES | ANY, min_size=1, max_size=3), ascii_only=st.booleans())
def test_an_object_gives_the_same_rows_read_by_its_struct_and_value_by_value(
    items: list[Any],
    ascii_only: bool,  # noqa: FBT001
    include_secrets: bool,  # noqa: FBT001
) -> None:
    assert_same(*(as_json(item, ascii_only=ascii_only) for item in items), include_secrets=include_secrets)


@pytest.mark.parametrize("include_secrets", [False, True])
@settings(max_examples=100, deadline=None)
@given(value=ANY)
@example(value=float(10**30))
def test_each_column_alone_is_the_same_read_by_its_struct_and_value_by_value(
    value: Any,  # noqa: ANN401
    include_secrets: bool,  # noqa: FBT001
) -> None:
    for key in ("name", "createdAt", "Webhook", "Auth"):
        assert_same(as_json({"instanceId": "i", key: value}), include_secrets=include_secrets)
    for part in ("Auth", "WhatsApp"):
        assert_same(as_json({"instanceId": "i", part: {"createdAt": value}}), include_secrets=include_secrets)
    for key in ("webhookId", "url", "enabled", "updatedAt", "instanceInstanceId", "WebhookEvents"):
        webhook = {"webhookId": "w", key: value}
        assert_same(as_json({"instanceId": "i", "Webhook": [webhook]}), include_secrets=include_secrets)
    for key in ("newJwt", "webhookEventsId"):
        webhook = {"webhookId": "w", "WebhookEvents": {key: value}}
        assert_same(as_json({"instanceId": "i", "Webhook": [webhook]}), include_secrets=include_secrets)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"instanceId":"i","name":"a","name":"b"}',
        b'{"instanceId":"i","name":1,"name":"b"}',
        b'{"instanceId":"i","Webhook":[{"webhookId":"w"}],"Webhook":[]}',
        b'{"instanceId":"i","new":1,"new":{"apiToken":"x"}}',
        b'{"instanceId":"i","new":null,"new":null}',
        b'{"instanceId":"i","WhatsApp.new":1,"WhatsApp":{"new":2}}',
        b'{"instanceId":"i","new":1.50,"big":1e400,"small":-0.0,"int":123456789012345678901234567890}',
        b'{"instanceId":"i","Webhook":[{"webhookId":"w"},{"webhookId":"w","name":"again"}]}',
        b'{"instanceId":"i","name":"\\ud83d\\ude00","new":"\\ud83d"}',
        b'{ "instanceId" : "i" , "WhatsApp" : { "new" : [ 1 , 2 ] } , "Webhook" : [ ] } ',
        b'{"instanceId":"i","name":"\xff"}',
        b'{"instanceId":"i","new":{"\xc3":"x"}}',
        b'{"instanceId":"i","new":' + b"[" * 500 + b"]" * 500 + b"}",
    ],
)
def test_json_that_python_would_not_write_is_the_same_read_by_a_struct_and_value_by_value(raw: bytes) -> None:
    assert_same(raw, raw)


def example_items() -> list[dict[str, Any]]:
    """Give instances with webhooks as the API documents them."""
    world = World.seeded(3, businesses=1, instances=4)
    [business_id] = world.businesses
    items = [item for item in world.body(business_id)["Instances"] if item["Webhook"]]
    assert items
    return items


BY_ITSELF: Final = AssertionError("a value was read by itself")


def test_keys_that_no_column_holds_are_met_once_and_then_read_by_structs_alone() -> None:
    reader = make_reader()
    expected = [read_item(reader, item) for item in example_items()]
    assert reader.findings.unknown
    assert [read_item(reader, item) for item in example_items()] == expected
    with mock.patch.object(records, "_split", side_effect=BY_ITSELF):
        assert [read_item(reader, item) for item in example_items()] == expected


def test_times_in_other_zones_are_read_by_structs_alone() -> None:
    read = read_item(make_reader(), {"instanceId": "i", "createdAt": "2025-03-04T10:15:30+03:00", "Auth": None})
    assert read is not None
    with mock.patch.object(records, "_split", side_effect=BY_ITSELF):
        assert read_item(make_reader(), {"instanceId": "i", "createdAt": "2025-03-04T07:15:30"}) == read


def test_an_odd_object_is_read_by_itself_and_those_beside_it_by_their_structs() -> None:
    reader = make_reader()
    odd = {"webhookId": "w-2", "name": {"a": 1}, "WebhookEvents": {"newJwt": True}}
    with mock.patch.object(records, "_split", wraps=records._split) as split:
        _, read = instance(reader, Auth={"authId": "a"}, Webhook=[{"webhookId": "w-1"}, odd, {"webhookId": "w-3"}])
    assert [webhook.key for webhook in read.webhooks] == ["w-1", "w-2", "w-3"]
    assert [events.key for events in read.webhook_events] == ["w-2"]
    assert split.call_count == 1


def test_keys_without_end_do_not_make_structs_without_end() -> None:
    reader = make_reader()
    with mock.patch.object(msgspec, "defstruct", wraps=msgspec.defstruct) as made:
        for number in range(300):
            row, _ = instance(reader, **{f"new{number}": number, "WhatsApp": {f"new{number}": number}})
            assert row["additional_properties"] == {f"new{number}": number, f"WhatsApp.new{number}": number}
    assert made.call_count <= 5 * (MAX_UNKNOWN + 1)


def test_the_place_in_a_fault_is_the_items_own() -> None:
    reader = make_reader()
    assert read_item(reader, b"{}", 17) is None
    assert reader.findings.faults == ["Instances[17]: its instanceId is missing"]


@pytest.mark.parametrize("text", [b"", b'"\\u0000",'])
def test_an_item_nested_deeper_than_python_reads_is_reported_and_not_read(text: bytes) -> None:
    reader = make_reader()
    raw = b'{"instanceId":"i","x":[' + text + b"[" * 100_000 + b"]" * 100_000 + b"]}"
    assert read_item(reader, raw, 3) is None
    assert reader.findings.faults == ["Instances[3] is nested too deep to be read"]


def test_what_a_map_made_and_json_has_not_is_written_as_text() -> None:
    assert encode({"a": complex(1, 2), "b": parse_json(b"1e5")}) == b'{"a":"(1+2j)","b":1e5}'
