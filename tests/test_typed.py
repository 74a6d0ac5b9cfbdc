"""The typed way and the general way are one: the same bytes, the same findings, for whatever a server may send."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import DecodeError, Raw
from msgspec.json import decode
from tap_instances.typed import MAX_LEARNT, TypedReader, looks_odd

from demo.codechat import FLAGS, World
from tap_instances import records
from tap_instances.columns import api_columns
from tap_instances.records import Findings, Reading
from tap_instances.values import parse_json

BUSINESS = "b-1"
NOW = datetime(2025, 6, 30, 12, tzinfo=timezone.utc)


def reading(*, include_secrets: bool) -> Reading:
    return Reading(BUSINESS, NOW, include_secrets, Findings())


def assert_same(reader: TypedReader, *raws: bytes) -> None:
    """Read these items in both ways, each with what it found of those before."""
    fast, slow = (reading(include_secrets=reader.include_secrets) for _ in range(2))
    for raw in raws:
        general = records.read_instance(parse_json(raw), "Instances[0]", slow)
        assert reader.read(Raw(raw), 0, fast, odd=looks_odd(raw)) == general
        assert set(fast.findings.unknown) == set(slow.findings.unknown)
        assert set(fast.findings.withheld) == set(slow.findings.withheld)
        assert fast.findings.faults == slow.findings.faults


# ------------------------------------------------------------------------------------------------ what may come

TIMES = st.one_of(
    st.datetimes(timezones=st.just(timezone.utc)).map(lambda time: time.isoformat().replace("+00:00", "Z")),
    st.datetimes().map(datetime.isoformat),
    st.sampled_from([
        "2025-03-04T10:15:30.123Z", "2025-03-04T10:15:30.1234567Z", "2025-03-04T10:15:30.12345678901Z",
        "2025-03-04 10:15:30Z", "2025-03-04t10:15:30z", "2025-03-04T10:15:30+03:00", "2025-03-04T10:15:30-00:00",
        "2025-03-04T10:15:30+0300", "2025-03-04T10:15:30+03", "2025-03-04T10:15:30+23:59", "2025-03-04", "2025-03",
        "2025-03-04T10:15Z", "2025-03-04T10:15:60Z", "2025-06-30T23:59:60Z", "2025-03-04T24:00:00Z", "20250304T101530Z",
        "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z",
        "2025-02-29T00:00:00Z", "2024-02-29T00:00:00Z", "2025-03-04T10:15:30.Z", "2025-03-04T10:15:30,5Z", "", "now",
        " 2025-03-04T10:15:30Z ", "2025-03-04T10:15:30 Z", "2025-03-04T10:15:30Z[UTC]", "-2025-03-04T10:15:30Z",
        "٢٠٢٥-٠٣-٠٤", "2025-03-04T10:15:30.123456Z", "2025-03-04T10:15:30.100000Z", "2025-03-04T10:15:30+00:00",
    ]),
)  # fmt: skip
TEXTS = st.one_of(
    st.text(st.characters(), max_size=8),  # surrogates too
    st.sampled_from(["", "a\x00b", "\ud800", "\udc00x", "\ud83d\ude00", "😀", "\u2028", "eyJhbGciOi.eyJzdWIiOi.sig"]),
)
URLS = st.sampled_from([
    "https://a.example/x", "https://u:p@a.example/x", "https://a.example/x?token=1&b=2", "https://a.example/@?a:b@c",
    "u:p@a.example", "https://a.example/?next=https://u:p@b.example", "?", "@", "https://a.example/?Key=1#?key=2",
])  # fmt: skip
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.integers(10**20, 10**30))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, TIMES, URLS)
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
PLAIN = st.sampled_from(["", "a", "São João 🥖", "\u2028", "eyJhbGciOi.eyJzdWIiOi.sig", "https://u:p@a.example/?key=1"])
PLAIN_TIMES = st.datetimes(timezones=st.just(timezone.utc)).map(lambda time: time.isoformat().replace("+00:00", "Z"))
FIT = {"text": PLAIN, "flag": st.booleans(), "time": PLAIN_TIMES}
LOOSE = {"text": TEXTS, "flag": st.booleans(), "time": TIMES}
IDS = st.sampled_from(["i-1", "i-2"])


@st.composite
def objects(
    draw: st.DrawFn, /, stream: str, prefix: str = "", *, fit: bool = True, **children: st.SearchStrategy[Any]
) -> dict[str, Any]:
    """Draw an API object with some unknown keys; unless it shall fit, with keys missing, odd, in any order."""
    result: dict[str, Any] = {}
    for path, column in api_columns(stream).items():
        key = path.removeprefix(prefix)
        if not path.startswith(prefix) or "." in key:
            continue
        chance = 9 if fit else draw(st.integers(0, 30))
        if chance == 0:
            continue
        value = URLS if column.name == "url" else (FIT if fit else LOOSE)[column.kind]
        if column.name in {"instance_id", "webhook_id"}:
            value = IDS
        result[key] = draw(st.none() if chance == 1 else ANY if chance == 2 else value)
    for key, strategy in children.items():
        result[key] = draw(strategy if fit or draw(st.integers(0, 19)) else ANY)
    if draw(st.booleans()):
        result |= draw(st.dictionaries(KEYS, ANY, max_size=2) if not fit else NEW)
    return result if fit else dict(draw(st.permutations(list(result.items()))))


NEW = st.dictionaries(
    st.sampled_from(["chatsDeleted", "apiToken", "x-api-key", "", "é", "f0"]),
    PLAIN | st.booleans() | st.none() | st.fixed_dictionaries({"jwt": PLAIN, "b": st.lists(NUMBERS, max_size=2)}),
    max_size=2,
)


def instances(*, fit: bool) -> st.SearchStrategy[dict[str, Any]]:
    """Return what draws instances with all their levels."""
    owner = st.none() if fit else st.sampled_from(["i-1", "i-2", None, 1])
    events = st.none() | objects("webhook_events", fit=fit)
    webhooks = objects("webhooks", fit=fit, instanceInstanceId=owner, WebhookEvents=events)
    listed = st.lists(webhooks, max_size=2)
    return objects(
        "instances",
        fit=fit,
        Auth=st.none() | objects("instances", "Auth.", fit=fit),
        WhatsApp=st.none() | objects("instances", "WhatsApp.", fit=fit),
        Webhook=st.none() | (listed if fit else listed | webhooks),
    )


INSTANCES = instances(fit=True) | instances(fit=False)


def as_json(value: Any, *, ascii_only: bool = True) -> bytes:  # noqa: ANN401
    """Write JSON as servers do: escapes, or UTF-8 with lone surrogates as escapes."""
    return json.dumps(value, ensure_ascii=ascii_only).encode(errors="backslashreplace")


@pytest.mark.parametrize("include_secrets", [False, True])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(items=st.lists(INSTANCES | ANY, min_size=1, max_size=3), ascii_only=st.booleans())
def test_both_ways_give_the_same_rows_and_findings(
    items: list[Any],
    ascii_only: bool,  # noqa: FBT001
    include_secrets: bool,  # noqa: FBT001
) -> None:
    raws = [as_json(item, ascii_only=ascii_only) for item in items]
    assert_same(TypedReader(include_secrets=include_secrets), *raws, *raws)  # the second time with what was learnt


@pytest.mark.parametrize("include_secrets", [False, True])
@settings(max_examples=150, deadline=None)
@given(value=ANY)
@example(value=float(10**30))
def test_both_ways_agree_on_each_column_alone(value: Any, include_secrets: bool) -> None:  # noqa: ANN401, FBT001
    reader = TypedReader(include_secrets=include_secrets)
    for key in ("name", "createdAt"):
        assert_same(reader, as_json({"instanceId": "i", key: value}))
    for part in records.PARTS:
        assert_same(reader, as_json({"instanceId": "i", part: {"createdAt": value}}))
    for key in ("url", "enabled", "updatedAt", "instanceInstanceId", "WebhookEvents"):
        assert_same(reader, as_json({"instanceId": "i", "Webhook": [{"webhookId": "w", key: value}]}))
    for key in ("newJwt", "webhookEventsId"):
        assert_same(
            reader, as_json({"instanceId": "i", "Webhook": [{"webhookId": "w", "WebhookEvents": {key: value}}]})
        )


@settings(max_examples=100, deadline=None)
@given(time=TIMES)
def test_both_ways_read_each_time_alike(time: str) -> None:
    assert_same(TypedReader(include_secrets=False), as_json({"instanceId": "i", "createdAt": time}))


@pytest.mark.parametrize(
    "raw",
    [
        b'{"instanceId":"i","name":"a","name":"b"}',
        b'{"instanceId":"i","name":1,"name":"b"}',
        b'{"instanceId":"i","new":1,"new":{"apiToken":"x"}}',
        b'{"instanceId":"i","new":null,"new":null}',
        b'{"instanceId":"i","WhatsApp.new":1,"WhatsApp":{"new":2}}',
        b'{"instanceId":"i","new":1.50,"big":1e400,"small":-0.0,"int":123456789012345678901234567890}',
        b'{"instanceId":"i","Webhook":[{"webhookId":"w"},{"webhookId":"w","name":"again"}]}',
        b'{"instanceId":"i","name":"\\ud83d\\ude00","new":"\\ud83d"}',
        b' { "instanceId" : "i" , "WhatsApp" : { "new" : [ 1 , 2 ] } } ',
        b'{"instanceId":"i","name":"\xff"}',
        b'{"instanceId":"i","new":"\xff"}',
        b'{"instanceId":"i","new":{"\xc3":"x"}}',
        b'{"instanceId":"i","createdAt":"2025-03-04T10:15:30.0000000Z"}',
        b'{"instanceId":"i","new":' + b"[" * 500 + b"]" * 500 + b"}",
    ],
)
def test_both_ways_agree_on_json_that_python_would_not_write(raw: bytes) -> None:
    reader = TypedReader(include_secrets=False)
    assert_same(reader, raw)
    assert_same(reader, raw)


# ------------------------------------------------------------------------------------------------------ learning


def fast(reader: TypedReader, item: Any) -> bool:  # noqa: ANN401
    """Tell whether the types take an item, so that it is not parsed into Python objects."""
    try:
        reader._read_instance(reader._decode(as_json(item)), reading(include_secrets=reader.include_secrets))
    except DecodeError:
        return False
    return True


def example_item() -> dict[str, Any]:
    world = World.seeded(3, businesses=1, instances=2)
    [business_id] = world.businesses
    item: dict[str, Any] = next(item for item in world.body(business_id)["Instances"] if item["Webhook"])
    for hook in item["Webhook"]:
        hook["WebhookEvents"].pop("chatsDeleted", None)
    return item


def test_the_documented_object_takes_the_fast_way() -> None:
    assert set(FLAGS) <= set(example_item()["Webhook"][0]["WebhookEvents"])
    assert fast(TypedReader(include_secrets=False), example_item())
    assert fast(TypedReader(include_secrets=True), example_item())


@pytest.mark.parametrize("level", ["", "Auth", "WhatsApp", "Webhook", "WebhookEvents"])
@pytest.mark.parametrize("key", ["chatsDeleted", "apiToken", "é", "", "x0", "f0", "class", "Auth.jwt"])
def test_a_new_key_is_learnt_at_each_level_when_it_is_met(level: str, key: str) -> None:
    item = example_item()
    hook = item["Webhook"][0]
    target = {"": item, "Webhook": hook, "WebhookEvents": hook["WebhookEvents"]}.get(level) or item[level]
    target[key] = {"a": [1, "b"]}
    reader = TypedReader(include_secrets=False)
    assert not fast(reader, item)
    assert_same(reader, as_json(item))
    assert fast(reader, item)
    assert_same(reader, as_json(item))
    assert fast(reader, example_item())


@pytest.mark.parametrize("key", ['quo"te', "back\\slash", "new\nline", "nul\x00", "\ud800"])
def test_a_key_that_cannot_be_learnt_goes_the_general_way_for_ever(key: str) -> None:
    item = {"instanceId": "i", key: "value", "newThing": 1}
    reader = TypedReader(include_secrets=False)
    for _ in range(3):
        assert_same(reader, as_json(item))
    assert not fast(reader, item)
    assert fast(reader, {"instanceId": "i", "newThing": 1})


def test_no_more_keys_are_learnt_than_the_limit_also_when_they_come_at_once() -> None:
    reader = TypedReader(include_secrets=False)
    for first in range(0, 3 * MAX_LEARNT, MAX_LEARNT + 7):
        item = {"instanceId": "i", **{f"key{number}": number for number in range(first, first + MAX_LEARNT + 7)}}
        assert_same(reader, as_json(item))
        assert len(reader._instance.learnt) <= MAX_LEARNT
    assert len(reader._instance.learnt) == MAX_LEARNT
    assert_same(reader, as_json({"instanceId": "i", "key1": {"b": 1, "a": 2}, "key0": True}))


def test_items_that_are_parsed_already_take_the_general_way() -> None:
    reader, place = TypedReader(include_secrets=False), reading(include_secrets=False)
    item = example_item()
    assert reader.read(item, 0, place, odd=True) == records.read_instance(item, "Instances[0]", place)


@settings(max_examples=100, deadline=None)
@given(item=instances(fit=True))
def test_what_fits_takes_the_fast_way_once_its_keys_are_learnt(item: dict[str, Any]) -> None:
    reader = TypedReader(include_secrets=False)
    assert_same(reader, as_json(item))
    assert fast(reader, item)


def test_what_was_found_before_changes_nothing() -> None:
    items = [{"instanceId": "i", "apiToken": value} for value in ("s3cr3t", True, "s3cr3t", True, None, {"a": 1})]
    assert_same(TypedReader(include_secrets=False), *map(as_json, items), *map(as_json, items))


def test_a_place_in_a_fault_is_the_items_own() -> None:
    place = reading(include_secrets=False)
    assert TypedReader(include_secrets=False).read(Raw(b"{}"), 17, place, odd=False) is None
    assert place.findings.faults == ["Instances[17]: its instanceId is missing"]


def test_an_item_nested_deeper_than_python_reads_is_reported_and_not_read() -> None:
    place = reading(include_secrets=False)
    raw = Raw(b'{"instanceId":"i","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    assert TypedReader(include_secrets=False).read(raw, 3, place, odd=False) is None
    assert place.findings.faults == ["Instances[3] is nested too deep to be read"]


def test_raw_json_is_what_msgspec_splits_off() -> None:
    [item] = decode(b'[{"instanceId":"i"}]', type=list[Raw])
    got = TypedReader(include_secrets=False).read(item, 0, reading(include_secrets=False), odd=False)
    assert got is not None
    assert got.id == "i"
