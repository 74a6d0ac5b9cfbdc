"""The streams: which part of a business's snapshot each emits, under which key, below which parent.

``businesses`` -> ``instances`` -> ``webhooks`` -> ``webhook_events``, and ``connection_changes`` beside ``instances``.
The root, ``businesses``, walks each snapshot once, page by page, parents before their children.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from typing_extensions import override

from tap_instances import changes, records
from tap_instances.client import SnapshotError
from tap_instances.sdk import FULL_TABLE, ConnectedStream, SyncError
from tap_instances.typed import TypedReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from tap_instances.client import Business, Snapshot
    from tap_instances.records import Instance, Reading
    from tap_instances.tap import TapInstances

PAGE: Final = 1000  # instances
STATE_INTERVAL: Final = 10.0  # seconds between two STATE messages, at least

Rows = list[tuple[str, bytes, "datetime | None"]]  # key, row, updatedAt


class BusinessesStream(ConnectedStream):
    """One row a configured business; the root, which syncs all the others."""

    name = "businesses"
    primary_keys = ("business_id",)

    @override
    def run(self) -> None:
        """Sync every business in the configured order; exit non-zero if one failed or a record had no key."""
        run = _Run(self)
        try:
            with ExitStack() as stack:
                for stream in run.streams:
                    stack.enter_context(stream.opened(activate=run.activate, root=self))
                run.sync()
        except SyncError as error:
            run.failed[run.business.id] = str(error)
            self.logger.error("business %s: %s", run.business.id, error)  # noqa: TRY400 (a line for people)
        run.end()


class InstancesStream(ConnectedStream):
    """One row a connected instance, whole at every run."""

    name = "instances"
    primary_keys = ("instance_id",)
    parent_stream_type = BusinessesStream


class RememberingStream(ConnectedStream):
    """A stream that emits what is new, changed, gone or back since the last sync of a business."""

    replication_key = "updated_at"
    can_be_full_table = True

    def rows(self, instance: Instance) -> Rows:
        """Return this stream's rows of an instance."""
        raise NotImplementedError

    def readable(self, instance: Instance) -> bool:
        """Tell whether all of this stream's rows of an instance could be read."""
        raise NotImplementedError

    @override
    def begin(self, business_id: str) -> None:
        self._before: changes.Memory = dict((self.bookmarks.get(business_id) or {}).get("seen", {}))
        self._now: changes.Memory = {}
        self._repeated: set[str] = set()
        self._latest = records.to_time((self.bookmarks.get(business_id) or {}).get("replication_key_value"))

    def emit(self, page: Sequence[Instance], reading: Reading) -> None:
        """Write a page's rows that are not as remembered, and remember them."""
        if self.replication_method == FULL_TABLE:
            self.write([row for instance in page for _, row, _ in self.rows(instance)], reading.observed_at)
            return
        out: list[bytes] = []
        for instance in page:
            rows = self.rows(instance)
            digests = {key: changes.digest(row, self.salt) for key, row, _ in rows}
            memory = changes.remember(digests)
            before = self._before.get(instance.id)
            if instance.hidden and before:  # what a map hides is forgotten, not gone
                before = changes.forget(before, instance.hidden)
                self._before[instance.id] = before
            if before and not self.readable(instance):  # what cannot be read is not gone
                memory = changes.remember({**changes.recall(before), **digests})
            if instance.id in self._now or len(digests) < len(rows):  # an id twice: whole, at every run
                self._repeated.add(instance.id)
                new: set[str] | dict[str, str] = digests
            else:
                new = changes.changed(before, digests) if memory != before else set()
            self._now[instance.id] = memory
            for key, row, updated_at in rows:
                if key in new:
                    out.append(row)
                    if updated_at and not (self._latest and updated_at <= self._latest):
                        self._latest = updated_at
        self.write(out, reading.observed_at)

    @override
    def finish(self, reading: Reading) -> None:
        if self.replication_method == FULL_TABLE:
            return
        for instance_id in self._repeated:
            del self._now[instance_id]
        gone = changes.gone(self._before, self._now)
        self.write([records.deleted_row(self.name, *ids, reading) for ids in gone], reading.observed_at)

    @override
    def commit(self, reading: Reading) -> None:
        if self.replication_method != FULL_TABLE:
            latest = records.time_text(self._latest) if self._latest else None
            self.bookmarks.put(
                reading.business_id,
                replication_key=self.replication_key,
                replication_key_value=latest,
                seen=self._now,
            )


