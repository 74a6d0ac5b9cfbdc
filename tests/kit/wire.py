"""A server without sockets: what each business answers, and a clock that only goes on.

For tests that sync many times. The body still becomes a snapshot in `tap_instances.client`; the wire itself has its own
tests, with a real server.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import requests

from tap_instances import client
from tap_instances.body import Body
from tap_instances.failures import SnapshotError
from tap_instances.responses import Snapshot, read_connected
from tap_instances.tap import TapInstances
from tests.kit.support import Run, sync

if TYPE_CHECKING:
    import pytest

    from tap_instances.businesses import Business

BEGINNING = datetime(2025, 6, 1, tzinfo=timezone.utc)


class Wire:
    """Businesses and their answers; one that answers `None` fails."""

    def __init__(self, patch: pytest.MonkeyPatch, **answers: list[dict[str, Any]] | None) -> None:
        """Answer in the client's place from now on: business id -> its `Instances`."""
        self.answers: dict[str, list[dict[str, Any]] | None] = dict(answers)
        self.seconds = 0
        self.started = BEGINNING
        patch.setattr(client.Client, "fetch", lambda _, business: self.fetch(business))
        # The version of ACTIVATE_VERSION follows this clock too.
        patch.setattr(TapInstances, "initialized_at", property(lambda _: int(self.started.timestamp() * 1000)))

    def tick(self) -> datetime:
        """Let a second pass."""
        self.seconds += 1
        return BEGINNING + timedelta(seconds=self.seconds)

    def fetch(self, business: Business) -> Snapshot | SnapshotError:
        """Give the snapshot of a business."""
        instances = self.answers.get(business.id)
        if instances is None:
            return SnapshotError("503 Service Unavailable: try again later")
        body = {"businessId": business.id, "name": business.id, "Instances": instances}
        return read_body(json.dumps(body).encode(), self.tick())

    def config(self, **settings: Any) -> dict[str, Any]:  # noqa: ANN401
        """Give the settings for reading every business, one after the other."""
        businesses = [{"business_id": business_id, "auth_token": "t"} for business_id in self.answers]
        return {"api_url": "https://codechat.example.com", "businesses": businesses, "concurrency": 1, **settings}

    def sync(
        self,
        state: dict[str, Any] | None = None,
        *,
        catalog: dict[str, Any] | None = None,
        **settings: Any,  # noqa: ANN401
    ) -> Run:
        """Run the tap on what there is now."""
        self.started = self.tick()
        return sync(self.config(**settings), state=state, catalog=catalog)


def read_body(body: bytes, observed_at: datetime) -> Snapshot:
    """Give the snapshot in the body of a 200."""
    response = requests.Response()
    response.status_code = 200
    snapshot = read_connected(response, Body([body]))
    snapshot.observed_at = observed_at
    return snapshot


def instance(instance_id: str, *webhooks: dict[str, Any], **values: Any) -> dict[str, Any]:  # noqa: ANN401
    """Make an item of `Instances`."""
    item = {"instanceId": instance_id, "name": instance_id, "state": "active", "connection": "open", **values}
    return {"Webhook": list(webhooks), **item}


def webhook(webhook_id: str, updated_at: str = "2025-05-01T00:00:00.000Z", **values: Any) -> dict[str, Any]:  # noqa: ANN401
    """Make an item of `Webhook`, with its events, which may be replaced."""
    events = {"webhookEventsId": f"{webhook_id}-events", "messagesUpsert": True, "updatedAt": updated_at}
    item = {"webhookId": webhook_id, "url": f"https://crm.example.com/{webhook_id}", "enabled": True}
    return {**item, "updatedAt": updated_at, "WebhookEvents": events, **values}


def ids(run: Run, stream: str) -> list[str]:
    """Give the ids of the rows of a stream, in their order, a deleted one's with a minus."""
    keys = {"businesses": "business_id", "observations": "business_id"}
    keys |= {"instances": "instance_id", "connection_changes": "instance_id"}
    key = keys.get(stream, "webhook_id")
    return [f"{'-' if row.get('deleted_at') else ''}{row[key]}" for row in run.records(stream)]
