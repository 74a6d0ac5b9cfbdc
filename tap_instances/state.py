"""The state, as it stands in STATE: one partition a business and stream. What cannot be understood is left out."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tap_instances.changes import is_memory
from tap_instances.values import time_text, to_time

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

VERSION: Final = 1  # of a partition's shape

logger = logging.getLogger("tap-instances")


class Partitions:
    """One stream's partitions in the tap's state, one a business, found without a search.

    A partition is ``{"context": {"business_id"}, "version", "replication_key", "replication_key_value", "seen"}``,
    where ``seen`` is a memory, or (``connection_changes``) a list of ids as one string.
    """

    def __init__(self, state: dict[str, Any], stream: str) -> None:
        """Index the partitions of a stream; ``state`` is the tap's and is changed in place by :meth:`put`."""
        self._state, self._stream = state, stream
        partitions = state.get("bookmarks", {}).get(stream, {}).get("partitions", [])
        self._index: dict[str, dict[str, Any]] = {entry["context"]["business_id"]: entry for entry in partitions}

    def get(self, business_id: str) -> dict[str, Any] | None:
        """Return what is remembered of a business."""
        return self._index.get(business_id)

    def put(self, business_id: str, **values: Any) -> None:  # noqa: ANN401
        """Remember this of a business, in the place of what was."""
        partition = self._index.get(business_id)
        if partition is None:
            bookmark = self._state.setdefault("bookmarks", {}).setdefault(self._stream, {})
            partition = self._index[business_id] = {}
            bookmark.setdefault("partitions", []).append(partition)
        partition.clear()
        partition.update(context={"business_id": business_id}, version=VERSION, **values)


def understood(
    state: Mapping[str, Any], streams: Mapping[str, type | None], businesses: Collection[str]
) -> dict[str, Any]:
    """Return the bookmarks of a given state that can be gone on from, and warn of those that cannot.

    ``streams`` tells what a stream's partitions remember as "seen" (``None``: nothing), ``businesses`` are the
    configured ones; what is remembered of others is kept as it is, and so are bookmarks of other taps' streams.
    """
    bookmarks = state.get("bookmarks")
    if not isinstance(bookmarks, dict) or not _is_json(bookmarks):
        logger.warning("the state is not understood (no bookmarks): everything is synced again")
        return {}
    result: dict[str, Any] = {}
    for stream, bookmark in bookmarks.items():
        if stream not in streams:
            result[stream] = bookmark
        elif seen := streams[stream]:
            result[stream] = {"partitions": _understood_partitions(stream, bookmark, seen, businesses)}
    return result


def _understood_partitions(
    stream: str,
    bookmark: Any,  # noqa: ANN401
    seen: type,
    businesses: Collection[str],
) -> list[dict[str, Any]]:
    partitions = bookmark.get("partitions", None if bookmark else []) if isinstance(bookmark, dict) else None
    if not isinstance(partitions, list):
        logger.warning("the state of %s is not understood: it is synced in full", stream)
        return []
    ids = [_business_id(partition) for partition in partitions]
    count = Counter(ids)
    result = []
    for partition, business_id in zip(partitions, ids, strict=True):
        one = business_id is not None and count[business_id] == 1
        if one and (business_id not in businesses or is_partition(partition, seen)):
            result.append(partition)
        else:
            logger.warning("the state of %s, business %.100r, is not understood: it is synced in full",
                           stream, business_id)  # fmt: skip
    return result


def _business_id(partition: Any) -> str | None:  # noqa: ANN401
    context = partition.get("context") if isinstance(partition, dict) else None
    business_id = context.get("business_id") if isinstance(context, dict) else None
    return business_id if isinstance(business_id, str) else None


def is_partition(partition: Any, seen: type) -> bool:  # noqa: ANN401
    """Tell whether a partition is one that this version wrote; ``seen`` is ``dict`` (a memory) or ``str``."""
    if not isinstance(partition, dict) or partition.get("version") != VERSION:
        return False
    value, memory = partition.get("replication_key_value"), partition.get("seen")
    return (value is None or _is_time(value)) and (is_memory(memory) if seen is dict else isinstance(memory, seen))


def _is_time(value: Any) -> bool:  # noqa: ANN401
    time = to_time(value)
    return isinstance(time, datetime) and time_text(time) == value


def _is_json(value: Any) -> bool:  # noqa: ANN401
    """Tell whether a STATE can carry this: no lone surrogate, and nested no deeper than is sane."""
    try:
        msgspec.json.encode(value)
    except (ValueError, RecursionError):
        return False
    return True