class WebhooksStream(RememberingStream):
    """One row a webhook of a connected instance."""

    name = "webhooks"
    primary_keys = ("webhook_id",)
    parent_stream_type = InstancesStream

    @override
    def rows(self, instance: Instance) -> Rows:
        return [(hook.id, hook.row, hook.updated_at) for hook in instance.webhooks]

    @override
    def readable(self, instance: Instance) -> bool:
        return instance.readable


class WebhookEventsStream(RememberingStream):
    """One row a webhook: which events it gets."""

    name = "webhook_events"
    primary_keys = ("webhook_id",)
    parent_stream_type = WebhooksStream

    @override
    def rows(self, instance: Instance) -> Rows:
        return [
            (hook.id, hook.events, hook.events_updated_at) for hook in instance.webhooks if hook.events is not None
        ]

    @override
    def readable(self, instance: Instance) -> bool:
        return instance.readable and all(hook.events_readable for hook in instance.webhooks)


class ConnectionChangesStream(ConnectedStream):
    """One row each time an instance appears in its business's list, or vanishes from it, between two runs."""

    name = "connection_changes"
    primary_keys = ("business_id", "instance_id", "previous_observed_at")
    replication_key = "observed_at"
    parent_stream_type = BusinessesStream
    memory_type = str

    @override
    def begin(self, business_id: str) -> None:
        self._listed: list[str] = []

    def emit(self, page: Sequence[Instance], _: Reading) -> None:
        """Take a page's instances into account; :meth:`finish` writes what follows."""
        self._listed += [instance.id for instance in page]

    @override
    def finish(self, reading: Reading) -> None:
        partition = self.bookmarks.get(reading.business_id) or {}
        before = changes.read_list(partition.get("seen", ""))
        since = partition.get("replication_key_value") or changes.FIRST_SYNC
        rows = [
            records.change_row(instance_id, change, since, reading)
            for instance_id, change in changes.connections(before, self._listed)
        ]
        self.write(rows, reading.observed_at)

    @override
    def commit(self, reading: Reading) -> None:
        self.bookmarks.put(
            reading.business_id,
            replication_key=self.replication_key,
            replication_key_value=records.time_text(reading.observed_at),
            seen=changes.write_list(dict.fromkeys(self._listed)),
        )


