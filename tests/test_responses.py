"""What a response is taken for: each way through a body gives the same, and a part of a list is told from the whole."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from tap_instances import responses
from tap_instances.paging import links_to_next, next_page_key
from tap_instances.values import decode, deep_recursion, parse_json, repair
from tests.kit.faults import FaultServer, answer, settings
from tests.kit.support import sync
from tests.kit.wire import read_body

NOW = datetime(2025, 6, 30, 12, tzinfo=timezone.utc)


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
    snapshot = read_body(raw, NOW)
    with deep_recursion():
        whole = decode(repair(raw))
        assert [decode(repair(bytes(item))) for item in snapshot.instances] == whole.pop("Instances")
    absent = {"businessId": None, "name": None}  # as if null
    assert {**absent, **snapshot.top} == {**absent, **whole}
    assert snapshot.observed_at == NOW


def test_a_byte_order_mark_alone_is_no_reason_to_repair_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "repair", None)
    snapshot = read_body(b'\xef\xbb\xbf{"new":1,"Instances":[{"x":1}]}', NOW)
    assert (snapshot.top, [bytes(item) for item in snapshot.instances]) == ({"new": 1}, [b'{"x":1}'])


@pytest.mark.parametrize(
    ("raw", "warned"),
    [
        (b'{"Instances":[{"instanceId":"i","name":"Padaria"}]}', False),
        ('{"Instances":[{"instanceId":"i","name":"São João 🥖"}]}'.encode(), False),
        ('{"Instances":[{"instanceId":"i","name":"São João"}]}'.encode("utf-16"), False),
        (b'\xef\xbb\xbf{"Instances":[]}', False),
        (('{"Instances":[],"new":"' + "é" * 70_001 + '\\ud83d"}').encode(), False),  # longer than a piece, cut within é
        ('{"Instances":[{"instanceId":"i","name":"São João"}]}'.encode("latin-1"), True),
        (b'{"name":"\xff","Instances":[]}', True),
        (b'{"name":"\n\xff","Instances":[]}', True),  # a raw line break, too
        (b'{"name":"' + b"x" * 70_000 + b'\xc3","Instances":[]}', True),
    ],
)
def test_bytes_that_are_not_utf8_are_read_and_warned_of_once(raw: bytes, *, warned: bool) -> None:
    with FaultServer(answer(200, raw)) as server:
        run = sync(settings(server.url))
    assert run.returncode == 0
    assert len([line for line in run.lines("WARNING") if "UTF-8" in line]) == warned
    assert ("\ufffd" in run.stdout) == (warned or "ud83d" in str(raw))


@pytest.mark.parametrize(
    ("header", "more"),
    [
        ('<https://h/x?page=2>; rel="next"', True),
        ("</x?page=2>; rel=next", True),
        ("</x?page=2>;REL = 'Next'", True),
        ('</x?page=9>; rel="last", </x?page=2>; title="2"; rel="next"', True),
        ('</x>; rel="first"; title="a, b", </x>; rel="last next"', True),
        ("", False),
        ('</x>; rel="prev"', False),
        ('</x;rel=next>; rel="self"', False),
        ("</x?a=1;rel=next>", False),
        ('</x>; title="a=b, c"; rel=next', True),
        ('</x>; title="; rel=next"; rel=self', False),
        ('</x>; rel=self; title="next"', False),
        ('</x>; rel="next-archive"', False),
        ('</x>; rel="nextish"', False),
        ('</x>; rev="next"', False),
    ],
)
def test_a_link_to_a_next_page_is_found_however_it_is_written(header: str, *, more: bool) -> None:
    assert links_to_next(header) is more


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"totalRecords": 120, "totalPages": 3, "currentPage": 1}, "totalPages"),
        ({"total_pages": "2"}, "total_pages"),
        ({"pages": 2, "page": 1}, "pages"),
        ({"nextPage": 2}, "nextPage"),
        ({"next": "/x?page=2"}, "next"),
        ({"next_cursor": "abc"}, "next_cursor"),
        ({"hasNextPage": True}, "hasNextPage"),
        ({"has-more": "true"}, "has-more"),
        ({"last": False}, "last"),
        ({"meta": {"pagination": {"pageCount": 2}}}, "meta.pagination.pageCount"),
        ({"_links": {"next": {"href": "/x"}}}, "_links.next"),
        ({"links": [{"rel": "self", "href": "/"}, {"rel": "Next", "href": "/x"}]}, "links"),
        ({"meta": {"_links": [{"rel": "next", "href": "/x"}]}}, "meta._links"),
        ({"page": {"number": 0, "totalPages": 4}}, "page.totalPages"),
        ({"total": 120, "limit": 50, "offset": 0}, "total"),
        ({"total": 2, "limit": 1}, "total"),
        ({"count": 120, "perPage": 50}, "count"),
        ({"isTruncated": True}, "isTruncated"),
        ({"currentPage": 1, "maxPage": 2}, "maxPage"),
        ({}, ""),
        ({"totalRecords": 1, "totalPages": 1, "currentPage": 1}, ""),
        ({"totalPages": 1, "currentPage": 0, "last": True}, ""),
        ({"totalPages": 0, "pages": "0"}, ""),
        ({"nextPage": None, "next": "", "hasMore": False, "hasNext": "false", "nextCursor": {}}, ""),
        ({"nextPage": "0", "next": "null", "nextUrl": "None", "more": []}, ""),
        ({"_links": {"next": {"href": None}}, "links": [{"rel": "next"}]}, ""),
        ({"total": 50, "limit": 50}, ""),
        ({"count": 7, "perPage": 50, "truncated": False, "maxPage": 1}, ""),
        ({"total": 120}, ""),  # of what, is not said
        ({"total": 120, "limit": None}, ""),
        ({"total": 120, "limit": 0}, ""),  # there is none
        ({"links": None, "_links": 3}, ""),
        ({"other": {"nextPage": 2}, "name": "next"}, ""),
        ({"totalPages": [3], "pages": "many"}, ""),
        ({"totalPages": 10**400}, ""),  # more than a float holds
    ],
)
def test_a_key_that_tells_of_more_pages_is_found(keys: dict[str, Any], found: str) -> None:
    assert next_page_key(parse_json(json.dumps(keys).encode())) == found
