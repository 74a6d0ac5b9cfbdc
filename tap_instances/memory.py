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
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import unquote

import msgspec
from msgspec import Raw, Struct

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from tap_instances.records import Row

VERSION: Final = 2  # of a partition's shape
KEPT: Final = timedelta(days=90)  # for how long an instance is remembered that is not listed

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


# ----------------------------------------------------------------------------------------------------- reading STATE


def read_bookmarks(
    state: Any,  # noqa: ANN401
    kinds: Mapping[str, type[Partition] | None],
    businesses: Collection[str],
) -> dict[str, Any]:
    """Return the bookmarks in a state (an object, or its JSON): stream -> ``{"partitions": [...]}``.

    ``kinds`` says what each stream of the tap remembers (``None``: nothing). What is not understood is left out with a
    WARNING, and so synced again; but bookmarks of other streams, and of businesses that are not in ``businesses``, are
    kept as they came.
    """
    try:
        bookmarks = _bookmarks(state if isinstance(state, bytes) else msgspec.json.encode(state))
    except (ValueError, LookupError, TypeError, RecursionError, msgspec.DecodeError) as error:
        what = "the state is not understood (it has no bookmarks)"
        if isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError):
            what = "the state is not understood (it is not JSON)"
        logger.warning("%s: everything is synced again", what)
        return {}
    result: dict[str, Any] = {}
    for stream, bookmark in bookmarks.items():
        if stream not in kinds:
            result[stream] = Raw(bytes(bookmark))
        elif kind := kinds[stream]:
            result[stream] = {"partitions": list(_partitions(stream, bytes(bookmark), kind, businesses))}
    return result


def _bookmarks(state: bytes) -> dict[str, Raw]:
    """Return the bookmarks in a state, which may be wrapped as a STATE message or as Meltano's ``singer_state``."""
    top = msgspec.json.decode(state.removeprefix(BOM_UTF8), type=dict[str, Raw])
    for wrapper in ("value", "singer_state"):
        if wrapper in top and "bookmarks" not in top:
            top = msgspec.json.decode(top[wrapper], type=dict[str, Raw])
    return msgspec.json.decode(top["bookmarks"], type=dict[str, Raw]) if top else {}


def _partitions(
    stream: str, bookmark: bytes, kind: type[Partition], businesses: Collection[str]
) -> Iterator[Partition | Raw]:
    try:
        entries = msgspec.json.decode(bookmark, type=_Bookmark).partitions if bookmark != b"{}" else []
    except msgspec.DecodeError:
        logger.warning("the state of %s is not understood: it is synced in full", stream)
        return
    partitions = [_partition(entry, kind) for entry in entries]
    if kind is RowPartition:
        _remember_once([partition for partition in partitions if isinstance(partition, RowPartition)])
    ids = [
        partition.context.business_id if partition else _business_id(entry)
        for entry, partition in zip(entries, partitions, strict=True)
    ]
    count = Counter(ids)
    for entry, partition, business_id in zip(entries, partitions, ids, strict=True):
        if partition and count[business_id] == 1:
            yield partition
        elif business_id is not None and business_id not in businesses:
            yield Raw(bytes(entry))
        else:
            logger.warning("the state of %s, business %.100r, is not understood: it is synced in full",
                           stream, business_id)  # fmt: skip


def _partition(entry: Raw, kind: type[Partition]) -> Partition | None:
    """Return the partition that this version of the tap wrote, or version 1; ``None`` for anything else."""
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(entry, type=kind)
    with suppress(ValueError, LookupError, AttributeError, TypeError, msgspec.DecodeError):
        return msgspec.convert(_upgrade(msgspec.json.decode(entry, type=dict[str, Any])), kind)
    return None


def _upgrade(old: dict[str, Any]) -> dict[str, Any]:
    """Return a partition of version 1 (of tap 1.0.0) in this version's shape.

    Lists of ids were one string, and so was what is remembered of an instance: ``digest=id digest=id``.
    """
    seen = old.get("seen")
    if isinstance(seen, str):
        seen = [unquote(entry) for entry in seen.split()]
    elif seen is not None:
        entries = {key: [entry.split("=", 1) for entry in memory.split()] for key, memory in seen.items()}
        seen = {key: {"rows": {unquote(row): digest for digest, row in pairs}} for key, pairs in entries.items()}
    return {**old, "seen": seen, "version": {1: VERSION}[old["version"]]}