class _Run:
    """One run of the tap: what it reads, what failed, and how it ends."""

    def __init__(self, root: BusinessesStream) -> None:
        self.tap = cast("TapInstances", root._tap)  # noqa: SLF001 (the SDK's own name for it)
        self.root = root
        self.logger = root.logger
        self.streams = [root, *(cast("ConnectedStream", stream) for stream in root.descendent_streams)]
        by_name = {stream.name: stream for stream in self.streams}
        self.instances = by_name["instances"]
        self.webhooks = cast("RememberingStream", by_name["webhooks"])
        self.webhook_events = cast("RememberingStream", by_name["webhook_events"])
        self.connection_changes = cast("ConnectionChangesStream", by_name["connection_changes"])
        self.testing = root.ABORT_AT_RECORD_COUNT is not None
        self.activate = bool(root.config.get("emit_activate_version_messages")) and not self.testing
        if self.activate and root.get_batch_config(root.config):
            self.logger.warning("no ACTIVATE_VERSION with batch_config: a target would delete the rows of batches")
            self.activate = False
        self.include_secrets = bool(root.config.get("include_secrets"))
        self.reader = TypedReader(include_secrets=self.include_secrets)
        self.findings = records.Findings()
        self.failed: dict[str, str] = {}
        self.incomplete = False
        self.business: Business = self.tap.businesses[0]
        self.written_at = time.monotonic()

    def sync(self) -> None:
        """Sync the businesses one after the other; one that fails leaves the others whole."""
        outcomes = self.tap.client.snapshots(self.tap.businesses)
        for number, self.business in enumerate(self.tap.businesses, 1):
            outcome = next(outcomes)
            if isinstance(outcome, SnapshotError):
                self.failed[self.business.id] = str(outcome)
                self.logger.error("business %s: %s", self.business.id, outcome)
            else:
                self.sync_business(outcome, f"{number} of {len(self.tap.businesses)}")
            del outcome  # its body: the next one may be there already
            if self.testing:
                reached = [stream for stream in self.streams if stream.records_written or not stream.selected]
                if len(reached) >= len(self.streams) - (not self.connection_changes.records_written):
                    break
            elif time.monotonic() - self.written_at >= STATE_INTERVAL:
                self.write_state()
        outcomes.close()

    def sync_business(self, snapshot: Snapshot, place: str) -> None:
        """Write one business's rows, then remember them."""
        business_id = self.business.id
        reading = records.Reading(business_id, snapshot.observed_at, self.include_secrets, self.findings)
        row = records.read_business(snapshot.body, reading)
        self.root.write([row], reading.observed_at)
        webhooks = 0
        if self.root.passes(row):
            for stream in self.streams:
                stream.begin(business_id)
            if not snapshot.instances and any(stream.remembers(business_id) for stream in self.streams):
                self.logger.warning("business %s: no instance is connected now; the last sync saw some", business_id)
            for page in self.pages(snapshot, reading):
                webhooks += sum(len(instance.webhooks) for instance in page)
                self.sync_page(page, reading)
            faults, self.findings.faults = self.findings.faults, []
            for fault in faults:
                self.logger.error("business %s: not emitted: %s", business_id, fault)
            if faults:  # the list was not read whole: nothing is concluded from what is missing in it
                self.incomplete = True
            elif not self.testing:
                for stream in self.streams:
                    stream.finish(reading)
                for stream in self.streams:
                    if stream.selected:
                        stream.commit(reading)
            else:
                self.connection_changes.finish(reading)
        self.logger.info("business %s (%s): %d instances, %d webhooks, %.1f s", business_id, place,
                         len(snapshot.instances), webhooks, snapshot.seconds)  # fmt: skip

    def pages(self, snapshot: Snapshot, reading: Reading) -> Iterator[list[Instance]]:
        """Yield the readable instances, so many at a time."""
        for start in range(0, len(snapshot.instances), PAGE):
            items = enumerate(snapshot.instances[start : start + PAGE], start)
            page = [self.reader.read(item, index, reading, odd=snapshot.odd) for index, item in items]
            yield [instance for instance in page if instance]

    def sync_page(self, page: list[Instance], reading: Reading) -> None:
        """Write a page of instances, then their children; what a map filters out takes those with it."""
        self.connection_changes.emit(page, reading)
        self.instances.write([instance.row for instance in page], reading.observed_at)
        if self.instances.has_map:
            page = [instance for instance in page if self.instances.passes(instance.row)]
        self.webhooks.emit(page, reading)
        if self.webhooks.has_map:
            page = [self.without_filtered_webhooks(instance) for instance in page]
        self.webhook_events.emit(page, reading)

    def without_filtered_webhooks(self, instance: Instance) -> Instance:
        """Return the instance with those webhooks only that the stream's map lets through."""
        kept = [hook for hook in instance.webhooks if self.webhooks.passes(hook.row)]
        hidden = frozenset(hook.id for hook in instance.webhooks) - {hook.id for hook in kept}
        return msgspec.structs.replace(instance, webhooks=kept, hidden=hidden)

    def write_state(self) -> None:
        """Write STATE, after whatever waits for a batch."""
        for stream in self.streams:
            stream.flush()
        self.tap.write_state()
        self.written_at = time.monotonic()

    def end(self) -> None:
        """Report, activate if all went well, write the last STATE, and exit non-zero if not all went well."""
        if self.findings.unknown:
            self.logger.info("keys that no column knows, kept in additional_properties: %s", _some(self.findings.unknown))
        if self.findings.withheld:
            self.logger.warning("withheld as secrets (include_secrets emits them): %s", _some(self.findings.withheld))
        for stream in self.streams:
            stream.flush()
        if self.activate and not self.failed and not self.incomplete:
            for stream in self.streams:
                stream.activate()
        self.tap.write_state()
        if self.failed and len(self.tap.businesses) > 1:
            why = "; ".join(f"{business_id} ({reason.split(':')[0]})" for business_id, reason in self.failed.items())
            self.logger.error("%d of %d businesses failed: %s", len(self.failed), len(self.tap.businesses), why)
        if self.failed or self.incomplete:
            raise SystemExit(1)


def _some(paths: dict[str, None], most: int = 20) -> str:
    """Name paths in a line: the first of them, and how many more there are."""
    names = [ascii(path)[1:-1] if not path.isprintable() else path for path in list(paths)[:most]]
    return ", ".join(names) + (f" and {len(paths) - most} more" if len(paths) > most else "")
