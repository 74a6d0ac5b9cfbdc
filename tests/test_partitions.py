"""A stream's partitions in the state: where they are put, and which are understood."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tap_instances.state import Partitions, is_partition

NO_PARTITION: list[Any] = [None, 1, "text", [], {}, [{}]]
NO_LIST: list[Any] = [None, 1, [], {}, {"i": "1=a"}]
NO_MEMORY: list[Any] = [None, 1, [], "i", {"i": None}, {"i": 1}, {"i": []}, {"i": {}}]
NO_TIME: list[Any] = [0, 1.5, [], {}, "", "yesterday", "2025-06-01", "2025-99-99T00:00:00Z", "2025-06-01T00:00:00"]


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
def test_what_this_version_writes_is_is_partition(entry: dict[str, Any], kind: type) -> None:
    assert is_partition(entry, kind)


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
def test_anything_else_is_not_is_partition(entry: Any, kind: type) -> None:  # noqa: ANN401
    assert not is_partition(entry, kind)
