"""Airbyte's spec and catalog from what the tap declares, and Airbyte's configured catalog as a Singer catalog."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec

from source_codechat_instances.messages import CURSOR, CommandError
from tap_instances.settings import kind
from tap_instances.tap import TapInstances

Schema = dict[str, Any]

PAGE_FOR_USERS: Final = "https://github.com/OWNER/tap-instances/blob/main/airbyte/README.md"
# A path on Airbyte's worker is of no use in a form; deletions are the business of Airbyte's sync modes.
LEFT_OUT: Final = {"businesses_file", "emit_activate_version_messages"}
# What only users of the tap have.
FOREIGN_WORDS: Final = re.compile(r", businesses_file|[:,]? an object of texts|\.? In the environment: JSON")
# Rules for texts are left out: clients that check them quote the value, and it may be a secret.
KEPT_RULES: Final = ("title", "default", "minimum", "maximum", "required")
HEADER: Final[Schema] = {
    "type": "object",
    "required": ["name", "value"],
    "properties": {
        "name": {"type": "string", "title": "Name", "order": 0},
        "value": {"type": "string", "title": "Value", "order": 1, "airbyte_secret": True},
    },
}
# Streams of what happened: replacing them would lose it.
HISTORIES: Final = ("connection_changes", "observations")


class _Stream(msgspec.Struct):
    name: str
    json_schema: Schema | None = None


class _ConfiguredStream(msgspec.Struct):
    stream: _Stream
    sync_mode: Literal["incremental", "full_refresh"]


class ConfiguredCatalog(msgspec.Struct):
    """What this source needs of Airbyte's ConfiguredAirbyteCatalog."""

    streams: list[_ConfiguredStream]


def not_offered() -> set[str]:
    """Return the names of the tap's settings that are none of this source's."""
    of_every_tap: Schema = {"properties": {}}
    TapInstances.append_builtin_config(of_every_tap)
    return LEFT_OUT.union(of_every_tap["properties"])


def spec() -> Schema:
    """Return the ConnectorSpecification: the tap's settings as a form."""
    declared, hidden = TapInstances.config_jsonschema, not_offered()
    fields = {name: _field(schema) for name, schema in declared["properties"].items() if name not in hidden}
    fields["headers"] |= {"type": "array", "items": HEADER}  # a form has no objects with keys of one's own
    for order, field in enumerate(fields.values()):
        field["order"] = order
    return {
        "documentationUrl": PAGE_FOR_USERS,
        "protocol_version": "0.2.0",
        "supportsIncremental": True,
        "connectionSpecification": {
            "type": "object",
            "title": "CodeChat instances",
            "required": declared["required"],
            "properties": fields,
            "$schema": "http://json-schema.org/draft-07/schema#",
            "additionalProperties": True,
        },
    }


def _field(schema: Schema) -> Schema:
    field: Schema = {"type": kind(schema)}
    field |= {rule: schema[rule] for rule in KEPT_RULES if rule in schema}
    if "description" in schema:
        field["description"] = FOREIGN_WORDS.sub("", schema["description"])
    if schema.get("secret") and field["type"] == "string":
        field["airbyte_secret"] = True
    if "items" in schema:
        field["items"] = _field(schema["items"])
    if "properties" in schema:
        field["properties"] = {name: _field(inner) for name, inner in schema["properties"].items()}
    return field


def airbyte_streams(tap: TapInstances) -> list[Schema]:
    """Return the streams that the tap discovers, parents first, as an AirbyteCatalog has them."""
    entries = {entry["tap_stream_id"]: entry for entry in tap.catalog_dict["streams"]}
    return [_airbyte_stream(entries[stream.name]) for stream in tap.discover_streams()]


def _airbyte_stream(entry: Schema) -> Schema:
    name, schema = entry["tap_stream_id"], entry["schema"]
    schema["properties"][CURSOR] = {
        "type": "string",
        "format": "date-time",
        "description": "When the business's answer was complete",
    }
    for column in schema["properties"].values():
        if column.get("format") == "date-time":
            column["airbyte_type"] = "timestamp_with_timezone"
    return {
        "name": name,
        "json_schema": schema,
        "supported_sync_modes": ["incremental"] if name in HISTORIES else ["full_refresh", "incremental"],
        "source_defined_cursor": True,
        "default_cursor_field": [CURSOR],
        "source_defined_primary_key": [[key] for key in entry["key_properties"]],
        "is_resumable": False,
    }


def singer_catalog(configured: ConfiguredCatalog) -> Schema:
    """Return the tap's catalog with the configured streams selected, and of these the configured columns."""
    # Of secret columns, too: a tap takes them out of its catalog unless its own settings ask for them.
    tap = TapInstances(config={"include_secrets": True}, validate_config=False)
    known = {entry["tap_stream_id"]: entry for entry in tap.catalog_dict["streams"]}
    selected: dict[str, Schema] = {}
    for stream in [each.stream for each in configured.streams]:
        if stream.name not in known:
            raise CommandError(f"stream {stream.name!r} of the catalog is not known: refresh the source's schema")
        if stream.name in selected:
            raise CommandError("a stream stands twice in the catalog: list each once")
        columns = (stream.json_schema or {}).get("properties") or {}
        if not isinstance(columns, dict):
            raise CommandError(f"json_schema.properties of stream {stream.name!r} must be an object")
        entry = selected[stream.name] = known[stream.name]
        kept = {*columns, *entry["key_properties"]}
        for part in entry["metadata"]:
            breadcrumb = part["breadcrumb"]  # empty: the stream itself
            part["metadata"]["selected"] = not breadcrumb or not columns or breadcrumb[-1] in kept
    return {"streams": list(selected.values())}
