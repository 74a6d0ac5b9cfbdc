"""What webhooks and webhook_events have in common: they emit what is not as it was, and what is gone.

The rules are pure functions in :mod:`tap_instances.changes`; here they meet a business's pages and its state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from tap_instances import changes, records
from tap_instances.sdk.stream import FULL_TABLE, ConnectedStream
from tap_instances.values import time_text, to_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tap_instances.records import Instance, Reading, Row


class RememberingStream(ConnectedStream):
    """A stream that emits what is new, changed, gone or back since the last sync of a business."""

    replication_key = "updated_at"
    can_be_full_table = True
    seen_type = dict

    def rows(self, instance: Instance) -> list[Row]:
        """Return this stream's rows of an instance."""
        raise NotImplementedError

    def unread(self, instance: Instance) -> tuple[str, ...]:  # noqa: ARG002
        """Return the keys of rows that are there and could not be read."""
        return ()

    @override
    def begin(self, business_id: str) -> None:
        partition = self.bookmarks.get(business_id) or {}
        self._before: changes.Memory = dict(partition.get("seen", {}))
        self._now: changes.Memory = {}
        self._latest = to_time(partition.get("replication_key_value"))

    def emit(self, page: Sequence[Instance], reading: Reading) -> None:
        """Write a page's rows that are not as remembered, and remember them."""
        if not self.selected:
            return
        out: list[bytes] = []
        whole, latest = self.replication_method == FULL_TABLE, self._latest
        salt, known, now = self.salt, self._before, self._now
        for instance in page:
            rows, key = self.rows(instance), instance.id
            memory = changes.memory_of(rows, salt)
            twice = key in now or (len(rows) > 1 and len(rows) > len({row[0] for row in rows}))
            if key in known or twice:
                rows, memory = self._changed(instance, rows, memory, whole=whole, twice=twice)
            now[key] = memory
            for _, row, updated_at in rows:
                out.append(row)
                if updated_at and (latest is None or updated_at > latest):
                    latest = updated_at
        self._latest = latest
        self.write(out, reading.observed_at)

    def _changed(
        self, instance: Instance, rows: list[Row], memory: str, *, whole: bool, twice: bool
    ) -> tuple[list[Row], str]:
        """Return the rows to emit of an instance that was there before, and what to remember of it."""
        before = self._before.get(instance.id, "")
        if instance.hidden:  # what a map hides is forgotten, not gone
            before = self._before[instance.id] = changes.forget(before, instance.hidden)
        if not instance.readable or instance.unread_events:  # what cannot be read is not gone
            known = changes.recall(before)
            keys = self.unread(instance) if instance.readable else tuple(known)
            memory = changes.remember({key: known[key] for key in keys if key in known} | changes.recall(memory))
        if twice:  # which is right cannot be known: all of it is emitted, at every run
            both = [*changes.recall(self._now.get(instance.id, "")), *changes.recall(memory)]
            memory = changes.remember(dict.fromkeys(both, ""))
        if not (whole or twice):
            new = changes.changed(before, changes.recall(memory)) if memory != before else ()
            rows = [row for row in rows if row[0] in new]
        return rows, memory

    @override
    def finish(self, reading: Reading) -> None:
        if self._stream_version is None:  # else ACTIVATE_VERSION tells
            gone = changes.gone(self._before, self._now)
            self.write((records.deleted_row(self.name, *ids, reading) for ids in gone), reading.observed_at)

    @override
    def commit(self, reading: Reading) -> None:
        # With FULL_TABLE too: what is remembered is what the table has, should INCREMENTAL be chosen again.
        self.bookmarks.put(
            reading.business_id,
            replication_key=self.replication_key,
            replication_key_value=time_text(self._latest) if self._latest else None,
            seen=self._now,
        )
