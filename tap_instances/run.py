"""One run: each business's snapshot, page by page, parents before their children; then state and how it ends."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import msgspec
from xxhash import xxh3_64_intdigest

from tap_instances.client import SnapshotError
from tap_instances.columns import load_schema
from tap_instances.records import Reader, Source
from tap_instances.sdk.writer import SyncError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from msgspec import Raw

    from tap_instances.businesses import Business
    from tap_instances.client import Client
    from tap_instances.memory import Memory
    from tap_instances.records import Instance
    from tap_instances.responses import Snapshot
    from tap_instances.streams import HistoryStream, RememberingStream, SnapshotStream

PAGE: Final = 1000  # instances that are read at a time
STATE_INTERVAL: Final = 10.0  # seconds between two STATE messages, at least
MOST_NAMES: Final = 20  # of paths or businesses in one line

logger = logging.getLogger("tap-instances")


class Run:
    """One run of the tap: what it reads, what failed, and how it ends."""

    def __init__(  # noqa: PLR0913
        self,
        streams: Mapping[str, Any],
        bookmarks: dict[str, Any],
        client: Client,
        businesses: Sequence[Business],
        write_state: Callable[[], None],
        version: str,
    ) -> None:
        """Take the streams by name, what is remembered of them, and what to ask whom.

        ``version`` is the tap's: another one may make other rows of the same answer.
        """
        self.client, self.businesses, self.write_state_message = client, businesses, write_state
        self.business: SnapshotStream = streams["businesses"]
        self.instances: SnapshotStream = streams["instances"]
        self.webhooks: RememberingStream = streams["webhooks"]
        histories: tuple[HistoryStream, ...] = (streams["connection_changes"], streams["observations"])
        self.streams = (self.business, self.instances, self.webhooks, streams["webhook_events"], *histories)
        self.remembering = [stream for stream in (self.webhooks, streams["webhook_events"]) if stream.selected]
        self.histories = [stream for stream in histories if stream.selected]
        self.failed: dict[str, Exception] = {}
        self.read = 0  # businesses
        self.is_incomplete = False
        self.started = self.state_written = time.monotonic()
        config = self.business.config
        limit = self.business.ABORT_AT_RECORD_COUNT
        self.testing = limit == 1  # --test: no STATE. The SDK's test suite has a higher limit, and wants one.
        self.activate = bool(config.get("emit_activate_version_messages")) and limit is None
        if self.activate and config.get("batch_config"):
            logger.warning("no ACTIVATE_VERSION with batch_config: a target would delete the rows of batches")
            self.activate = False
        self.reader = Reader(include_secrets=bool(config.get("include_secrets")))
        self.findings = self.reader.findings
        for stream in self.streams:
            stream.open(bookmarks, activate=self.activate, limit=limit)
        self.reader.shape = self._shape(version)
        # Else each webhook is asked for: by the stream's map, or to count what is listed.
        if self.webhooks.selected and not self.webhooks.writer.has_map:
            self.reader.known = self._known()

    def _known(self) -> dict[str, tuple[Memory, ...]]:
        """Return what each stream remembers of the instances that none of them needs to read."""
        first, *others = [stream.memory.known() for stream in self.remembering]
        known: dict[str, tuple[Memory, ...]] = {instance_id: (memory,) for instance_id, memory in first.items()}
        for other in others:
            known = {
                instance_id: (*memories, other[instance_id])
                for instance_id, memories in known.items()
                if instance_id in other and other[instance_id].digest == memories[0].digest
            }
        return known

    def _shape(self, version: str) -> int:
        """Return a digest of whatever shapes the rows below an instance, besides what the API says of it."""
        rows = [(load_schema(stream.name), stream.writer.deselection) for stream in self.remembering]
        return xxh3_64_intdigest(msgspec.json.encode([version, self.reader.include_secrets, rows]))

    # --------------------------------------------------------------------------------------------------- businesses

    def run(self) -> None:
        """Sync every business in the configured order; exit non-zero if one failed or a record had no key."""
        with ExitStack() as stack:
            for stream in self.streams:
                stream.writer.open(stack)
            stack.callback((outcomes := self.client.snapshots(self.businesses)).close)
            for number, business in enumerate(self.businesses, 1):
                snapshot = next(outcomes)
                try:
                    if isinstance(snapshot, SnapshotError):
                        raise snapshot
                    self.sync_business(business.id, snapshot, number)
                except (SnapshotError, SyncError) as error:
                    self.fail(business.id, error)
                    if isinstance(error, SyncError):
                        break
                del snapshot  # its body: the next one may be there already
                if time.monotonic() - self.state_written >= STATE_INTERVAL:
                    self.write_state()
        self.end()

    def fail(self, business_id: str, error: Exception) -> None:
        """Note, and say, why a business could not be synced."""
        self.failed[business_id] = error
        logger.error("business %s: %s", business_id, error)

    def check(self) -> None:
        """Ask every business, and say of each whether it answers; nothing is written."""
        outcomes = self.client.snapshots(self.businesses)
        for business in self.businesses:
            outcome = next(outcomes)
            if isinstance(outcome, SnapshotError):
                self.fail(business.id, outcome)
            else:
                logger.info("business %s: ok, %d instances", business.id, len(outcome.instances))

    def sync_business(self, business_id: str, snapshot: Snapshot, number: int) -> None:
        """Write one business's rows, then remember them."""
        source = Source(business_id, snapshot.observed_at)
        self.findings.broken_text |= snapshot.not_utf8
        row = self.reader.read_business(snapshot.body, source)
        self.business.writer.write([row], source.observed_at)
        instances = webhooks = 0
        if self.business.writer.passes(row):
            instances, webhooks = len(snapshot.instances), self.sync_instances(snapshot, source)
        self.read += 1
        if self.testing:
            logger.info("business %s: ok, %d instances", business_id, instances)
        else:
            logger.info("business %s (%d of %d): %d instances, %d webhooks, %.1f s", business_id, number,
                        len(self.businesses), instances, webhooks, snapshot.seconds)  # fmt: skip

    def sync_instances(self, snapshot: Snapshot, source: Source) -> int:
        """Write what is below a business; return how many webhooks it has."""
        for stream in self.remembering:
            stream.begin(source.business_id)
        if not snapshot.instances and any(self._saw_some(stream, source.business_id) for stream in self.streams):
            logger.warning("business %s: nothing is connected now; the last sync saw some", source.business_id)
        self.listed: dict[str, None] = {}
        webhooks = 0
        for start in range(0, len(snapshot.instances), PAGE):
            page = self._read(snapshot.instances[start : start + PAGE], start, source)
            for instance in page:
                self.listed[instance.id] = None
                webhooks += len(instance.known[0].rows) if instance.known else len(instance.webhooks)
            self.sync_page(page, source)
        if self._tell_faults(source.business_id):  # so nothing is concluded from what is missing in the list
            return webhooks
        for remembering in self.remembering:
            remembering.finish(source)
        for history in self.histories:
            history.finish(source, self.listed, webhooks)
        for remembering in self.remembering:  # not before every stream was written: the last one may fail
            remembering.commit(source)
        for history in self.histories:
            history.commit(source, self.listed)
        return webhooks

    def _tell_faults(self, business_id: str) -> bool:
        """Say which items of a business could not be emitted; return whether there are some."""
        faults, self.findings.faults = self.findings.faults, []
        for fault in faults:
            logger.error("business %s: not emitted: %s", business_id, fault)
        self.is_incomplete |= bool(faults)
        return bool(faults)

    @staticmethod
    def _saw_some(stream: SnapshotStream, business_id: str) -> bool:
        partition = stream.bookmarks.get(business_id) if stream.selected and stream.bookmark_type else None
        return bool(getattr(partition, "seen", None))

    def _read(self, items: Sequence[Raw], start: int, source: Source) -> list[Instance]:
        """Return the instances in a part of the list that begins at ``start``."""
        read = self.reader.read_instance
        page = [read(bytes(item), f"Instances[{index}]", source) for index, item in enumerate(items, start)]
        return [instance for instance in page if instance]

    def sync_page(self, page: list[Instance], source: Source) -> None:
        """Write a page of instances, then their children."""
        self.instances.writer.write([instance.row for instance in page], source.observed_at)
        if self.instances.writer.has_map or self.webhooks.writer.has_map:
            page = [instance for instance in page if self._passes(instance)]
        for place, stream in enumerate(self.remembering):
            stream.emit(page, place, source)

    def _passes(self, instance: Instance) -> bool:
        """Return whether the maps let an instance through, and note which of its webhooks they do not."""
        if not self.instances.writer.passes(instance.row):
            for stream in self.remembering:
                stream.memory.hide(instance.id)
            return False
        passing = {row.key for row in instance.webhooks if self.webhooks.writer.passes(row.json)}
        instance.hidden = {row.key for row in instance.webhooks} - passing
        return True

    # --------------------------------------------------------------------------------------------------- how it ends

    def write_state(self) -> None:
        """Write STATE, after whatever waits for a batch."""
        for stream in self.streams:
            stream.writer.flush()
        if not self.testing:
            self.write_state_message()
        self.state_written = time.monotonic()

    def end(self) -> None:
        """Report, activate if all went well, write the last STATE, and exit non-zero if not all went well."""
        self.report()
        if self.activate and not self.failed and not self.is_incomplete:  # so nothing waits for a batch
            self.activate_versions()
        self.write_state()
        logger.info("%s", self.summary())
        if not_tried := len(self.businesses) - self.read - len(self.failed):
            logger.error("the %d businesses after that were not tried", not_tried)
        if self.failed and len(self.businesses) > 1:
            names = some(f"{business_id} ({str(error).split(':')[0]})" for business_id, error in self.failed.items())
            rows = "" if self.testing else ", their rows are those of an earlier run"
            logger.error("%d of %d businesses failed%s: %s", len(self.failed), len(self.businesses), rows, names)
        if self.failed or self.is_incomplete:
            raise SystemExit(1)

    def report(self) -> None:
        """Say once per run what the API sent that no column holds."""
        found = self.findings
        if found.unknown:
            logger.info("keys of no column, kept in additional_properties: %s", some(found.unknown))
        if found.misfits:
            logger.warning("values that do not fit their columns, kept in additional_properties: %s",
                           some(found.misfits))  # fmt: skip
        if found.withheld:
            logger.warning("withheld as secrets (include_secrets emits them): %s", some(found.withheld))
        if found.broken_text:
            logger.warning("the server sent bytes that are not UTF-8; in their place stands U+FFFD")
        if found.missing and any(stream.memory.uncertain for stream in self.remembering):
            logger.warning("missing in an answer, so what was known of it is kept as it was: %s", some(found.missing))

    def activate_versions(self) -> None:
        """Let the target delete what is not part of this run's version, stream by stream."""
        for stream in (self.business, self.instances):
            stream.writer.activate()
        for remembering in self.remembering:
            if remembering.memory.uncertain and remembering.memory.versioned:
                logger.warning("no ACTIVATE_VERSION for %s: not all of it is known", remembering.name)
            elif remembering.memory.versioned:
                remembering.writer.activate()
                remembering.memory.activated()

    def summary(self) -> str:
        """Return the closing line: how much was read, written, and left out since it is known from the state."""
        line = f"{self.read} of {len(self.businesses)} businesses read in "
        line += f"{time.monotonic() - self.started:.1f} s"
        if self.testing:
            return line
        counts = [f"{stream.writer.count} {stream.name}" for stream in self.streams if stream.selected]
        line += f"; emitted: {', '.join(counts)}"
        unchanged = [f"{n} {stream.name}" for stream in self.remembering if (n := stream.memory.unchanged)]
        if unchanged:
            line += f"; unchanged since the given state, so left out: {', '.join(unchanged)}"
        return line


def some(names: Iterable[str]) -> str:
    """Name things in one line: the first of them, and how many more there are."""
    every = [ascii(name)[1:-1] if not name.isprintable() else name for name in names]
    return ", ".join(every[:MOST_NAMES]) + (f" and {len(every) - MOST_NAMES} more" if len(every) > MOST_NAMES else "")
