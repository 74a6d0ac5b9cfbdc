"""What one run remembers for the next, as it stands in STATE, and what follows from it.

What was listed last time and what is listed now give what to emit. Times decide nothing: only connected instances are
listed, so a phone that reconnects brings webhooks whose ``updatedAt`` is months old.

``bookmarks.<stream>.partitions`` holds a :class:`Partition` per business. :func:`read_bookmarks` reads them,
:class:`RowMemory` compares and remembers an instance's rows.
"""

from __future__ import annotations

import logging
from codecs import BOM_UTF8
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import unquote

import msgspec
from msgspec import Raw, Struct
from xxhash import xxh3_64_hexdigest

from tap_instances.values import compact

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from tap_instances.records import Instance, Row

VERSION: Final = 2  # of a partition's shape
KEPT: Final = timedelta(days=90)  # for how long an instance is remembered that is not listed

NOT_UNDERSTOOD: Final = (ValueError, LookupError, TypeError, RecursionError, msgspec.DecodeError)

Time = Annotated[datetime, msgspec.Meta(tz=True)]

logger = logging.getLogger("tap-instances")


# ----------------------------------------------------------------------------------------------------- the structure


class Memory(Struct, omit_defaults=True, gc=False):
    """What is remembered of an instance in a stream.

    ``rows`` is webhook id -> digest of the row as it was emitted; an empty digest equals no row's. ``digest`` is that
    of the instance's ``Webhook`` as it came: while it is the same, no row has changed. Empty: look at each row.
    ``last_listed`` is set while the instance is away, which means that its business does not list it.
    """

    rows: dict[str, str]
    digest: str = ""
    last_listed: Time | None = None


class Context(Struct):
    """Whose a partition is."""

    business_id: str


class Partition(Struct, kw_only=True):
    """What a stream remembers of a business: the Singer bookmark."""

    context: Context
    version: Literal[2] = VERSION
    replication_key: str
    replication_key_value: Time | None = None


class ListPartition(Partition, kw_only=True):
    """Which instances a business listed."""

    seen: list[str]


class RowPartition(Partition, kw_only=True):
    """What is remembered of a business's instances: of those it listed at ``observed_at``, and of those away since."""

    observed_at: Time | None = None
    seen: dict[str, Memory]
    away: dict[str, Memory] = {}


Bookmark: TypeAlias = dict[Any, Any]  # business -> its partition; a number -> a partition that is kept as it came


# ----------------------------------------------------------------------------------------------------- reading STATE


def read_bookmarks(
    state: Any,  # noqa: ANN401
    kinds: Mapping[str, type[Partition] | None],
    businesses: Collection[str],
) -> dict[str, Bookmark | Raw]:
    """Return the bookmarks in a state (an object, or its JSON) by stream.

    ``kinds`` says what each stream of the tap remembers (``None``: nothing). What is not understood is left out with a
    WARNING, and so synced again; but bookmarks of other streams, and of businesses that are not in ``businesses``, are
    kept as they came.
    """
    try:
        bookmarks = _bookmarks(state)
    except NOT_UNDERSTOOD as error:
        what = "the state is not understood (it has no bookmarks)"
        if isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError):
            what = "the state is not understood (it is not JSON)"
        logger.warning("%s: everything is synced again", what)
        return {}
    if bookmarks and bookmarks.keys().isdisjoint(kinds):
        logger.warning("the state is not understood (it is another tap's): everything is synced again")
    result: dict[str, Bookmark | Raw] = {}
    for stream, bookmark in bookmarks.items():
        if stream not in kinds:
            result[stream] = Raw(bytes(bookmark))  # a copy, which does not keep the whole state in memory
        elif kind := kinds[stream]:
            result[stream] = _bookmark(stream, bookmark, kind, businesses)
    return result


def _bookmarks(state: Any) -> dict[str, Raw]:  # noqa: ANN401
    """Return the bookmarks in a state, which may be wrapped as a STATE message or as Meltano's ``singer_state``."""
    text = state if isinstance(state, bytes) else msgspec.json.encode(state)
    top = msgspec.json.decode(compact(text.removeprefix(BOM_UTF8)), type=dict[str, Raw])
    for wrapper in ("value", "singer_state"):
        if wrapper in top and "bookmarks" not in top:
            top = msgspec.json.decode(top[wrapper], type=dict[str, Raw])
    return msgspec.json.decode(top["bookmarks"], type=dict[str, Raw]) if top else {}


class _Bookmark(Struct):
    partitions: list[Raw]


