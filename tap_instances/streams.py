"""The streams: which part of a business's snapshot each emits, under which key, below which parent.

``businesses`` -> ``instances`` -> ``webhooks`` -> ``webhook_events``; beside ``instances``, ``connection_changes`` and
``observations``. A run (:mod:`tap_instances.run`) walks each snapshot once, and lets each stream write its part.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final

from typing_extensions import override
from xxhash import xxh3_64_intdigest

from tap_instances.columns import column_names, row_type
from tap_instances.memory import Context, ListPartition, Partition, RowMemory, RowPartition
from tap_instances.sdk.stream import FULL_TABLE, SDKStream
from tap_instances.sdk.writer import RecordWriter
from tap_instances.values import encode

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tap_instances.records import Instance, Row, Source


class SnapshotStream(SDKStream):
    """A stream that takes part in a run; one that has no state of its own needs nothing more than its attributes."""

    bookmark_type: ClassVar[Any] = None  # what it remembers of a business

    def open(self, bookmarks: dict[str, Any], *, activate: bool) -> None:
        """Get ready for a run; ``bookmarks`` are the state's."""
        self.writer = RecordWriter(self, activate=activate)
        if self.bookmark_type:
            self.bookmark = bookmarks.setdefault(self.name, {})

    def finish(self, source: Source, instances: Collection[str], webhooks: int) -> None:
        """Write the rows that need the whole list.

        ``instances`` are the ids that it has, ``webhooks`` is how many webhooks those have.
        """

    def commit(self, source: Source, instances: Collection[str]) -> None:
        """Remember a business; called when every row of it was written."""

    def remember(self, source: Source, **values: Any) -> None:  # noqa: ANN401
        """Remember a business with these values, in the place of what was."""
        business_id, at = source
        self.bookmark[business_id] = self.bookmark_type(
            context=Context(business_id), replication_key=self.replication_key, replication_key_value=at, **values
        )


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

    @override
    def finish(self, source: Source, instances: Collection[str], webhooks: int) -> None:
        """Write a row for each that is gone: its ids, ``deleted_at``, and nulls."""
        for instance_id, webhook_id in self.memory.settle_gone():
            row: dict[str, Any] = dict.fromkeys(column_names(self.name, include_secrets=True))
            row.update(instance_id=instance_id, webhook_id=webhook_id, deleted_at=source.observed_at)
            encoded = encode(row)
            if self.writer.has_copies or self.writer.passes(encoded):
                self.writer.write([encoded], source.observed_at)
            else:
                self.memory.keep_gone(instance_id, webhook_id)

    @override
    def commit(self, source: Source, instances: Collection[str]) -> None:
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


class ConnectionChangesStream(SnapshotStream):
    """One row each time an instance appears in its business's list, or vanishes from it, between two runs.

    At the first read of a business each listed instance is a row whose two times are equal: it was there by then.
    """

    name = "connection_changes"
    primary_keys = ("business_id", "instance_id", "previous_observed_at", "change_type")
    replication_key = "observed_at"
    parent_stream_type = BusinessesStream
    bookmark_type = ListPartition

    @override
    def finish(self, source: Source, instances: Collection[str], webhooks: int) -> None:
        business_id, observed_at = source
        partition = self.bookmark.get(business_id)
        before = dict.fromkeys(partition.seen) if partition else {}
        since = (partition and partition.replication_key_value) or observed_at
        row = row_type(self.name, include_secrets=False)
        for change_type, ids, others in (("connected", instances, before), ("disconnected", before, instances)):
            changed = [instance_id for instance_id in ids if instance_id not in others]
            rows = (encode(row(business_id, instance_id, change_type, since, observed_at)) for instance_id in changed)
            self.writer.write(rows, observed_at)

    @override
    def commit(self, source: Source, instances: Collection[str]) -> None:
        self.remember(source, seen=list(instances))


class ObservationsStream(SnapshotStream):
    """One row per good read of a business: how much was listed, and when the business was read before."""

    name = "observations"
    primary_keys = ("business_id", "observed_at")
    replication_key = "observed_at"
    parent_stream_type = BusinessesStream
    bookmark_type = Partition

    @override
    def finish(self, source: Source, instances: Collection[str], webhooks: int) -> None:
        business_id, observed_at = source
        partition = self.bookmark.get(business_id)
        before = partition.replication_key_value if partition else None
        row = row_type(self.name, include_secrets=False)
        self.writer.write([encode(row(business_id, observed_at, before, len(instances), webhooks))], observed_at)

    @override
    def commit(self, source: Source, instances: Collection[str]) -> None:
        self.remember(source)


STREAMS: Final[tuple[type[SnapshotStream], ...]] = (  # parents first
    BusinessesStream,
    InstancesStream,
    WebhooksStream,
    WebhookEventsStream,
    ConnectionChangesStream,
    ObservationsStream,
)
