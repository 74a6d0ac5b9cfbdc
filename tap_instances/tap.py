"""The tap: which streams there are, and what they need of the settings and of the state."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast
from urllib.parse import urlsplit

from singer_sdk.singerlib.messages import StateMessage
from typing_extensions import override

from tap_instances import settings
from tap_instances.businesses import all_listed, find_tokens
from tap_instances.client import Client
from tap_instances.run import Run
from tap_instances.sdk.tap import ConnectedTap
from tap_instances.state import understood
from tap_instances.streams import (
    BusinessesStream,
    ConnectionChangesStream,
    InstancesStream,
    WebhookEventsStream,
    WebhooksStream,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tap_instances.businesses import Business
    from tap_instances.sdk.stream import ConnectedStream

STREAMS: Final[tuple[type[ConnectedStream], ...]] = (
    BusinessesStream,
    InstancesStream,
    WebhooksStream,
    WebhookEventsStream,
    ConnectionChangesStream,
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
        """The businesses to read, in their order; the server's list is requested only if a token is missing.

        Raises:
            SnapshotError: the list is needed and cannot be read.
        """
        entries = self.config.get("businesses") or ([self.config] if self.config.get("business_id") else [])
        named = {entry["business_id"]: entry.get("auth_token") for entry in entries}
        if named and all(named.values()):
            return find_tokens(named, [])
        listed = self.client.list_businesses(self.config["admin_token"])
        if named:
            return find_tokens(named, listed)
        businesses = all_listed(listed)
        if not businesses:
            self.logger.warning("the server lists no businesses: there is nothing to read")
        return businesses

    @cached_property
    def client(self) -> Client:
        """HTTP client for ``api_url``, created on first use."""
        api_url, config = self.config["api_url"].strip(), self.config
        parts = urlsplit(api_url)
        if parts.scheme == "http" and not LOOPBACK.match(parts.hostname or ""):
            self.logger.warning("api_url is plain http: tokens and data cross the network unencrypted; use https")
        return Client(
            api_url,
            headers=config.get("headers") or {},
            concurrency=int(config["concurrency"]),  # JSON Schema takes 4.0 for an integer
            request_timeout=int(config["request_timeout"]),
            max_retries=int(config["max_retries"]),
            user_agent=config.get("user_agent") or f"{self.name}/{self.plugin_version}",
        )

    @override
    def load_state(self, state: dict[str, Any]) -> None:
        """Take over the state; what is not understood is left out, and so synced again."""
        if state:
            streams = cast("Iterable[ConnectedStream]", self.streams.values())
            seen = {stream.name: stream.seen_type for stream in streams}
            ids = {entry.get("business_id") for entry in self.config.get("businesses") or [self.config]}
            self._state.setdefault("bookmarks", {}).update(understood(state, seen, ids))

    @override
    def run(self) -> None:
        Run(self.streams, self.client, self.businesses, self.write_state).run()

    def write_state(self) -> None:
        """Write a STATE message."""
        self.write_message(StateMessage(value=self.state))
