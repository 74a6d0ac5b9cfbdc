"""The tap: which streams there are, and what they need of the settings and of the state."""

from __future__ import annotations

import logging
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast
from urllib.parse import urlsplit

from singer_sdk.singerlib.messages import StateMessage
from typing_extensions import override

from tap_instances import settings, streams
from tap_instances.businesses import find_businesses
from tap_instances.client import Client, SnapshotError
from tap_instances.memory import Partition, read_bookmarks
from tap_instances.run import Run
from tap_instances.sdk.tap import SDKTap

if TYPE_CHECKING:
    from tap_instances.businesses import Business

STREAMS: Final[tuple[type[streams.SnapshotStream], ...]] = (
    streams.BusinessesStream,
    streams.InstancesStream,
    streams.WebhooksStream,
    streams.WebhookEventsStream,
    streams.ConnectionChangesStream,
    streams.ObservationsStream,
)
LOOPBACK: Final = re.compile(r"(localhost|127(\.\d+){3}|::1)\Z")

logger = logging.getLogger("tap-instances")


class TapInstances(SDKTap):
    """Singer tap for CodeChat: connected WhatsApp instances, their webhooks, and the events each webhook gets."""

    name = "tap-instances"
    config_jsonschema: ClassVar[dict[str, Any]] = settings.SETTINGS
    failed: dict[str, Exception]  # what could not be read in a run -> why

    @override
    def discover_streams(self) -> list[streams.SnapshotStream]:
        return [stream(self) for stream in STREAMS]

    @cached_property
    def client(self) -> Client:
        """HTTP client for ``api_url``, created on first use."""
        api_url, config = self.config["api_url"], self.config
        parts = urlsplit(api_url)
        if parts.scheme == "http" and not LOOPBACK.match(parts.hostname or ""):
            logger.warning("api_url is plain http: tokens and data cross the network unencrypted; use https")
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
        if any(stream.selected for stream in self.streams.values()):
            self._run().run()
        else:
            logger.warning("the catalog selects no stream: nothing is read")

    def check(self) -> dict[str, Exception]:
        """Ask every business, without writing anything; return those that fail: business id -> why."""
        self._run().check()
        return self.failed

    def _run(self) -> Run:
        """Return a run over all businesses, as the given state has left them."""
        businesses = self._businesses()
        ids = {business.id for business in businesses}
        kinds = {name: cast("streams.SnapshotStream", stream).bookmark_type for name, stream in self.streams.items()}
        bookmarks = read_bookmarks(self.given_state, kinds, ids)
        self._state = {"bookmarks": bookmarks}
        run = Run(self.streams, bookmarks, self.client, businesses, self.write_state, self.plugin_version)
        self.failed = run.failed
        if run.activate and not settings.businesses(self.config):
            partitions = [item for name in bookmarks.keys() & kinds.keys() for item in bookmarks[name]["partitions"]]
            # Of businesses that are not listed, partitions that are not understood are kept as they came.
            remembered = {item.context.business_id if isinstance(item, Partition) else None for item in partitions}
            if not ids or not remembered <= ids:
                # It may be a mistake of the server's, and a version would delete the rows of those.
                logger.warning("no ACTIVATE_VERSION: the server lists no businesses, or lacks one of an earlier run")
                run.activate = False
        return run

    def _businesses(self) -> list[Business]:
        """Return the businesses to read, in their order; the server's list is requested only if a token is missing.

        Raises:
            SystemExit: The list is needed, and cannot be read.
        """
        named = {entry["business_id"]: entry.get("auth_token") for entry in settings.businesses(self.config)}
        listed = []
        if not named or not all(named.values()):
            try:
                listed = self.client.list_businesses(self.config["admin_token"])
            except SnapshotError as error:
                logger.error("the list of businesses: %s", error)  # noqa: TRY400 (one line for people)
                self.failed = {"the list of businesses": error}
                raise SystemExit(1) from error
        businesses = find_businesses(named, listed)
        if not businesses:
            logger.warning("the server lists no businesses: there is nothing to read")
        return businesses

    def write_state(self) -> None:
        """Write a STATE message."""
        self.write_message(StateMessage(value=self.state))
