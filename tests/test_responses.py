"""What an answer's body is taken for: the shortest way through it gives what the general one does."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest

from tap_instances.responses import _Body, read_snapshot
from tap_instances.values import parse_json

NOW = datetime(2025, 6, 30, 12, tzinfo=timezone.utc)


def test_the_documented_body_is_split_in_one_pass(connected: dict[str, Any]) -> None:
    exact = msgspec.json.decode(json.dumps(connected).encode(), type=_Body)
    assert len(exact.Instances) == len(connected["Instances"])
    assert json.loads(bytes(exact.businessId)) == connected["businessId"]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"businessId":"b","name":"Padaria \xc3\xa3","Instances":[{"instanceId":"i"},5,null]}',
        b'{"Instances":[],"name":null,"businessId":17}',
        b'{"Instances":[]}',
        b' {"name" : {"a" : [1.50, 1e400]} , "Instances" : [ [] , {} ] } ',
        b'{"name":"a","name":"b","Instances":[1],"Instances":[2]}',
        b'{"name":"b","new":{"a":null},"Instances":[{"x":"\\ud83d"}]}',
        b'{"new":1,"Instances":[{"x":1}],"new":2}',
        b'\xef\xbb\xbf{"name":"b","Instances":[{"x":1}]}',
        b'{"name":"caf\xe9","Instances":[{"x":"\xff"}]}',
        b'{"n\xff":1,"Instances":[{"x":1}]}',
        b'{"name":"\\ud83d","Instances":[{"x":1}]}',
        b'{"name":"' + b"\\u00e9" * 3 + b'\x01","Instances":[]}',
        b'{"name":' + b"[" * 600 + b"]" * 600 + b',"Instances":[{}]}',
        b'{"new":' + b"[" * 600 + b"]" * 600 + b',"Instances":[{}]}',
    ],
)
def test_each_way_through_a_body_gives_what_the_general_one_does(raw: bytes) -> None:
    snapshot = read_snapshot(bytearray(raw), NOW)
    whole = parse_json(raw)
    items = [parse_json(bytes(item)) if isinstance(item, msgspec.Raw) else item for item in snapshot.instances]
    assert items == whole.pop("Instances")
    absent = {"businessId": None, "name": None}  # as if null
    assert {**absent, **snapshot.body} == {**absent, **whole}
    assert snapshot.observed_at == NOW


@pytest.mark.parametrize(("text", "odd"), [("a", False), ("\\u0000", True), ("\\ud83d", True), ("x.1234567", True)])
def test_a_body_that_types_cannot_see_through_is_marked(text: str, *, odd: bool) -> None:
    assert read_snapshot(bytearray(f'{{"Instances":[{{"name":"{text}"}}]}}'.encode()), NOW).odd is odd
