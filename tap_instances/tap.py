"""The tap: which streams there are, and what they need of the settings and of the state."""

from __future__ import annotations

import logging
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast
from urllib.parse import urlsplit

from typing_extensions import override

from tap_instances import settings
from tap_instances.businesses import all_listed, find_tokens
from tap_instances.client import Client, SnapshotError
from tap_instances.memory import Partition, read_bookmarks
from tap_instances.run import Run
from tap_instances.sdk.tap import SDKTap
from tap_instances.streams import (
    BusinessesStream,
    ConnectionChangesStream,
    InstancesStream,
    ObservationsStream,
    WebhookEventsStream,
    WebhooksStream,
)
from tap_instances.values import encode

if TYPE_CHECKING:
    from tap_instances.businesses import Business
    from tap_instances.sdk.output import LineWriter
    from tap_instances.streams import SnapshotStream

STREAMS: Final[tuple[type[SnapshotStream], ...]] = (
    BusinessesStream,
    InstancesStream,
    WebhooksStream,
    WebhookEventsStream,
    ConnectionChangesStream,
    ObservationsStream,
)
LOOPBACK: Final = re.compile(r"(localhost|127(\.\d+){3}|::1)\Z")

logger = logging.getLogger("tap-instances")


class TapInstances(SDKTap):
    """Singer tap for CodeChat: connected WhatsApp instances, their webhooks, and the events each webhook gets."""

    name = "tap-instances"
    config_jsonschema: ClassVar[dict[str, Any]] = settings.SETTINGS

    @override
    def discover_streams(self) -> list[SnapshotStream]:
        return [stream(self) for stream in STREAMS]

    @cached_property
    def businesses(self) -> list[Business]:
        """The businesses to read, in their order; the server's list is requested only if a token is missing.

        Raises:
            SnapshotError: the list is needed and cannot be read.
        """
        entries = settings.businesses(self.config)
        named = {entry["business_id"]: entry.get("auth_token") for entry in entries}
        if named and all(named.values()):
            return find_tokens(named, [])
        listed = self.client.list_businesses(self.config["admin_token"])
        if named:
            return find_tokens(named, listed)
        businesses = all_listed(listed)
        if not businesses:
            logger.warning("the server lists no businesses: there is nothing to read")
        return businesses

    @cached_property
    def client(self) -> Client:
        """HTTP client for ``api_url``, created on first use."""
        api_url, config = self.config["api_url"], self.config
        parts = urlsplit(api_url)
        if parts.scheme == "http" and not LOOPBACK.match(parts.hostname or ""):
            self.logger.warning("api_url is plain http: tokens and data cross the network unencrypted; use https")
        return Client(
            api_url,
            headers=config.get("headers") or {},
            concurrency=config["concurrency"],
            request_timeout=config["request_timeout"],
            max_retries=config["max_retries"],
            user_agent=config.get("user_agent") or f"{self.name}/{self.plugin_version}",
        )

    # -------------------------------------------------------------------------------------------------------- a run

    def sync_all(self) -> None:  # type: ignore[misc]  # the SDK declares it final; its Stream.sync is entered so
        """Sync every business; exit non-zero if one failed, which :attr:`failed` then tells, or a record had no key."""
        if any(stream.selected for stream in self.streams.values()):  # if none is, a warning was logged
            self._run().run()

    def check(self) -> dict[str, Exception]:
        """Ask every business, without writing anything; return those that fail: business id -> why."""
        self._run().check()
        return self.failed

    def _run(self) -> Run:
        """Return a run over all businesses, as the given state has left them.

        Raises:
            SystemExit: the server's list of businesses is needed, and cannot be read.
        """
        try:
            businesses = self.businesses
        except SnapshotError as error:
            logger.error("the list of businesses: %s", error)  # noqa: TRY400 (one line for people)
            self.failed: dict[str, Exception] = {"the list of businesses": error}
            raise SystemExit(1) from error
        kinds = {name: cast("SnapshotStream", stream).bookmark_type for name, stream in self.streams.items()}
        ids = {business.id for business in businesses}
        bookmarks = read_bookmarks(self.given_state, kinds, ids) if self.given_state is not None else {}
        self._state = {"bookmarks": bookmarks}
        run = Run(self.streams, bookmarks, self.client, businesses, self.write_state, self.plugin_version)
        self.failed = run.failed
        if run.activate and not settings.businesses(self.config) and self._lacks_some(bookmarks, ids):
            # It may be a mistake of the server's, and a version would delete the rows of those that are not listed.
            logger.warning("no ACTIVATE_VERSION: the server lists no businesses, or lacks one of an earlier run")
            run.activate = False
        return run

    @staticmethod
    def _lacks_some(bookmarks: dict[str, Any], ids: set[str]) -> bool:
        """Return whether no business is listed, or not every one that the state remembers."""
        known = [
            entry for bookmark in bookmarks.values() if isinstance(bookmark, dict) for entry in bookmark["partitions"]
        ]
        # Of businesses that are not listed, partitions that are not understood are kept as they came.
        return not ids or any(
            not isinstance(entry, Partition) or entry.context.business_id not in ids for entry in known
        )

    def write_state(self) -> None:
        """Write a STATE message; the SDK's way would copy the state whole."""
        cast("LineWriter", self.message_writer).write(encode({"type": "STATE", "value": self.state}) + b"\n")
