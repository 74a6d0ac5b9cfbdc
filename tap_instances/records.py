"""An API object becomes a row: JSON in, finished rows (JSON bytes) out.

One walk serves every object. Its known keys are converted as a whole by a struct that is made from ``schemas/``; where
that fails, each value is converted by itself (:data:`tap_instances.values.CONVERTERS`). What no column holds goes to
``additional_properties`` or is withheld as a secret, and a :class:`Findings` takes note of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from msgspec import Raw
from msgspec.structs import astuple

from tap_instances.columns import api_columns, column_names, row_type
from tap_instances.redact import is_secret, mask_url
from tap_instances.values import CONVERTERS, MISFIT, UTC, decode, deep_recursion, encode, json_type, repair, to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_DEPTH: Final = 100  # a value nested deeper is kept as its JSON text
TYPES: Final[dict[str, Any]] = {"text": str | None, "flag": bool | None, "time": datetime | None}
_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode


class Row(NamedTuple):
    """A finished row: its key, its JSON, the API's ``updatedAt``."""

    key: str
    json: bytes
    updated_at: datetime | None


class Source(NamedTuple):
    """Whose answer a row comes from, and when that answer was complete (UTC)."""

    business_id: str
    observed_at: datetime


class Instance(msgspec.Struct, gc=False):
    """An instance's own row, and its webhooks: as they came until :meth:`Reader.read_webhooks` has read them."""

    id: str
    row: bytes
    path: str  # where it stands in the answer
    webhook_json: bytes | None  # the value of ``Webhook``; None where that is missing or cannot hold webhooks
    digest: str = ""  # of ``webhook_json``, and of what shapes rows
    is_read: bool = False  # whether what follows is known
    webhooks: list[Row] = []
    webhook_events: list[Row] = []
    unknown_events: set[str] = set()  # ids of webhooks whose ``WebhookEvents`` is missing or is not an object
    hidden: set[str] = set()  # ids of webhooks that a stream map filters out


@dataclass
class Findings:
    """What a run met that no column holds (paths such as ``instances.WhatsApp.newThing``), and what has no key."""

    unknown: dict[str, None] = field(default_factory=dict)
    misfits: dict[str, None] = field(default_factory=dict)
    withheld: dict[str, None] = field(default_factory=dict)
    missing: dict[str, None] = field(default_factory=dict)  # ``Webhook`` or ``WebhookEvents``: what it holds is not known
    broken_text: bool = False  # bytes that are not UTF-8
    faults: list[str] = field(default_factory=list)


def _instance_members(raw: bytes) -> dict[str, Any]:
    """Parse an item of ``Instances``, but for ``Webhook``, whose JSON is returned as it came."""
    return {key: bytes(value) if key == "Webhook" else decode(value) for key, value in _members(raw).items()}


class ApiObject:
    """An object of the API: which of its keys are columns of a stream, and which other keys it is known to have."""

    def __init__(self, stream: str, prefix: str = "", *, nested: tuple[str, ...] = (), include_secrets: bool) -> None:
        """Take the stream's columns whose ``x-api`` is ``prefix`` and one key; ``nested`` keys are read elsewhere."""
        self.stream, self.prefix = stream, prefix
        columns = {
            path.removeprefix(prefix): column
            for path, column in api_columns(stream).items()
            if path.startswith(prefix) and "." not in path.removeprefix(prefix)
        }
        self.known = frozenset([*columns, *nested])
        self.kinds = {key: column.kind for key, column in columns.items() if include_secrets or not column.secret}
        names = {f"f{index}": key for index, key in enumerate(self.kinds)}  # a key may not be a Python name
        fields = [(name, TYPES[self.kinds[key]], None) for name, key in names.items()]
        self.struct: Any = msgspec.defstruct(stream, fields, rename=names, gc=False)
        self.times = [index for index, kind in enumerate(self.kinds.values()) if kind == "time"]

    def convert(self, item: dict[str, Any], misfit: Callable[[str, Any], None]) -> tuple[Any, ...]:
        """Return the columns' values, in the schema's order; ``misfit`` gets each that its column cannot hold."""
        try:
            values = astuple(msgspec.convert(item, self.struct))
            if all(values[index] is None or values[index].tzinfo is UTC for index in self.times):
                return values
        except msgspec.ValidationError:
            pass
        values = tuple(CONVERTERS[kind](item.get(key)) for key, kind in self.kinds.items())
        for key, value in zip(self.kinds, values, strict=True):
            if value is MISFIT:
                misfit(key, item[key])
        return tuple(None if value is MISFIT else value for value in values)