def _remember_once(partitions: Sequence[RowPartition]) -> None:
    """Let each instance be remembered in one partition: version 1 could have it in two."""
    homes: dict[str, dict[str, Memory]] = {}
    for memories in [memories for partition in partitions for memories in (partition.seen, partition.away)]:
        for instance_id in homes.keys() & memories.keys():
            former = homes[instance_id].pop(instance_id)
            memories[instance_id].rows.update(dict.fromkeys(former.rows, ""))
        homes.update(dict.fromkeys(memories, memories))


def _business_id(entry: Raw) -> str | None:
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(entry, type=_Entry).context.business_id
    return None


class _Bookmark(Struct):
    partitions: list[Raw]


class _Entry(Struct):
    context: Context


class Partitions:
    """A stream's partitions in the tap's state, one per business, found without a search."""

    def __init__(self, bookmarks: dict[str, Any], stream: str, kind: type[Partition], replication_key: str) -> None:
        """Index them; ``bookmarks`` are the tap's, and :meth:`put` changes them in place."""
        self._bookmarks, self._stream, self._kind, self._replication_key = bookmarks, stream, kind, replication_key
        self._entries: list[Partition | Raw] = bookmarks.get(stream, {}).get("partitions", [])
        known = (entry for entry in self._entries if isinstance(entry, Partition))
        self._by_business: dict[str, Any] = {partition.context.business_id: partition for partition in known}

    def __iter__(self) -> Iterator[Any]:
        """Go through the partitions that are understood."""
        return iter(self._by_business.values())

    def get(self, business_id: str) -> Any:  # noqa: ANN401
        """Return the partition of a business, or ``None``."""
        return self._by_business.get(business_id)

    def put(self, business_id: str, **values: Any) -> Any:  # noqa: ANN401
        """Set values of a business's partition, and return it."""
        partition = self.get(business_id)
        if partition is None:
            partition = self._kind(context=Context(business_id), replication_key=self._replication_key, **values)
            self._by_business[business_id] = partition
            self._entries.append(partition)
            self._bookmarks[self._stream] = {"partitions": self._entries}
        for name, value in values.items():
            setattr(partition, name, value)
        return partition


# --------------------------------------------------------------------------------------------------- comparing rows


