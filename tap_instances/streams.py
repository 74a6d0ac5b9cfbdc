"""The streams: which part of a business's snapshot each emits, under which key, below which parent.

``businesses`` -> ``instances`` -> ``webhooks`` -> ``webhook_events``; beside ``instances``, ``connection_changes`` and
``observations``. A run (:mod:`tap_instances.run`) walks each snapshot once, and lets each stream write its part.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec
from typing_extensions import override
from xxhash import xxh3_64_intdigest

from tap_instances.columns import row_type
from tap_instances.memory import ListPartition, Partition, RowMemory, RowPartition
from tap_instances.sdk.stream import FULL_TABLE, SDKStream
from tap_instances.sdk.writer import RecordWriter
from tap_instances.values import encode

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from tap_instances.records import Instance, Row, Source


class SnapshotStream(SDKStream):
    """A stream that takes part in a run; one that has no state of its own needs nothing more than its attributes."""

    bookmark_type: ClassVar[Any] = None  # what it remembers of a business

    def open(self, bookmarks: dict[str, Any], *, activate: bool) -> None:
        """Get ready for a run; ``bookmarks`` are the state's."""
        self.writer = RecordWriter(self, activate=activate)
        if self.bookmark_type:
            self.bookmark = bookmarks.setdefault(self.name, {})


class BusinessesStream(SnapshotStream):
    """One row per business; the root."""

    name = "businesses"
    primary_keys = ("business_id",)


class InstancesStream(SnapshotStream):
    """One row per connected instance, whole at every run."""

    name = "instances"
    primary_keys = ("instance_id",)
    parent_stream_type = BusinessesStream


class RememberingStream(SnapshotStream):
    """A stream that emits what is new, changed, gone or back since a business was last read."""

    replication_key = "updated_at"
    can_be_full_table = True
    bookmark_type = RowPartition

    @override
    def open(self, bookmarks: dict[str, Any], *, activate: bool) -> None:
        super().open(bookmarks, activate=activate)
        full_table, versioned = self.replication_method == FULL_TABLE, self.writer.version is not None
        columns = self.writer.selected_columns
        shape = xxh3_64_intdigest(columns) if columns else 0
        self.memory = RowMemory(self.bookmark, shape=shape, full_table=full_table, versioned=versioned)

    def hide(self, page: Sequence[Instance]) -> None:
        """Note which rows the stream's own map filters out, and so what is below them."""
        for instance in page if self.writer.has_map else ():
            rows: list[Row] = getattr(instance, self.name)
            passing = {row.key for row in rows if row.key in instance.hidden or self.writer.passes(row.json)}
            instance.hidden |= {row.key for row in rows} - passing

    def emit(self, page: Sequence[Instance], source: Source) -> None:
        """Write those rows of a page of instances that are not as remembered."""
        memory, rows_of = self.memory, attrgetter(self.name)
        if not self.writer.has_copies:  # they have filters of their own
            self.hide(page)
        out: list[Row] = []
        for instance in page:
            if instance.is_unchanged:
                memory.keep(instance.id)
            else:
                out += memory.compare(instance, rows_of(instance))
        memory.latest = max(filter(None, [memory.latest, *(row.updated_at for row in out)]), default=None)
        self.writer.write([row.json for row in out], source.observed_at)
        if self.writer.has_copies:
            self.hide(page)

    def finish(self, source: Source, *_: object) -> None:
        """Write a row for each that is gone: its ids, ``deleted_at``, and nulls."""
        row = row_type(self.name, include_secrets=True)
        for instance_id, webhook_id in self.memory.settle_gone():
            encoded = encode(row(instance_id=instance_id, webhook_id=webhook_id, deleted_at=source.observed_at))
            if self.writer.has_copies or self.writer.passes(encoded):
                self.writer.write([encoded], source.observed_at)
            else:
                self.memory.keep_gone(instance_id, webhook_id)

    def commit(self, source: Source, *_: object) -> None:
        """Remember a business; called when every row of it was written."""
        self.memory.commit(source.business_id, source.observed_at)


class WebhooksStream(RememberingStream):
    """One row per webhook of a connected instance."""

    name = "webhooks"
    primary_keys = ("webhook_id",)
    parent_stream_type = InstancesStream


class WebhookEventsStream(RememberingStream):
    """One row per webhook: which events it gets."""

    name = "webhook_events"
    primary_keys = ("webhook_id",)
    parent_stream_type = WebhooksStream


class HistoryStream(SnapshotStream):
    """A stream that adds rows at each good read of a business, and remembers when that was."""

    replication_key = "observed_at"
    parent_stream_type = BusinessesStream
    bookmark_type: ClassVar[Any] = Partition

    def rows(self, last: Any, source: Source, instances: Collection[str], webhooks: int) -> Iterable[Any]:  # noqa: ANN401
        """Return the rows of a business; ``last`` is what is remembered of it."""
        raise NotImplementedError

    def finish(self, source: Source, instances: Collection[str], webhooks: int) -> None:
        """Write the rows; ``instances`` are the ids of the whole list, ``webhooks`` is how many webhooks those have."""
        rows = self.rows(self.bookmark.get(source.business_id), source, instances, webhooks)
        self.writer.write(map(encode, rows), source.observed_at)

    def commit(self, source: Source, instances: Collection[str]) -> None:
        """Remember a business; called when every row of it was written."""
        partition = {
            "context": {"business_id": source.business_id},
            "replication_key": self.replication_key,
            "replication_key_value": source.observed_at,
            "seen": list(instances),  # a type that has no ``seen`` leaves it out
        }
        self.bookmark[source.business_id] = msgspec.convert(partition, self.bookmark_type)


class ConnectionChangesStream(HistoryStream):
    """One row each time an instance appears in its business's list, or vanishes from it, between two runs.

    At the first read of a business each listed instance is a row whose two times are equal: it was there by then.
    """

    name = "connection_changes"
    primary_keys = ("business_id", "instance_id", "previous_observed_at", "change_type")
    bookmark_type = ListPartition

    @override
    def rows(self, last: Any, source: Source, instances: Collection[str], webhooks: int) -> Iterable[Any]:
        business_id, observed_at = source
        before = dict.fromkeys(last.seen) if last else {}
        since = (last and last.replication_key_value) or observed_at
        row = row_type(self.name, include_secrets=False)
        for change_type, ids, others in (("connected", instances, before), ("disconnected", before, instances)):
            for instance_id in ids:
                if instance_id not in others:
                    yield row(business_id, instance_id, change_type, since, observed_at)


class ObservationsStream(HistoryStream):
    """One row per good read of a business: how much was listed, and when the business was read before."""

    name = "observations"
    primary_keys = ("business_id", "observed_at")

    @override
    def rows(self, last: Any, source: Source, instances: Collection[str], webhooks: int) -> Iterable[Any]:
        business_id, observed_at = source
        before = last and last.replication_key_value
        yield row_type(self.name, include_secrets=False)(business_id, observed_at, before, len(instances), webhooks)


STREAMS: Final[tuple[type[SnapshotStream], ...]] = (  # parents first
    BusinessesStream,
    InstancesStream,
    WebhooksStream,
    WebhookEventsStream,
    ConnectionChangesStream,
    ObservationsStream,
)
