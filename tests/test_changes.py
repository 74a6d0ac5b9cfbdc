"""What to emit and what to remember, as pure functions of what was seen last time and what is there now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tap_instances import changes

if TYPE_CHECKING:
    from tap_instances.records import Row

HOSTILE = (
    *("a b", "a=b", "=", "%", "%20", "a%3Db", "+", "-", "'\"\\"),
    *("ção", "日本", "🥖", "\n", "\t", " ", "\u2028", "a\r\nb"),
)


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