def _bookmark(stream: str, raw: Raw, kind: type[Partition], businesses: Collection[str]) -> Bookmark:
    try:
        entries = msgspec.json.decode(raw, type=_Bookmark).partitions if raw != Raw(b"{}") else []
    except msgspec.DecodeError:
        logger.warning("the state of %s is not understood: it is synced in full", stream)
        return {}
    read = [(entry, *_partition(entry, kind)) for entry in entries]
    count = Counter(business_id for _, business_id, _ in read)
    bookmark: Bookmark = {}
    for entry, business_id, partition in read:
        if partition and count[business_id] == 1:
            bookmark[business_id] = partition
        elif business_id is not None and business_id not in businesses:
            bookmark[len(bookmark)] = Raw(bytes(entry))
        else:
            logger.warning("the state of %s, business %.100r, is not understood: it is synced in full",
                           stream, business_id)  # fmt: skip
    return bookmark


def _partition(entry: Raw, kind: type[Partition]) -> tuple[str | None, Partition | None]:
    """Return whose a partition is, and the partition, if this version of the tap wrote it, or version 1."""
    business_id = None
    with suppress(ValueError, LookupError, AttributeError, TypeError, msgspec.DecodeError):
        try:
            partition = msgspec.json.decode(entry, type=kind)
        except msgspec.ValidationError:
            old = msgspec.json.decode(entry)
            business_id = msgspec.convert(old["context"], Context).business_id
            partition = msgspec.convert(_upgrade(old), kind)
        return partition.context.business_id, partition
    return business_id, None


def _upgrade(old: dict[str, Any]) -> dict[str, Any]:
    """Return a partition of version 1 (of tap 1.0.0) in this version's shape.

    Lists of ids were one string, and so was what is remembered of an instance: ``digest=id digest=id``.
    """
    if old["version"] != 1:
        raise ValueError
    seen = old.get("seen")
    if isinstance(seen, str):
        seen = [unquote(entry) for entry in seen.split()]
    elif seen is not None:
        entries = {key: [entry.split("=", 1) for entry in memory.split()] for key, memory in seen.items()}
        seen = {key: {"rows": {unquote(row): digest for digest, row in pairs}} for key, pairs in entries.items()}
    return {**old, "seen": seen, "version": VERSION}