class Reader:
    """Reads the objects of a run into rows; with ``include_secrets`` nothing is withheld."""

    def __init__(self, *, include_secrets: bool) -> None:
        """Make the structs from the schemas."""
        self.include_secrets = include_secrets
        self.findings = Findings()

        def api_object(stream: str, prefix: str = "", *nested: str) -> ApiObject:
            return ApiObject(stream, prefix, nested=nested, include_secrets=include_secrets)

        self._business = api_object("businesses", "", "businessId")
        self._instance = api_object("instances", "", "Auth", "WhatsApp")
        self._auth, self._whatsapp = api_object("instances", "Auth."), api_object("instances", "WhatsApp.")
        self._webhook = api_object("webhooks", "", "instanceInstanceId", "WebhookEvents")
        self._events = api_object("webhook_events")
        streams = ("businesses", "instances", "webhooks", "webhook_events")
        self._rows = {stream: row_type(stream, include_secrets=include_secrets) for stream in streams}

    # ------------------------------------------------------------------------------------------------- objects

    def read_business(self, body: dict[str, Any], source: Source) -> bytes:
        """Return the row of a business from an answer's top level (without ``Instances``)."""
        extra: dict[str, Any] = {}
        values = self._values(self._business, body, extra)
        self._check_id("businesses", "businessId", body, source.business_id, extra)
        return encode(self._row("businesses", extra, source.business_id, *values, source.observed_at))

    def read_instance(self, raw: bytes, path: str, source: Source) -> Instance | None:
        """Return an item of ``Instances``, its webhooks not yet read; ``None``, and a fault, if it has no usable key."""
        try:
            item = self._parse(raw, _instance_members) if raw[:1] == b"{" else decode(raw)
        except RecursionError:
            self.findings.faults.append(f"{path} is nested too deep to be read")
            return None
        if (instance_id := self._key(item, "instanceId", path)) is None:
            return None
        webhook_json: bytes | None = item.pop("Webhook", None)
        extra: dict[str, Any] = {}
        if webhook_json is None:
            self.findings.missing["instances.Webhook"] = None
        elif webhook_json[:1] not in b"[{n":
            self._misfit("instances", "Webhook", decode(webhook_json), extra)
            webhook_json = None
        own = self._values(self._instance, item, extra)
        auth = self._part(self._auth, item, "Auth", extra)
        whatsapp = self._part(self._whatsapp, item, "WhatsApp", extra)
        row = self._row("instances", extra, source.business_id, *own, *auth, *whatsapp, source.observed_at)
        return Instance(instance_id, encode(row), path, webhook_json)

    def read_webhooks(self, instance: Instance) -> None:
        """Read an instance's webhooks into its rows; one without a usable key is a fault."""
        instance.is_read = True
        if instance.webhook_json is None:
            return
        try:
            listed = self._parse(instance.webhook_json)
        except RecursionError:
            self.findings.faults.append(f"{instance.path}.Webhook is nested too deep to be read")
            return
        for index, item in enumerate([listed] if isinstance(listed, dict) else listed or ()):
            webhook_id = self._key(item, "webhookId", f"{instance.path}.Webhook[{index}]")
            if webhook_id is not None:
                self._read_webhook(item, webhook_id, instance)

    def _read_webhook(self, item: dict[str, Any], webhook_id: str, instance: Instance) -> None:
        extra: dict[str, Any] = {}
        self._check_id("webhooks", "instanceInstanceId", item, instance.id, extra)
        events = item.get("WebhookEvents")
        if not isinstance(events, dict) and (events is not None or "WebhookEvents" not in item):
            instance.unknown_events.add(webhook_id)
            if events is None:
                self.findings.missing["webhooks.WebhookEvents"] = None
            else:
                self._misfit("webhooks", "WebhookEvents", events, extra)
        values = self._values(self._webhook, item, extra)
        row = self._row("webhooks", extra, instance.id, *values, None)
        if row.url and not self.include_secrets:
            row.url = mask_url(row.url)
        instance.webhooks.append(Row(webhook_id, encode(row), row.updated_at))
        if isinstance(events, dict):
            extra = {}
            values = self._values(self._events, events, extra)
            row = self._row("webhook_events", extra, instance.id, webhook_id, *values, None)
            instance.webhook_events.append(Row(webhook_id, encode(row), row.updated_at))

    # -------------------------------------------------------------------------------------------------- their parts

    def _parse(self, raw: bytes, parse: Callable[[bytes], Any] = decode) -> Any:  # noqa: ANN401
        """Parse JSON; repair it first where it holds what msgspec, or a target, cannot read."""
        if b"\\u0000" not in raw:
            try:
                return parse(raw)
            except UnicodeDecodeError:
                self.findings.broken_text = True
            except msgspec.DecodeError:
                pass
        return parse(repair(raw))

    def _key(self, item: Any, name: str, path: str) -> str | None:  # noqa: ANN401
        """Return an item's key as text; without one, note where the item stands."""
        value = item.get(name) if isinstance(item, dict) else MISFIT
        key = to_text(value)
        if isinstance(key, str) and key:
            return key
        if value is MISFIT:
            self.findings.faults.append(f"{path} is {json_type(item)}, not an object")
        else:
            what = "empty" if key == "" else json_type(value) if name in item else "missing"
            self.findings.faults.append(f"{path}: its {name} is {what}")
        return None

    def _values(self, kind: ApiObject, item: dict[str, Any], extra: dict[str, Any]) -> tuple[Any, ...]:
        """Return the values of an object's columns; what no column holds goes to ``extra``."""
        values = kind.convert(item, lambda key, value: self._misfit(kind.stream, kind.prefix + key, value, extra))
        if not item.keys() <= kind.known:
            for key, value in item.items():
                if key not in kind.known and value is not None and self._keep(kind.stream, kind.prefix + key, value, extra):
                    self.findings.unknown[f"{kind.stream}.{kind.prefix}{key}"] = None
        return values

    def _part(self, kind: ApiObject, item: dict[str, Any], name: str, extra: dict[str, Any]) -> tuple[Any, ...]:
        """Return the values of an object within an instance; nulls where there is none."""
        part = item.get(name)
        if part is not None and not isinstance(part, dict):
            self._misfit("instances", name, part, extra)
            part = None
        return self._values(kind, part or {}, extra)

    def _check_id(self, stream: str, name: str, item: dict[str, Any], parent_id: str, extra: dict[str, Any]) -> None:
        """Keep a repeated id (such as ``instanceInstanceId``) if it contradicts the parent's id."""
        value = item.get(name)
        if value is not None and to_text(value) != parent_id:
            self._keep(stream, name, value, extra)

    def _row(self, stream: str, extra: dict[str, Any], *values: Any) -> Any:  # noqa: ANN401
        """Return a row; ``extra`` in one order, so that equal objects are equal bytes."""
        return self._rows[stream](*values, dict(sorted(extra.items())) if extra else None)

    # ---------------------------------------------------------------------------------------- what no column holds

    def _misfit(self, stream: str, path: str, value: Any, extra: dict[str, Any]) -> None:  # noqa: ANN401
        """Note, and keep, a value that its column cannot hold."""
        self.findings.misfits[f"{stream}.{path}"] = None
        self._keep(stream, path, value, extra)

    def _keep(self, stream: str, path: str, value: Any, extra: dict[str, Any]) -> bool:  # noqa: ANN401
        """Put a value into ``extra`` under its API path; return whether it was kept, or withheld as a secret."""
        parent, _, name = path.rpartition(".")
        if "Auth" in {parent, name} and stream == "instances" and not self.include_secrets:
            kept: Any = MISFIT  # of Auth, only what its columns hold leaves
            self.findings.withheld[f"{stream}.{path}"] = None
        else:
            kept = self._without_secrets(name, value, f"{stream}.{path}")
        if kept is MISFIT:
            return False
        while path in extra:  # a key of its own that is spelled like the path of another
            path += "_"
        extra[path] = kept
        return True

    def _without_secrets(self, name: str, value: Any, path: str, depth: int = 0) -> Any:  # noqa: ANN401
        """Return a key's value without the secrets in it; :data:`MISFIT` if all of it is one."""
        if not self.include_secrets and is_secret(name, value):
            self.findings.withheld[path] = None
            return MISFIT
        if isinstance(value, str):
            return value if self.include_secrets or "://" not in value else mask_url(value)
        if not isinstance(value, (dict, list)):
            return value
        if depth == MAX_DEPTH:
            with deep_recursion():
                return encode(self._without_secrets(name, value, path, depth + 1)).decode()
        if isinstance(value, list):
            items = (self._without_secrets("", item, f"{path}[]", depth + 1) for item in value)
            return [item for item in items if item is not MISFIT]
        pairs = ((key, self._without_secrets(key, item, f"{path}.{key}", depth + 1)) for key, item in value.items())
        return {key: item for key, item in pairs if item is not MISFIT}
