"""The tap: which streams there are, and what they need of the settings and of the state."""

from __future__ import annotations

import logging
import re
from functools import cached_property
from typing import Any, ClassVar

from typing_extensions import override

from tap_instances import settings
from tap_instances.businesses import Business, find_businesses
from tap_instances.client import Client
from tap_instances.failures import SnapshotError
from tap_instances.run import Run
from tap_instances.sdk.tap import SDKTap
from tap_instances.streams import STREAMS, SnapshotStream

logger = logging.getLogger("tap-instances")


class TapInstances(SDKTap):
    """Singer tap for CodeChat: connected WhatsApp instances, their webhooks, and the events each webhook gets."""

    name = "tap-instances"
    config_jsonschema: ClassVar[dict[str, Any]] = settings.SETTINGS
    failed: dict[str, Exception]  # what could not be read in a run -> why

    @override
    def discover_streams(self) -> list[SnapshotStream]:
        return [stream(self) for stream in STREAMS]

    @cached_property
    def client(self) -> Client:
        """HTTP client for ``api_url``, created on first use."""
        if re.match(r"http://(?!(localhost|127(\.\d+){3}|\[::1\])([:/]|\Z))", self.config["api_url"], re.IGNORECASE):
            logger.warning("api_url is plain http: tokens and data cross the network unencrypted; use https")
        return Client(self.config, default_user_agent=f"{self.name}/{self.plugin_version}")

    # -------------------------------------------------------------------------------------------------------- a run

    def sync_all(self) -> None:  # type: ignore[misc]  # the SDK declares it final
        """Sync every business; exit non-zero if one failed, which :attr:`failed` then tells, or a record had no key."""
        if any(stream.selected for stream in self.streams.values()):
            run = Run(self, self._businesses())
            self.failed = run.failed
            run.run()
        else:
            logger.warning("the catalog selects no stream: nothing is read")

    def _businesses(self) -> list[Business]:
        """Return the businesses to read, in order; exit if the server's list is needed for a token and not readable."""
        named = {entry["business_id"]: entry.get("auth_token") for entry in self.config.get("businesses", ())}
        listed = []
        if not named or not all(named.values()):
            try:
                listed = self.client.list_businesses(self.config["admin_token"])
            except SnapshotError as error:
                logger.error("the list of businesses: %s", error)  # noqa: TRY400 (one readable line)
                self.failed = {"the list of businesses": error}
                raise SystemExit(1) from error
        businesses = find_businesses(named, listed)
        if not businesses:
            logger.warning("the server lists no businesses: there is nothing to read")
        return businesses
