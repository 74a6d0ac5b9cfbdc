"""The streams: which part of a business's snapshot each emits, under which key, below which parent.

``businesses`` -> ``instances`` -> ``webhooks`` -> ``webhook_events``, and ``connection_changes`` beside ``instances``.
A run (:mod:`tap_instances.run`) walks each snapshot once, and lets each stream write its part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from tap_instances import changes, records
from tap_instances.remembering import RememberingStream
from tap_instances.sdk.stream import ConnectedStream
from tap_instances.values import time_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tap_instances.records import Instance, Reading, Row


class BusinessesStream(ConnectedStream):
    """One row a configured business; the root, which syncs all the others."""

    name = "businesses"
    primary_keys = ("business_id",)


class InstancesStream(ConnectedStream):
    """One row a connected instance, whole at every run."""

    name = "instances"
    primary_keys = ("instance_id",)
    parent_stream_type = BusinessesStream


class WebhooksStream(RememberingStream):
    """One row a webhook of a connected instance."""

    name = "webhooks"
    primary_keys = ("webhook_id",)
    parent_stream_type = InstancesStream

    @override
    def rows(self, instance: Instance) -> list[Row]:
        return instance.webhooks


class WebhookEventsStream(RememberingStream):
    """One row a webhook: which events it gets."""

    name = "webhook_events"
    primary_keys = ("webhook_id",)
    parent_stream_type = WebhooksStream

    @override
    def rows(self, instance: Instance) -> list[Row]:
        return instance.webhook_events

    @override
    def unread(self, instance: Instance) -> tuple[str, ...]:
        return instance.unread_events


class ConnectionChangesStream(ConnectedStream):
    """One row each time an instance appears in its business's list, or vanishes from it, between two runs."""

    name = "connection_changes"
    primary_keys = ("business_id", "instance_id", "previous_observed_at")
    replication_key = "observed_at"
    parent_stream_type = BusinessesStream
    seen_type = str

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
        found = changes.connections(before, self._listed)
        self.write((records.change_row(*change, since, reading) for change in found), reading.observed_at)

    @override
    def commit(self, reading: Reading) -> None:
        self.bookmarks.put(
            reading.business_id,
            replication_key=self.replication_key,
            replication_key_value=time_text(reading.observed_at),
            seen=changes.write_list(dict.fromkeys(self._listed)),
        )
