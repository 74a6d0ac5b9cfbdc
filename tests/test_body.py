"""A response's body: whole while it is needed, given back to the system while it is read."""

from __future__ import annotations

import json
import mmap
import sys

import msgspec
import pytest
from msgspec import Raw

from tap_instances import body as bodies
from tap_instances.body import CHUNK, Body

ITEM = b'{"text":"%0500d"}'


def chunks(raw: bytes, size: int) -> list[bytes]:
    """Cut bytes as a network does."""
    return [raw[start : start + size] for start in range(0, len(raw), size)]


@pytest.mark.parametrize("size", [1, 1000, CHUNK, 3 * CHUNK])
def test_a_body_is_its_parts(size: int) -> None:
    raw = json.dumps(list(range(400_000 if size > 1 else 400))).encode()
    assert bytes(Body(chunks(raw, size))) == raw


def test_no_body_is_an_empty_one() -> None:
    assert bytes(Body([])) == bytes(Body([b""])) == b""


def test_a_body_grows_where_memory_cannot_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(mmap.mmap):
        def resize(self, newsize: int) -> None:
            raise SystemError(newsize)  # as on macOS

    monkeypatch.setattr(bodies, "_allocate", lambda size: Fixed(-1, size))
    raw = json.dumps(list(range(400_000))).encode()
    assert bytes(Body(chunks(raw, CHUNK // 3))) == raw


def test_a_system_that_takes_no_advice_reads_a_body_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MADV_POPULATE_WRITE", 12345)  # an old Linux says EINVAL
    assert bytes(Body([b"[1,", b"2]"])) == b"[1,2]"


@pytest.mark.parametrize("space", [b"", b" " * 300])
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system may free it later")
def test_what_was_read_is_freed_and_nothing_else(space: bytes) -> None:
    items = [ITEM % number for number in range(20_000)]
    body = Body(chunks(space + b"[" + (b"," + space).join(items) + b"]", CHUNK))
    raws = msgspec.json.decode(body.view, type=list[Raw])
    whole, read = bytes(body), 0
    for index, item in enumerate(body.take(raws)):
        assert item == items[index]
        read += len(item)
        if index == len(items) * 3 // 4:
            now = bytes(body)
            freed = len(now) - len(now.lstrip(b"\x00"))
            assert read - 2 * CHUNK < freed <= read
            assert now[freed:] == whole[freed:]
