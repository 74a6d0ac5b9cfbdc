"""The tap that the SDK's template gives: RESTStream, nested data through the child's context, all else as it comes.

usage: python template_tap.py --config CONFIG.json. State is kept per stream (``state_partitioning_keys = ()``): with
the default, a partition for each parent, it is quadratic and does not end at these sizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from singer_sdk import RESTStream, Tap
from singer_sdk import typing as th
from singer_sdk.authenticators import BearerTokenAuthenticator

from demo.codechat import FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterable

TIMES = ("createdAt", "updatedAt")


def _schema(key: str, texts: Iterable[str], flags: Iterable[str] = (), objects: Iterable[str] = ()) -> dict[str, Any]:
    properties: list[th.Property[Any]] = [th.Property(key, th.StringType, required=True)]
    properties += [th.Property(name, th.StringType) for name in texts]
    properties += [th.Property(name, th.BooleanType) for name in flags]
    properties += [th.Property(name, th.DateTimeType) for name in TIMES]
    properties += [th.Property(name, th.ObjectType(additional_properties=True)) for name in objects]
    return th.PropertiesList(*properties).to_dict()


class CodeChatStream(RESTStream[None]):
    """What the streams share."""

    state_partitioning_keys = ()
    records_jsonpath = "$.Instances[*]"

    @property
    def url_base(self) -> str:
        """The server."""
        return str(self.config["api_url"])

    path = "/api/v2/business/{business_id}/instance/connected"

    def get_url(self, context: Any) -> str:  # noqa: ANN401, ARG002
        """The one endpoint."""
        return self.url_base + self.path.format(business_id=self.config["business_id"])

    @property
    def authenticator(self) -> BearerTokenAuthenticator:
        """The business's token."""
        return BearerTokenAuthenticator(token=self.config["auth_token"])

    def get_new_paginator(self) -> None:
        """There are no pages."""


class InstancesStream(CodeChatStream):
    """The root."""

    name = "instances"
    primary_keys = ("instanceId",)
    schema = _schema("instanceId", ("name", "state", "connection", "deletedAt"), objects=("Auth", "WhatsApp"))

    def get_child_context(self, record: Any, context: Any) -> dict[str, Any]:  # noqa: ANN401, ARG002
        """Hand the nested webhooks down."""
        return {"instanceId": record["instanceId"], "webhooks": record["Webhook"]}


class WebhooksStream(CodeChatStream):
    """A child."""

    name = "webhooks"
    primary_keys = ("webhookId",)
    parent_stream_type = InstancesStream
    schema = _schema("webhookId", ("instanceId", "name", "url", "instanceInstanceId"), ("enabled",))

    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:  # noqa: ANN401
        """Yield the parent's webhooks."""
        for webhook in context["webhooks"]:
            yield {**webhook, "instanceId": context["instanceId"]}

    def get_child_context(self, record: Any, context: Any) -> dict[str, Any]:  # noqa: ANN401
        """Hand the nested events down."""
        return {**context, "webhookId": record["webhookId"], "events": record["WebhookEvents"]}


class WebhookEventsStream(CodeChatStream):
    """A child's child."""

    name = "webhook_events"
    primary_keys = ("webhookEventsId",)
    parent_stream_type = WebhooksStream
    schema = _schema("webhookEventsId", ("instanceId", "webhookId"), FLAGS)

    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:  # noqa: ANN401
        """Yield the parent's events."""
        yield {**context["events"], "webhookId": context["webhookId"], "instanceId": context["instanceId"]}


class TemplateTap(Tap):
    """What a template gives."""

    name = "tap-template"
    config_jsonschema = th.PropertiesList(th.Property("api_url", th.StringType, required=True)).to_dict()

    def discover_streams(self) -> list[CodeChatStream]:
        """Return the three streams."""
        return [InstancesStream(self), WebhooksStream(self), WebhookEventsStream(self)]


class EmptyTap(Tap):
    """What an SDK tap costs before it does anything: start-up."""

    name = "tap-empty"
    config_jsonschema = th.PropertiesList(th.Property("api_url", th.StringType)).to_dict()

    def discover_streams(self) -> list[CodeChatStream]:
        """Return one stream of no record."""

        class Nothing(InstancesStream):
            def get_records(self, context: Any) -> Iterable[dict[str, Any]]:  # noqa: ANN401, ARG002
                return ()

        return [Nothing(self)]


if __name__ == "__main__":
    import sys

    if "--empty" in sys.argv:
        sys.argv.remove("--empty")
        EmptyTap.cli()
    TemplateTap.cli()
