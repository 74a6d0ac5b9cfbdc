"""What was seen last time, and what is there now, give what to emit and what to remember. Pure functions.

Times decide nothing here: only connected instances are listed, so a phone that reconnects brings back rows that are
months old. What is remembered of a stream and a business is a *memory*: instance id -> one short string.
"""

from __future__ import annotations

import re
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from xxhash import xxh3_64_hexdigest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tap_instances.records import Row

FIRST_SYNC: Final = "1970-01-01T00:00:00Z"

Memory = dict[str, str]

_ID: Final = itemgetter(0)

_ENTRY: Final = r"[0-9a-f]*=[^ ]+"  # without a digest: equal to no row's
_MEMORY: Final = re.compile(f"(?:{_ENTRY}(?: {_ENTRY})*)?")


def remember(digests: Mapping[str, str]) -> str:
    """Write row ids and digests as one string: ``digest=id digest=id``, in the ids' order.

    A digest is 16 characters (64 bits) that change when the row does; it is compared with one former row's only.
    """
    rows = digests.items() if len(digests) < 2 else sorted(digests.items())  # noqa: PLR2004
    return " ".join([f"{value}={_escape(row_id)}" for row_id, value in rows])


def memory_of(rows: Sequence[Row], salt: bytes = b"") -> str:
    """Return :func:`remember`'s string for an instance's rows: what is done for every row of every run."""
    if len(rows) > 1:
        rows = sorted(rows, key=_ID)
    if salt:
        rows = [(row_id, row + salt, time) for row_id, row, time in rows]
    memory = " ".join([f"{xxh3_64_hexdigest(row)}={row_id}" for row_id, row, _ in rows])
    if "%" in memory or memory.count(" ") >= len(rows) > 0:  # an id that needs escaping
        return remember({row_id: xxh3_64_hexdigest(row) for row_id, row, _ in rows})
    return memory


def recall(memory: str) -> dict[str, str]:
    """Read :func:`remember`'s string back: row id -> digest."""
    pairs = (entry.partition("=") for entry in memory.split(" ") if entry)
    return {unquote(row_id): value for value, _, row_id in pairs}


def is_memory(value: Any) -> bool:  # noqa: ANN401
    """Tell whether a value is a memory, as :func:`remember` writes its strings."""
    return isinstance(value, dict) and all(
        isinstance(string, str) and _MEMORY.fullmatch(string) for string in value.values()
    )


def forget(memory: str, hidden: Iterable[str]) -> str:
    """Return an instance's memory without some of its rows."""
    hidden = set(hidden)
    return remember({row_id: value for row_id, value in recall(memory).items() if row_id not in hidden})


def changed(before: str | None, now: Mapping[str, str]) -> set[str]:
    """Return the ids of an instance's rows to emit: new, changed, or of an instance that came back."""
    known = recall(before) if before else {}
    return {row_id for row_id, value in now.items() if known.get(row_id) != value}


def gone(before: Memory, now: Memory) -> Iterator[tuple[str, str]]:
    """Yield (instance id, row id) of what was remembered and is gone from an instance that is still listed."""
    alive: set[str] | None = None
    for instance_id, memory in now.items():
        known = before.get(instance_id)
        if not known or known == memory:
            continue
        for row_id in recall(known).keys() - recall(memory).keys():
            # Only now, which is seldom: did it move to another instance?
            alive = {any_id for string in now.values() for any_id in recall(string)} if alive is None else alive
            if row_id not in alive:
                yield instance_id, row_id


def connections(before: Iterable[str], now: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (instance id, 'connected' or 'disconnected') of a business's list between two runs."""
    before, now = dict.fromkeys(before), dict.fromkeys(now)
    yield from ((instance_id, "connected") for instance_id in now if instance_id not in before)
    yield from ((instance_id, "disconnected") for instance_id in before if instance_id not in now)


def write_list(ids: Iterable[str]) -> str:
    """Write ids as one string, in their order."""
    return " ".join(sorted(map(_escape, ids)))


def read_list(string: str) -> list[str]:
    """Read :func:`write_list`'s string back."""
    return [unquote(row_id) for row_id in string.split(" ") if row_id]


def _escape(row_id: str) -> str:
    """Return an id without what has a meaning in a memory (a UUID stays as it is)."""
    return row_id if " " not in row_id and "%" not in row_id else quote(row_id, safe="")