class RowMemory:
    """What one stream remembers of the instances of all businesses, and what it sees of one business at a time.

    For each business: :meth:`begin`; then for each listed instance :meth:`keep`, :meth:`compare` or :meth:`hide`; then
    :meth:`gone`; and :meth:`commit`, if the business was read whole. An instance is kept once in a run at most.
    """

    def __init__(self, partitions: Partitions, *, whole: bool, versioned: bool) -> None:
        """Take what is remembered.

        ``whole`` emits every row (FULL_TABLE); ``versioned`` leaves it to ACTIVATE_VERSION to tell what is gone.
        """
        self.partitions, self.whole, self.versioned = partitions, whole, versioned
        self.unchanged = 0  # rows that were left out, since they are as remembered
        self.uncertain = False  # whether rows were kept of which nothing is known now
        self._committed: set[str] = set()
        self._unsent: list[tuple[Memory, str]] = []  # rows that are remembered, and not part of this run's version
        self._owners: dict[str, tuple[str, ...]] | None = None  # row -> instances that remember it; made when needed
        self._homes: dict[str, RowPartition] | None = None  # instance -> what remembers it; made when needed
        self._remembers_some = any(self._places())

    def _places(self) -> list[dict[str, Memory]]:
        """Return where instances are remembered; each is once in one of them."""
        return [memories for partition in self.partitions for memories in (partition.seen, partition.away)]

    def _home(self, instance_id: str) -> RowPartition | None:
        """Return the partition that remembers an instance."""
        former = self._former
        if former and (instance_id in former.seen or instance_id in former.away):
            return former
        if self._homes is None:
            self._homes = {}
            for partition in self.partitions:
                self._homes.update(dict.fromkeys([*partition.seen, *partition.away], partition))
        return self._homes.get(instance_id)

    def _memory(self, instance_id: str) -> Memory | None:
        """Return what is remembered of an instance, whichever business listed it last."""
        home = self._home(instance_id)
        return (home.seen.get(instance_id) or home.away.get(instance_id)) if home else None

    # ------------------------------------------------------------------------------------------------- one business

    def begin(self, business_id: str) -> None:
        """Get ready for a business's list."""
        self._former: RowPartition | None = self.partitions.get(business_id)
        self.latest = self._former.replication_key_value if self._former else None  # ``updatedAt``, for people to read
        self._seen: dict[str, Memory] = {}
        self._hidden: dict[str, Memory] = {}
        self._compared = False
        self._gone: dict[tuple[str, str], None] = {}
        self._kept: set[tuple[str, str]] = set()  # remembered, though not listed or not emitted
        self._arrived: dict[str, set[str]] = {}  # row that is new to an instance -> the instances that list it

    def known(self) -> dict[str, Memory]:
        """Return those instances of which no row needs to be read while the digest of ``Webhook`` is the same."""
        if self.whole:
            return {}
        return {key: memory for memories in self._places() for key, memory in memories.items() if memory.digest}

    def keep(self, instance_id: str, memory: Memory) -> None:
        """Remember an instance as before."""
        self.unchanged += len(memory.rows)
        self._seen[instance_id] = memory

    def hide(self, instance_id: str) -> None:
        """Remember the ids of an instance that a stream map filters out: its rows come whole when it passes again."""
        if memory := self._memory(instance_id):
            self._hidden[instance_id] = Memory(dict.fromkeys(memory.rows, ""))

    def compare(
        self,
        instance_id: str,
        digest: str,
        rows: Sequence[Row],
        *,
        unknown: Collection[str] | None = (),
        hidden: Collection[str] = (),
    ) -> Sequence[Row]:
        """Return those of an instance's rows that are to be emitted: new, changed, or back.

        ``unknown`` are ids of rows that exist and could not be read (``None``: any may exist), ``hidden`` those that a
        stream map filters out.
        """
        memory = self._memory(instance_id)
        known = memory.rows if memory else {}
        if hidden:
            rows = [row for row in rows if row.key not in hidden]
        now = {row.key: row.digest for row in rows}
        listed_before = self._seen.get(instance_id)
        twice = listed_before is not None or len(now) < len(rows)
        if twice:  # which is right cannot be known: all rows are emitted at every run
            now = dict.fromkeys([*(listed_before.rows if listed_before else ()), *now], "")
        emitted = rows
        if known and not (self.whole or twice):
            emitted = [row for row in rows if known.get(row.key) != row.digest]
            self.unchanged += len(rows) - len(emitted)
        kept = self._kept_of(instance_id, known, now, unknown, hidden) if known else {}
        if self._remembers_some:  # else nothing is remembered that a row may have moved from
            for row in emitted:
                if not known.get(row.key):  # else no other instance has it
                    self._arrived.setdefault(row.key, set()).add(instance_id)
        if twice or kept or hidden or unknown is None:
            digest = ""
            now.update(kept)
        self._compared = True
        self._seen[instance_id] = Memory(now, digest)
        return emitted

    def _kept_of(
        self,
        instance_id: str,
        known: Mapping[str, str],
        now: Mapping[str, str],
        unknown: Collection[str] | None,
        hidden: Collection[str],
    ) -> dict[str, str]:
        """Return those of the known rows that are not listed now, and yet not gone; note the ones that are gone."""
        kept = {}
        for key in [key for key in known if key not in now]:
            if key in hidden:
                kept[key] = ""
            elif unknown is None or key in unknown:
                kept[key] = known[key]
                self.uncertain = True
            else:
                self._gone[instance_id, key] = None
        self._kept.update((instance_id, key) for key in kept)
        return kept

    def gone(self) -> list[tuple[str, str]]:
        """Return (instance, row) of each row that is gone from a listed instance, and did not move to another one."""
        if not self._gone:
            return []
        listed = {key for memory in self._seen.values() for key in memory.rows}
        gone = [pair for pair in self._gone if pair[1] not in listed]
        if not self.versioned:
            return gone
        for instance_id, key in gone:
            self.keep_gone(instance_id, key)
        return []

    def keep_gone(self, instance_id: str, key: str) -> None:
        """Remember a row that is gone as long as the target has not been told."""
        memory = self._seen[instance_id]
        memory.rows[key], memory.digest = "", ""
        self._kept.add((instance_id, key))

    def commit(self, business_id: str, observed_at: datetime) -> None:
        """Remember a business that was read whole, and of which every row was emitted.

        With FULL_TABLE too: INCREMENTAL may be chosen again.
        """
        self._forget_elsewhere()
        self._mark_doubles()
        self._unsent += [(self._seen[instance_id], key) for instance_id, key in self._kept]
        former, now = self._former, self._seen | self._hidden
        seen_before, away_before = (former.seen, former.away) if former else ({}, {})
        arrived = now.keys() - seen_before.keys() - away_before.keys() if self._remembers_some else ()
        for instance_id in arrived:
            if home := self._home(instance_id):  # it was moved from another business
                home.seen.pop(instance_id, None)
                home.away.pop(instance_id, None)
        away = self._hidden
        for memory in away.values():
            memory.last_listed = observed_at
        for memories, at in ((away_before, None), (seen_before, former and former.observed_at)):
            for instance_id in sorted(memories.keys() - now.keys()):
                memory = memories[instance_id]
                memory.last_listed = min(memory.last_listed or at or observed_at, observed_at)
                if observed_at - memory.last_listed <= KEPT:
                    away[instance_id] = memory
                elif self._homes:
                    self._homes.pop(instance_id, None)
        for memory in self._seen.values():
            memory.last_listed = None
        values = {"replication_key_value": self.latest, "observed_at": observed_at, "seen": self._seen, "away": away}
        partition = self.partitions.put(business_id, **values)
        if self._homes is not None:
            self._homes.update(dict.fromkeys([*self._seen, *away], partition))
        self._remembers_some = True
        self._committed.add(business_id)

    def _forget_elsewhere(self) -> None:
        """Forget each row that is new to an instance under every other one that does not list it: it has moved."""
        if not self._arrived:
            return
        if self._owners is None:
            self._owners = self._find_owners()
        for key, listing in self._arrived.items():
            for instance_id in set(self._owners.get(key, ())) - listing:
                seen = self._seen.get(instance_id)
                if seen and key in seen.rows and (instance_id, key) not in self._kept:
                    listing.add(instance_id)  # it lists the row too
                    continue
                for other in (seen, self._hidden.get(instance_id), self._memory(instance_id)):
                    if other and other.rows.pop(key, None) is not None:
                        other.digest = ""
            self._owners[key] = tuple(listing)

    def _find_owners(self) -> dict[str, tuple[str, ...]]:
        owners: dict[str, tuple[str, ...]] = {}
        for memories in self._places():
            for instance_id, memory in memories.items():
                for key in memory.rows:
                    owners[key] = (*owners.get(key, ()), instance_id)
        return owners

    def _mark_doubles(self) -> None:
        """Let rows that several instances list be emitted at every run: which is right cannot be known."""
        if not self._compared:  # of those that are kept, none is
            return
        listed = [memory.rows for memory in self._seen.values()]
        if len(set().union(*listed)) == sum(map(len, listed)):
            return
        counts = Counter(key for rows in listed for key in rows)
        for memory in self._seen.values():
            for key in memory.rows:
                if counts[key] > 1:
                    memory.rows[key], memory.digest = "", ""

    # ------------------------------------------------------------------------------------------------------ versions

    def activated(self) -> None:
        """Forget what the target deleted since it was not part of this run's version."""
        for memory, key in self._unsent:
            memory.rows.pop(key, None)
        for partition in self.partitions:
            partition.away = {}
            if partition.context.business_id not in self._committed:
                partition.seen = {}
