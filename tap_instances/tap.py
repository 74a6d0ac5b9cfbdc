"""The tap: which streams there are, and what they need of the settings and of the state."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast
from urllib.parse import urlsplit

from singer_sdk.singerlib.messages import StateMessage
from typing_extensions import override

from tap_instances import settings
from tap_instances.client import Business, Client
from tap_instances.memory import read_bookmarks
from tap_instances.run import Run
from tap_instances.sdk.tap import ConnectedTap
from tap_instances.streams import (
    BusinessesStream,
    ConnectionChangesStream,
    InstancesStream,
    ObservationsStream,
    WebhookEventsStream,
    WebhooksStream,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tap_instances.sdk.stream import ConnectedStream

STREAMS: Final[tuple[type[ConnectedStream], ...]] = (
    BusinessesStream,
    InstancesStream,
    WebhooksStream,
    WebhookEventsStream,
    ConnectionChangesStream,
    ObservationsStream,
)
LOOPBACK: Final = re.compile(r"(localhost|127(\.\d+){3}|::1)\Z")


class TapInstances(ConnectedTap):
    """Singer tap for CodeChat: connected WhatsApp instances, their webhooks, and the events each webhook gets."""

    name = "tap-instances"
    config_jsonschema: ClassVar[dict[str, Any]] = settings.SETTINGS

    @override
    def discover_streams(self) -> list[ConnectedStream]:
        return [stream(self) for stream in STREAMS]

    @cached_property
    def businesses(self) -> list[Business]:
        """The configured businesses, in their order."""
        entries = self.config.get("businesses") or [self.config]
        return [Business(entry["business_id"], entry["auth_token"]) for entry in entries]

    @cached_property
    def client(self) -> Client:
        """The way to the configured server; made when the first request is due."""
        api_url, config = self.config["api_url"].strip(), self.config
        parts = urlsplit(api_url)
        if parts.scheme == "http" and not LOOPBACK.match(parts.hostname or ""):
            self.logger.warning("api_url is plain http: tokens and data cross the network unencrypted; use https")
        return Client(
            api_url,
            concurrency=int(config["concurrency"]),  # JSON Schema takes 4.0 for an integer
            request_timeout=int(config["request_timeout"]),
            max_retries=int(config["max_retries"]),
            user_agent=config.get("user_agent") or f"{self.name}/{self.plugin_version}",
        )

    # -------------------------------------------------------------------------------------------------------- a run

    @override
    def sync_all(self) -> None:  # type: ignore[misc]
        """Sync every business; exit non-zero if one failed, which ``failed`` then tells, or a record had no key."""
        run = self._run()
        self.failed = run.failed
        run.run()

    def check(self) -> dict[str, Exception]:
        """Ask every business, without writing anything; return those that fail: business id -> why."""
        run = self._run()
        run.check()
        return run.failed

    def _run(self) -> Run:
        kinds = {name: stream.partition for name, stream in self.streams.items()}
        ids = {business.id for business in self.businesses}
        bookmarks = read_bookmarks(self.given_state, kinds, ids) if self.given_state is not None else {}
        self._state = {"bookmarks": bookmarks}
        return Run(self.streams, bookmarks, self.client, self.businesses, self.write_state, self.plugin_version)

    def write_state(self) -> None:
        """Write a STATE message."""
        self.write_message(StateMessage(value=self.state))