def as_given(state: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a given state as the value of STATE: without its wrapper, and empty if it is not understood."""
    with suppress(*NOT_UNDERSTOOD):
        return {"bookmarks": _bookmarks(state)}
    return {"bookmarks": {}}


def to_state(bookmarks: Mapping[str, Bookmark | Raw]) -> dict[str, Any]:
    """Return the value of STATE for bookmarks."""
    lists = {stream: {"partitions": list(of.values())} for stream, of in bookmarks.items() if isinstance(of, dict)}
    return {"bookmarks": {stream: lists.get(stream, of) for stream, of in bookmarks.items() if of != {}}}


# --------------------------------------------------------------------------------------------------- comparing rows


class RowMemory:
    """What one stream remembers of the instances of all businesses, and what it sees of one business at a time.

    For each business: :meth:`begin`; then for each listed instance :meth:`keep` (at most once: a second listing is
    compared), :meth:`compare` or :meth:`hide`; then :meth:`settle_gone` and :meth:`commit`, or :meth:`abandon`.

    A row that has a digest is remembered under one instance: whatever else lists it lists a row that is new to it.
    """

    def __init__(
        self, bookmark: Bookmark, *, shape: int = 0, full_table: bool = False, versioned: bool = False
    ) -> None:
        """Take what is remembered; ``shape`` is a digest of whatever else than a row's JSON makes it another row.

        ``full_table`` emits every row; ``versioned`` leaves it to ACTIVATE_VERSION to tell what is gone.
        """
        self.bookmark, self.shape, self.full_table, self.versioned = bookmark, shape, full_table, versioned
        self.unchanged = 0  # rows that were left out, since they are as remembered
        self.uncertain = False  # whether rows were kept of which nothing is known now
        self._committed: set[str] = set()  # businesses
        self._unknown: set[str] = set()  # rows of which nothing is known, if they have not arrived
        self._hidden_rows: set[str] = set()  # rows that a stream map filters out
        self._unsent: list[tuple[Memory, str]] = []  # rows that are remembered, and not part of this run's version

    @cached_property
    def _homes(self) -> dict[str, RowPartition]:
        """Instance -> the partition that remembers it; made when needed."""
        homes: dict[str, RowPartition] = {}
        for partition in self._partitions():
            for memories in (partition.seen, partition.away):
                for instance_id in homes.keys() & memories.keys():  # version 1 could remember it twice
                    if former := _take(homes[instance_id], instance_id):
                        memories[instance_id].rows.update(dict.fromkeys(former.rows, ""))
                homes.update(dict.fromkeys(memories, partition))
        return homes

    @cached_property
    def _owners(self) -> dict[str, tuple[str, ...]]:
        """Row -> the instances that remember it; made when needed."""
        return _owners(self.memories())

    def _partitions(self) -> list[RowPartition]:
        return [partition for partition in self.bookmark.values() if isinstance(partition, RowPartition)]

    def memories(self) -> dict[str, Memory]:
        """Return what is remembered of each instance."""
        memories: dict[str, Memory] = {}
        for partition in self._partitions():
            memories.update(partition.seen)
            memories.update(partition.away)
        return memories

    def _memory(self, instance_id: str) -> Memory | None:
        """Return what is remembered of an instance, whichever business listed it last."""
        home = self._homes.get(instance_id)
        return (home.seen.get(instance_id) or home.away.get(instance_id)) if home else None

    # ------------------------------------------------------------------------------------------------- one business

    def begin(self, business_id: str) -> None:
        """Get ready for a business's list."""
        self._former: RowPartition = self.bookmark.get(business_id) or RowPartition(
            context=Context(business_id), replication_key="updated_at", seen={}
        )
        self.latest = self._former.replication_key_value  # ``updatedAt``, for people to read
        self._seen: dict[str, Memory] = {}
        self._hidden: dict[str, Memory] = {}
        self._gone: dict[tuple[str, str], str] = {}  # (instance, row) that is not listed any more -> its digest
        self._kept: dict[tuple[str, str], str] = {}  # the same, but it is remembered
        self._arrived: list[str] = []  # rows that are new to an instance, for each one that lists them

    def keep(self, instance_id: str) -> None:
        """Remember an instance as before; it is one that is remembered."""
        # Most are in the first: so the map of all is not made while the body is in memory.
        home = self._former if instance_id in self._former.seen else self._homes[instance_id]
        memory = home.seen.get(instance_id) or home.away[instance_id]
        self.unchanged += len(memory.rows)
        self._seen[instance_id] = memory

    def hide(self, instance_id: str) -> None:
        """Remember the ids of an instance that a stream map filters out: its rows come whole when it passes again."""
        if memory := self._memory(instance_id):
            self._hidden[instance_id] = Memory(dict.fromkeys(memory.rows, ""))

    def compare(self, instance: Instance, rows: Sequence[Row]) -> Sequence[Row]:
        """Compare an instance's rows in this stream with what is remembered, and return those to emit."""
        instance_id, digest, hidden = instance.id, instance.digest, instance.hidden
        memory = self._memory(instance_id)
        known = memory.rows if memory else {}
        if hidden:
            rows = [row for row in rows if row.key not in hidden]
            self._hidden_rows |= hidden
        shape = self.shape
        now = {row.key: xxh3_64_hexdigest(row.json, shape) for row in rows}
        listed_before = self._seen.get(instance_id)
        twice = listed_before is not None or len(now) < len(rows)
        if twice:  # which is right cannot be known: all rows are emitted at every run
            now = dict.fromkeys([*(listed_before.rows if listed_before else ()), *now], "")
        emitted = rows
        arrived: Iterable[str] = now
        if known and not twice:
            arrived = [key for key in now if not known.get(key)]
            if not self.full_table:
                emitted = [row for row in rows if known.get(row.key) != now[row.key]]
                self.unchanged += len(rows) - len(emitted)
        self._arrived.extend(arrived)
        for key in known:
            if key in now:
                continue
            if key in hidden:
                self._kept[instance_id, key] = ""
            elif digest:
                self._gone[instance_id, key] = known[key]
            else:  # nothing is known of it
                self._kept[instance_id, key] = known[key]
                self.uncertain = True
        self._unknown |= instance.unknown_events
        self._seen[instance_id] = Memory(now, "" if twice or hidden or instance.unknown_events else digest)
        return emitted

    def settle_gone(self) -> list[tuple[str, str]]:
        """Return (instance, row) of each row that is gone from a listed instance, and did not move to another one.

        With a version there are none: it tells the target, and they are remembered until then.
        """
        if not self._gone:
            return []
        elsewhere = {*self._arrived, *(key for _instance_id, key in self._kept)}
        gone = []
        for (instance_id, key), digest in self._gone.items():
            if key in elsewhere:
                continue
            if key in self._unknown:
                self._kept[instance_id, key] = digest
                self.uncertain = True
            elif self.versioned or key in self._hidden_rows:  # by now it is another instance's, perhaps
                self.keep_gone(instance_id, key)
            else:
                gone.append((instance_id, key))
        return gone

    def keep_gone(self, instance_id: str, key: str) -> None:
        """Remember a row that its instance does not list, as long as the target has not been told that it is gone."""
        self._kept[instance_id, key] = ""

    def commit(self, business_id: str, observed_at: datetime) -> None:
        """Remember a business that was read whole, and of which every row was emitted.

        With FULL_TABLE too: INCREMENTAL may be chosen again.
        """
        self._settle_arrived()
        for (instance_id, key), digest in self._kept.items():
            memory = self._seen[instance_id]
            if key not in memory.rows:  # else the instance is listed twice
                memory.rows[key], memory.digest = digest, ""
                self._unsent.append((memory, key))
        former, seen = self._former, self._seen
        away = {instance_id: memory for instance_id, memory in self._hidden.items() if instance_id not in seen}
        now = seen | away
        new = now.keys() - former.seen.keys()
        for instance_id in new & self._homes.keys():  # it was away, or in another business
            _take(self._homes[instance_id], instance_id)
            now[instance_id].last_listed = None
        for instance_id in new:
            self._homes[instance_id] = former
        for instance_id, memory in (former.away | former.seen).items():
            if instance_id not in now:
                memory.last_listed = min(memory.last_listed or former.observed_at or observed_at, observed_at)
                away[instance_id] = memory
        former.replication_key_value, former.observed_at = self.latest, observed_at
        former.seen, former.away = seen, away
        self.bookmark[business_id] = former
        self._committed.add(business_id)

    def abandon(self) -> None:
        """Leave a business as it was remembered, for it was not read whole; but a row that moved to it is there now.

        It has no digest, so it comes again.
        """
        self._hidden = {}
        moved = self._settle_arrived()
        for instance_id, seen in self._seen.items():
            for key in moved.intersection(seen.rows):
                home = self._homes.setdefault(instance_id, self._former)
                memory = self._memory(instance_id) or home.away.setdefault(instance_id, Memory({}))
                memory.rows[key], memory.digest = "", ""
                self.bookmark[home.context.business_id] = home

    def _settle_arrived(self) -> set[str]:
        """Forget each row that is new to an instance under every other one that does not list it: it has moved.

        Return these rows. One that several instances list is emitted at every run: which is right cannot be known.
        """
        moved: set[str] = set()
        arrived = set(self._arrived)
        if not arrived or (not self._homes and len(arrived) == len(self._arrived)):
            return moved  # nothing may have moved, and none is listed twice
        listing = _owners(self._seen)
        for key in self._owners.keys() & arrived:
            for instance_id in set(self._owners[key]).difference(listing[key]):
                self._forget(instance_id, key)
                moved.add(key)
        self._owners.update(listing)
        for key in [key for key, ids in listing.items() if len(ids) > 1]:
            for instance_id in listing[key]:
                memory = self._seen[instance_id]
                memory.rows[key], memory.digest = "", ""
        return moved

    def _forget(self, instance_id: str, key: str) -> None:
        """Forget a row under an instance that does not list it."""
        self._kept.pop((instance_id, key), None)
        memory = self._hidden.get(instance_id) or self._memory(instance_id)
        if memory and memory.rows.pop(key, None) is not None:
            memory.digest = ""

    # ---------------------------------------------------------------------------------------------- the end of a run

    def forget(self) -> None:
        """Forget what was away for too long when its business was read: by now no other business has it."""
        for partition in [self.bookmark[business_id] for business_id in self._committed]:
            for instance_id, memory in list(partition.away.items()):
                if partition.observed_at - (memory.last_listed or partition.observed_at) > KEPT:
                    del partition.away[instance_id]

    def activated(self) -> None:
        """Forget what the target deleted since it was not part of this run's version."""
        for memory, key in self._unsent:
            memory.rows.pop(key, None)
        for partition in self._partitions():
            partition.away = {}
            if partition.context.business_id not in self._committed:
                partition.seen = {}


def _take(partition: RowPartition, instance_id: str) -> Memory | None:
    """Remove an instance from where it is remembered, and return what was."""
    return partition.seen.pop(instance_id, None) or partition.away.pop(instance_id, None)


def _owners(memories: Mapping[str, Memory]) -> dict[str, tuple[str, ...]]:
    """Return which instances have a row, for each row."""
    owners: dict[str, tuple[str, ...]] = {}
    for instance_id, memory in memories.items():
        for key in memory.rows:
            owners[key] = (*owners.get(key, ()), instance_id)
    return owners
