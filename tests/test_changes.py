"""What to emit and what to remember, as pure functions of what was seen last time and what is there now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tap_instances import changes
from tap_instances.changes import Partitions, understood

if TYPE_CHECKING:
    from tap_instances.records import Row

HOSTILE = (
    *("a b", "a=b", "=", "%", "%20", "a%3Db", "+", "-", "'\"\\"),
    *("ção", "日本", "🥖", "\n", "\t", " ", "\u2028", "a\r\nb"),
)
NO_PARTITION: list[Any] = [None, 1, "text", [], {}, [{}]]
NO_LIST: list[Any] = [None, 1, [], {}, {"i": "1=a"}]
NO_MEMORY: list[Any] = [None, 1, [], "i", {"i": None}, {"i": 1}, {"i": []}, {"i": {}}]
NO_TIME: list[Any] = [0, 1.5, [], {}, "", "yesterday", "2025-06-01", "2025-99-99T00:00:00Z", "2025-06-01T00:00:00"]


# ------------------------------------------------------------------------------------------------- a row's digest


def digest(row: bytes, salt: bytes = b"") -> str:
    """Return the digest under which a row is remembered."""
    return changes.recall(changes.memory_of([("id", row, None)], salt))["id"]


@pytest.mark.parametrize("other", [b"", b"rows", b"Row", b"row ", b"row\x00"])
def test_another_row_has_another_digest(other: bytes) -> None:
    assert digest(b"row") != digest(other)


def test_the_same_row_has_the_same_digest_in_every_process() -> None:
    assert digest(b"row") == "da0e947a60ca106d"


def test_other_columns_make_another_digest() -> None:
    assert len({digest(b"row", salt) for salt in (b"", b"a", b"a,b")}) == 3


def test_rows_are_remembered_as_their_digests_are_in_whatever_order_they_come() -> None:
    rows: list[Row] = [(row_id, row_id.encode(errors="replace"), None) for row_id in HOSTILE]
    expected = changes.remember({row_id: digest(row) for row_id, row, _ in rows})
    assert changes.memory_of(rows) == changes.memory_of(rows[::-1]) == expected


@pytest.mark.parametrize("row_id", HOSTILE)
def test_a_row_of_any_id_is_remembered_alone_and_beside_another(row_id: str) -> None:
    one, other = (row_id, b"one", None), ("other", b"other", None)
    digests = {row_id: digest(b"one"), "other": digest(b"other")}
    assert changes.memory_of([one]) == changes.remember({row_id: digests[row_id]})
    assert changes.memory_of([one, other]) == changes.memory_of([other, one]) == changes.remember(digests)


# ---------------------------------------------------------------------------------------------------- an instance


@pytest.mark.parametrize(
    "digests",
    [{}, {"w": "1"}, {"w": "1", "v": "2"}, dict.fromkeys(HOSTILE, "abc"), {"w": ""}, {"w=1": "", "w": "1"}],
)
def test_what_is_remembered_is_recalled(digests: dict[str, str]) -> None:
    assert changes.recall(changes.remember(digests)) == digests


@pytest.mark.parametrize("row_id", HOSTILE)
def test_an_id_of_any_characters_is_recalled(row_id: str) -> None:
    assert changes.recall(changes.remember({row_id: "abc", "other": "def"})) == {row_id: "abc", "other": "def"}
    assert set(changes.read_list(changes.write_list([row_id, "other"]))) == {row_id, "other"}


def test_an_order_of_the_api_is_not_remembered() -> None:
    assert changes.remember({"a": "1", "b": "2"}) == changes.remember({"b": "2", "a": "1"}) == "1=a 2=b"
    assert changes.write_list(["b", "a"]) == changes.write_list(["a", "b"]) == "a b"


def test_a_uuid_stays_readable() -> None:
    row_id = "0f21ddb6-6cad-4a26-8d11-6ece1738f7d9"
    assert changes.remember({row_id: "abc"}) == f"abc={row_id}"
    assert changes.remember({"a=b/c": "1"}) == "1=a=b/c", "so does what needs no escape"


@pytest.mark.parametrize(
    ("hidden", "left"),
    [((), {"a": "1", "b c": "2"}), (("a",), {"b c": "2"}), (("b c", "x"), {"a": "1"}), (("a", "b c"), {})],
)
def test_what_is_forgotten_is_not_recalled(hidden: tuple[str, ...], left: dict[str, str]) -> None:
    assert changes.recall(changes.forget(changes.remember({"a": "1", "b c": "2"}), hidden)) == left
    assert changes.recall(changes.forget(changes.remember({"a": "1", "b c": "2"}), iter(hidden))) == left


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, {"a": "1"}, {"a"}),  # a new instance, or one that came back
        ("", {"a": "1"}, {"a"}),
        ("1=a", {"a": "1"}, set()),
        ("1=a", {"a": "2"}, {"a"}),
        ("1=a", {"a": "1", "b": "1"}, {"b"}),
        ("1=a 1=b", {"a": "1"}, set()),
        ("1=a", {}, set()),
        ("=a", {"a": "1"}, {"a"}),  # remembered without a digest: whole, at every run
    ],
)
def test_changed(before: str | None, now: dict[str, str], expected: set[str]) -> None:
    assert changes.changed(before, now) == expected


# ----------------------------------------------------------------------------------------------- all instances


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({}, {"i": "1=a"}, []),
        ({"i": "1=a"}, {"i": "1=a"}, []),
        ({"i": "1=a"}, {"i": "2=a"}, []),  # changed
        ({"i": "1=a"}, {"i": ""}, [("i", "a")]),
        ({"i": "1=a 1=b"}, {"i": "1=b"}, [("i", "a")]),
        ({"i": "1=a"}, {}, []),  # the instance is not listed: nothing is known of its webhooks
        ({"i": "1=a"}, {"j": "1=b"}, []),
        ({"i": "1=a", "j": ""}, {"i": "", "j": "1=a"}, []),  # it moved to another instance
        ({"i": "1=a", "j": "1=b"}, {"i": "", "j": ""}, [("i", "a"), ("j", "b")]),
        ({"i": "1=a", "j": "1=b"}, {"i": "1=a", "j": ""}, [("j", "b")]),
        ({"i": "1=a%20b"}, {"i": ""}, [("i", "a b")]),
    ],
)
def test_gone(before: dict[str, str], now: dict[str, str], expected: list[tuple[str, str]]) -> None:
    assert list(changes.gone(before, now)) == expected


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ([], [], []),
        ([], ["a", "b"], [("a", "connected"), ("b", "connected")]),
        (["a", "b"], ["b", "a"], []),
        (["a", "b"], ["b", "c"], [("c", "connected"), ("a", "disconnected")]),
        (["a"], [], [("a", "disconnected")]),
        ([], ["a", "a"], [("a", "connected")]),  # listed twice
        (["a", "a"], [], [("a", "disconnected")]),
    ],
)
def test_connections(before: list[str], now: list[str], expected: list[tuple[str, str]]) -> None:
    assert list(changes.connections(before, now)) == expected


# ------------------------------------------------------------------------------------------------------ the state


def partition(seen: Any = "a b", **values: Any) -> dict[str, Any]:  # noqa: ANN401
    """Make a partition as the tap writes it."""
    time = "2025-06-01T00:00:00Z"
    whole = {"context": {"business_id": "b"}, "version": 1, "replication_key": "k", "replication_key_value": time}
    return {**whole, "seen": seen, **values}


def test_a_partition_is_put_in_the_place_of_what_was() -> None:
    state: dict[str, Any] = {"bookmarks": {"webhooks": {"partitions": [partition({}, left="over"), partition({})]}}}
    other = state["bookmarks"]["webhooks"]["partitions"][1]
    other["context"]["business_id"] = "other"
    partitions = Partitions(state, "webhooks")
    partitions.put("b", seen={"i": ""})
    partitions.put("new", seen={})
    partitions.put("new", seen={"j": ""})
    assert state["bookmarks"]["webhooks"]["partitions"] == [
        {"context": {"business_id": "b"}, "version": 1, "seen": {"i": ""}},
        other,
        {"context": {"business_id": "new"}, "version": 1, "seen": {"j": ""}},
    ]
    assert partitions.get("new") == state["bookmarks"]["webhooks"]["partitions"][2]


@pytest.mark.parametrize("text", ["{}", '{"bookmarks": {}}', '{"bookmarks": {"webhooks": {}}}'])
def test_an_empty_state_grows_what_it_needs(text: str) -> None:
    state: dict[str, Any] = json.loads(text)
    partitions = Partitions(state, "webhooks")
    assert partitions.get("b") is None
    partitions.put("b", seen={})
    assert state["bookmarks"]["webhooks"]["partitions"][0]["context"] == {"business_id": "b"}


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (partition("", replication_key_value=None), str),
        (partition("a b%20c"), str),
        (partition({}), dict),
        (partition({"i": "", "j": "0123456789ab=a"}), dict),
        (partition({"i": "1=a 2=b=c 3=x\ny =d"}), dict),
        (partition({}, replication_key_value="2025-06-01T00:00:00.000001Z"), dict),
    ],
)
def test_what_this_version_writes_is_understood(entry: dict[str, Any], kind: type) -> None:
    assert understood(entry, kind)


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        *((nonsense, kind) for nonsense in NO_PARTITION for kind in (dict, str)),
        *((partition({}, version=version), dict) for version in (None, 0, 2, "1", [1])),
        *((partition(seen), str) for seen in NO_LIST),
        *((partition(seen), dict) for seen in NO_MEMORY),
        *((partition({"i": memory}), dict) for memory in ("a", "1=a b", "1=", "x=a", " ", "1=a  2=b")),
        *((partition({}, replication_key_value=value), dict) for value in NO_TIME),
    ],
)
def test_anything_else_is_not_understood(entry: Any, kind: type) -> None:  # noqa: ANN401
    assert not understood(entry, kind)
