"""One run: each business's snapshot, page by page, parents before their children, then what there is to remember."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tap_instances import records
from tap_instances.client import SnapshotError
from tap_instances.sdk.stream import PAGE, SyncError
from tap_instances.typed import TypedReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tap_instances.businesses import Business
    from tap_instances.client import Client
    from tap_instances.records import Instance, Reading
    from tap_instances.remembering import RememberingStream
    from tap_instances.responses import Snapshot
    from tap_instances.sdk.stream import ConnectedStream
    from tap_instances.streams import ConnectionChangesStream

STATE_INTERVAL: Final = 10.0  # seconds between two STATE messages, at least

logger = logging.getLogger("tap-instances")


class Run:
    """One run of the tap: what it reads, what failed, and how it ends."""

    def __init__(
        self,
        streams: Mapping[str, Any],
        client: Client,
        businesses: Sequence[Business],
        write_state: Callable[[], None],
    ) -> None:
        """Take the streams by name, which are :class:`ConnectedStream`, and whom to ask about what."""
        self.client, self.businesses, self.write_state_message = client, businesses, write_state
        self.root: ConnectedStream = streams["businesses"]
        self.instances: ConnectedStream = streams["instances"]
        self.webhooks: RememberingStream = streams["webhooks"]
        self.webhook_events: RememberingStream = streams["webhook_events"]
        self.connection_changes: ConnectionChangesStream = streams["connection_changes"]
        self.streams = (self.root, self.instances, self.webhooks, self.webhook_events, self.connection_changes)
        config = self.root.config
        self.testing = self.root.ABORT_AT_RECORD_COUNT is not None
        self.activate = bool(config.get("emit_activate_version_messages")) and not self.testing
        if self.activate and config.get("batch_config"):
            logger.warning("no ACTIVATE_VERSION with batch_config: a target would delete the rows of batches")
            self.activate = False
        self.include_secrets = bool(config.get("include_secrets"))
        self.reader = TypedReader(include_secrets=self.include_secrets)
        self.findings = records.Findings()
        self.failed: dict[str, str] = {}
        self.incomplete = False
        self.written_at = time.monotonic()

    def run(self) -> None:
        """Sync every business in the configured order; exit non-zero if one failed or a record had no key."""
        with ExitStack() as stack:
            for stream in self.streams:
                stack.enter_context(stream.opened(activate=self.activate))
            stack.callback((outcomes := self.client.snapshots(self.businesses)).close)
            for number, business in enumerate(self.businesses, 1):
                outcome = next(outcomes)
                try:
                    if isinstance(outcome, SnapshotError):
                        raise outcome
                    self.sync_business(business.id, outcome, f"{number} of {len(self.businesses)}")
                except (SnapshotError, SyncError) as error:
                    self.failed[business.id] = str(error)
                    logger.error("business %s: %s", business.id, error)  # noqa: TRY400 (a line for people)
                    if isinstance(error, SyncError):
                        break
                del outcome  # its body: the next one may be there already
                if self.testing and self.all_reached():
                    break
                if time.monotonic() - self.written_at >= STATE_INTERVAL:
                    self.write_state()
        self.end()

    def all_reached(self) -> bool:
        """Tell whether ``--test`` has seen a record of every stream (changes there may be none)."""
        return all(stream.records_written or not stream.selected for stream in self.streams[:-1])

    def sync_business(self, business_id: str, snapshot: Snapshot, place: str) -> None:
        """Write one business's rows, then remember them."""
        reading = records.Reading(business_id, snapshot.observed_at, self.include_secrets, self.findings)
        row = records.read_business(snapshot.body, reading)
        self.root.write([row], reading.observed_at)
        webhooks = self.sync_instances(snapshot, reading) if self.root.passes(row) else 0
        logger.info("business %s (%s): %d instances, %d webhooks, %.1f s", business_id, place,
                    len(snapshot.instances), webhooks, snapshot.seconds)  # fmt: skip

    def sync_instances(self, snapshot: Snapshot, reading: Reading) -> int:
        """Write what is below a business; return how many webhooks there are."""
        for stream in self.streams:
            stream.begin(reading.business_id)
        if not snapshot.instances and any(stream.remembers(reading.business_id) for stream in self.streams):
            logger.warning("business %s: nothing is connected now; the last sync saw some", reading.business_id)
        webhooks = 0
        for page in self.pages(snapshot, reading):
            webhooks += sum(len(instance.webhooks) for instance in page)
            self.sync_page(page, reading)
        faults, self.findings.faults = self.findings.faults, []
        for fault in faults:
            logger.error("business %s: not emitted: %s", reading.business_id, fault)
        if faults:  # the list was not read whole: nothing is concluded from what is missing in it
            self.incomplete = True
            return webhooks
        for stream in self.streams:
            stream.finish(reading)
        for stream in self.streams:
            if stream.selected and not self.testing:
                stream.commit(reading)
        return webhooks

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
        """Return the instance with the events of those webhooks only that the stream's map lets through."""
        hidden = frozenset(key for key, row, _ in instance.webhooks if not self.webhooks.passes(row))
        events = [row for row in instance.webhook_events if row[0] not in hidden]
        return msgspec.structs.replace(instance, webhook_events=events, hidden=hidden)

    def write_state(self) -> None:
        """Write STATE, after whatever waits for a batch."""
        for stream in self.streams:
            stream.flush()
        self.write_state_message()
        self.written_at = time.monotonic()

    def end(self) -> None:
        """Report, activate if all went well, write the last STATE, and exit non-zero if not all went well."""
        if self.findings.unknown:
            logger.info("keys of no column, kept in additional_properties: %s", _some(self.findings.unknown))
        if self.findings.withheld:
            logger.warning("withheld as secrets (include_secrets emits them): %s", _some(self.findings.withheld))
        if self.activate and not self.failed and not self.incomplete:  # so nothing waits for a batch
            for stream in self.streams:
                stream.activate()
        self.write_state()
        if self.failed and len(self.businesses) > 1:
            why = "; ".join(f"{business_id} ({reason.split(':')[0]})" for business_id, reason in self.failed.items())
            logger.error("%d of %d businesses failed: %s", len(self.failed), len(self.businesses), why)
        if self.failed or self.incomplete:
            raise SystemExit(1)


def _some(paths: dict[str, None], most: int = 20) -> str:
    """Name paths in a line: the first of them, and how many more there are."""
    names = [ascii(path)[1:-1] if not path.isprintable() else path for path in list(paths)[:most]]
    return ", ".join(names) + (f" and {len(paths) - most} more" if len(paths) > most else "")
