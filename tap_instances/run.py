"""One run: each business's snapshot, page by page, parents before their children; then state and how it ends."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, closing
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from singer_sdk.singerlib.messages import StateMessage
from xxhash import xxh3_64_intdigest

from tap_instances.columns import load_schema
from tap_instances.failures import SnapshotError
from tap_instances.memory import as_given, read_bookmarks, to_state
from tap_instances.records import Reader, Source
from tap_instances.responses import OPERATOR, TOO_DEEP
from tap_instances.sdk.writer import PAGE, SyncError
from tap_instances.streams import STREAMS
from tap_instances.values import encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tap_instances.businesses import Business
    from tap_instances.memory import Memory
    from tap_instances.records import Instance
    from tap_instances.responses import Snapshot
    from tap_instances.streams import HistoryStream, RememberingStream
    from tap_instances.tap import TapInstances

STATE_INTERVAL: Final = 10.0  # seconds between two STATE messages, at least
MOST_NAMES: Final = 20  # of paths or businesses in one line

logger = logging.getLogger("tap-instances")


class Run:
    """One run of the tap: what it reads, what failed, and how it ends."""

    def __init__(self, tap: TapInstances, businesses: Sequence[Business]) -> None:
        """Get the tap's streams ready, with what its state remembers of them."""
        self.tap, self.businesses = tap, businesses
        self.failed: dict[str, Exception] = {}
        self.read_count = 0  # businesses
        self.started = self.state_written = time.monotonic()
        self.streams: list[Any] = sorted(tap.streams.values(), key=lambda stream: STREAMS.index(type(stream)))
        self.root, self.instances, self.webhooks, self.webhook_events, *histories = self.streams
        self.remembering: list[RememberingStream] = [s for s in (self.webhooks, self.webhook_events) if s.selected]
        limit = self.root.ABORT_AT_RECORD_COUNT
        self.testing = limit == 1  # --test: no STATE. The SDK's test suite has a higher limit, and wants one.
        self.activate = tap.config["emit_activate_version_messages"] and limit is None
        if self.activate and tap.config.get("batch_config"):
            logger.warning("no ACTIVATE_VERSION with batch_config: a target would delete the rows of batches")
            self.activate = False
        ids = {business.id for business in businesses}
        kinds = {stream.name: stream.bookmark_type for stream in self.streams}
        self.bookmarks = read_bookmarks(tap.given_state, kinds, ids)
        for stream in self.streams:
            stream.open(self.bookmarks, activate=self.activate)
        # A history that a map drops keeps its state, as one that is not selected does: its rows are told later.
        told = [stream for stream in histories if stream.writer.is_written]
        self.stateful: list[RememberingStream | HistoryStream] = [*self.remembering, *told]
        if self.activate and not tap.config.get("businesses"):
            # It may be a mistake of the server's, and a version would delete the rows of those.
            # One whose state is not understood has a number here: it counts, too.
            known = {name for bookmark in self.bookmarks.values() if isinstance(bookmark, dict) for name in bookmark}
            gone = known - ids
            if gone:
                names = some(sorted(name if isinstance(name, str) else "one without readable state" for name in gone))
                logger.warning("no ACTIVATE_VERSION: the server's list lacks %s: if that is right, "
                               "run with --full-refresh", names)  # fmt: skip
            elif not ids:
                logger.warning("no ACTIVATE_VERSION: the server's list is empty")
            self.activate = bool(ids) and not gone
        include_secrets = tap.config["include_secrets"]
        rows = [(load_schema(stream.name), stream.writer.selected_columns) for stream in self.remembering]
        shape = xxh3_64_intdigest(encode([tap.plugin_version, include_secrets, rows]))
        self.reader = Reader(include_secrets=include_secrets, shape=shape)
        self.findings = self.reader.findings
        # Otherwise each webhook must be seen: by the stream's map, or to be counted.
        if self.webhooks.selected and not self.webhooks.writer.has_map:
            self.reader.remembered = self._remembered()

    def _remembered(self) -> dict[str, Memory]:
        """Return what is remembered of each instance's webhooks, where all streams remember the same ``Webhook``."""
        if any(stream.memory.full_table for stream in self.remembering):
            return {}
        first, last = self.remembering[0].memory.memories(), self.remembering[-1].memory.memories()
        return {
            instance_id: memory
            for instance_id, memory in first.items()
            if memory.digest and (other := last.get(instance_id)) and other.digest == memory.digest
        }

    # --------------------------------------------------------------------------------------------------- businesses

    def run(self) -> None:
        """Sync every business in the configured order; exit non-zero if one failed or a record had no key."""
        with ExitStack() as stack:
            for stream in self.streams:
                stream.writer.open(stack)
            outcomes = stack.enter_context(closing(self.tap.client.snapshots(self.businesses)))
            try:
                for number, business in enumerate(self.businesses, 1):  # not zip, which would hold one more body
                    self.sync_business(business.id, next(outcomes), number)
                    if time.monotonic() - self.state_written >= STATE_INTERVAL:
                        self.write_checkpoint()
            except SyncError as error:
                self.fail(business.id, error)
        self.end()

    def fail(self, business_id: str, error: Exception) -> None:
        """Note, and say, why a business could not be synced."""
        self.failed[business_id] = error
        logger.error("business %s: %s", business_id, error)

    def sync_business(self, business_id: str, outcome: Snapshot | SnapshotError, number: int) -> None:
        """Write one business's rows, then remember them."""
        if isinstance(outcome, SnapshotError):
            self.fail(business_id, outcome)
            return
        source = Source(business_id, outcome.observed_at)
        self.findings.broken_text |= outcome.not_utf8
        try:
            row = self.reader.read_business(outcome.top, source)
        except RecursionError:  # this thread's stack is deeper than the one that parsed it
            self.fail(business_id, SnapshotError(f"{TOO_DEEP}: {OPERATOR}"))
            return
        self.root.writer.write([row], source.observed_at)
        instances = len(outcome.instances)
        webhooks = self.sync_instances(outcome, source) if self.root.writer.passes(row) else 0
        self.read_count += 1
        if self.testing:
            logger.info("business %s: ok, %d instances", business_id, instances)
        else:
            logger.info("business %s (%d of %d): %d instances, %d webhooks, %.1f s", business_id, number,
                        len(self.businesses), instances, webhooks, outcome.seconds)  # fmt: skip

    def sync_instances(self, snapshot: Snapshot, source: Source) -> int:
        """Write what is below a business; return how many webhooks it has."""
        for stream in self.remembering:
            stream.memory.begin(source.business_id)
        partitions = [stream.bookmark.get(source.business_id) for stream in self.stateful]
        if not snapshot.instances and any(getattr(partition, "seen", None) for partition in partitions):
            logger.warning("business %s: nothing is connected now; the last sync saw some", source.business_id)
        read, faults = self.reader.read_instance, len(self.findings.faults)
        items = enumerate(snapshot.body.take(snapshot.instances))
        instances = filter(None, (read(item, index, source) for index, item in items))
        listed: dict[str, None] = {}
        webhooks = 0
        while page := list(islice(instances, PAGE)):
            for instance in page:
                listed[instance.id] = None
                webhooks += instance.webhook_count
            self.sync_page(page, source)
        for fault in self.findings.faults[faults:]:
            logger.error("business %s: not emitted: %s", source.business_id, fault)
        if len(self.findings.faults) == faults:  # else nothing is concluded from what is missing in the list
            for stateful in self.stateful:
                stateful.finish(source, listed, webhooks)
            for stateful in self.stateful:  # not before every one was written: the last one may fail
                stateful.commit(source, listed)
        else:
            for stream in self.remembering:
                stream.memory.abandon()
        return webhooks

    def sync_page(self, page: list[Instance], source: Source) -> None:
        """Write a page of instances, then their children."""
        self.instances.writer.write([instance.row for instance in page], source.observed_at)
        if self.instances.writer.has_map:
            page = [instance for instance in page if self._passes(instance)]
        for stream in (self.webhooks, self.webhook_events):
            if stream.selected:
                stream.emit(page, source)
            else:
                stream.hide(page)

    def _passes(self, instance: Instance) -> bool:
        """Return whether the map lets an instance through; note if it does not."""
        passes: bool = self.instances.writer.passes(instance.row)
        if not passes:
            for stream in self.remembering:
                stream.memory.hide(instance.id)
        return passes

    # --------------------------------------------------------------------------------------------------------- state

    def write_checkpoint(self) -> None:
        """Write STATE in the middle of a run.

        Some loaders (pipelinewise's, and those made from them) fall back on the first STATE that they saw, for streams
        whose rows they have not loaded. So the given state is written first.
        """
        if self.state_written == self.started and not self.testing:
            self.tap.write_message(StateMessage(value=as_given(self.tap.given_state)))
        self.write_state()

    def write_state(self) -> None:
        """Write STATE, after whatever waits for a batch."""
        for stream in self.streams:
            stream.writer.flush()
        if not self.testing:
            self.tap.write_message(StateMessage(value=to_state(self.bookmarks)))
        self.state_written = time.monotonic()

    # --------------------------------------------------------------------------------------------------- how it ends

    def end(self) -> None:
        """Report, activate if all went well, write the last STATE, and exit non-zero if not all went well."""
        self.report()
        for stream in self.remembering:
            stream.memory.forget()
        is_complete = not self.failed and not self.findings.faults
        if self.activate and is_complete:  # so nothing waits for a batch
            self.activate_versions()
        self.write_state()
        logger.info("%s", self.summary())
        if not_tried := len(self.businesses) - self.read_count - len(self.failed):
            logger.error("businesses after that, not tried: %d", not_tried)
        if self.failed and len(self.businesses) > 1:
            names = some(f"{business_id} ({str(error).split(':')[0]})" for business_id, error in self.failed.items())
            logger.error("%d of %d businesses failed: %s", len(self.failed), len(self.businesses), names)
        if not is_complete:
            raise SystemExit(1)

    def report(self) -> None:
        """Say once per run what the API sent that no column holds."""
        found = self.findings
        if found.unknown:
            logger.info("keys of no column, kept in additional_properties: %s", some(found.unknown))
        if found.misfits:
            columns = some(found.misfits)
            logger.warning("values that do not fit their columns, kept in additional_properties: %s", columns)
        if found.withheld:
            logger.warning("withheld as secrets (include_secrets emits them): %s", some(found.withheld))
        if found.broken_text:
            logger.warning("the server sent bytes that are not UTF-8; in their place stands U+FFFD")
        if found.missing and any(stream.memory.uncertain for stream in self.remembering):
            logger.warning("missing in an answer, so what was known of it is kept as it was: %s", some(found.missing))

    def activate_versions(self) -> None:
        """Let the target delete what is not part of this run's version, stream by stream."""
        for stream in (self.root, self.instances):
            stream.writer.activate()
        for remembering in [stream for stream in self.remembering if stream.memory.versioned]:
            if remembering.memory.uncertain:
                logger.warning("no ACTIVATE_VERSION for %s: not all of it is known", remembering.name)
            else:
                remembering.writer.activate()
                remembering.memory.activated()

    def summary(self) -> str:
        """Return the closing line: how much was read, written, and left out since it is known from the state."""
        seconds = time.monotonic() - self.started
        line = f"{self.read_count} of {len(self.businesses)} businesses read in {seconds:.1f} s"
        if not self.testing:
            counts = [f"{stream.writer.count} {stream.name}" for stream in self.streams if stream.selected]
            line += f"; emitted: {', '.join(counts)}"
        if unchanged := [f"{n} {stream.name}" for stream in self.remembering if (n := stream.memory.unchanged)]:
            line += f"; unchanged since the given state, so left out: {', '.join(unchanged)}"
        return line


def some(names: Iterable[str]) -> str:
    """Name things in one line: the first of them, and how many more there are."""
    every = [ascii(name)[1:-1] if not name.isprintable() else name for name in names]
    return ", ".join(every[:MOST_NAMES]) + (f" and {len(every) - MOST_NAMES} more" if len(every) > MOST_NAMES else "")
