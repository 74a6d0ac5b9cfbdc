"""An API object becomes a row: JSON in, finished rows (JSON bytes) out.

Every object is read alike. A struct that is made from ``schemas/`` converts its known keys in one step; where that
refuses, each value is converted by itself (:data:`tap_instances.values.CONVERTERS`). What no column holds goes to
``additional_properties`` or is withheld as a secret, and :class:`Findings` takes note of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from msgspec import Raw, convert
from msgspec.structs import astuple
from xxhash import xxh3_64_hexdigest

from tap_instances.columns import api_columns, row_type
from tap_instances.redact import MASK, is_secret, is_secret_text, mask_url
from tap_instances.values import (
    CONVERTERS,
    MISFIT,
    UTC,
    decode,
    deep_recursion,
    encode,
    json_type,
    repair,
    to_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_DEPTH: Final = 100  # a value nested deeper is kept as its JSON text
TYPES: Final[dict[str, Any]] = {"text": str | None, "flag": bool | None, "time": datetime | None}


class Row(msgspec.Struct, gc=False):
    """A finished row: its key, its JSON, the API's ``updatedAt``."""

    key: str
    json: bytes
    updated_at: datetime | None


class Source(NamedTuple):
    """Whose answer a row comes from, and when that answer was complete (UTC)."""

    business_id: str
    observed_at: datetime


_split: Final = msgspec.json.Decoder(dict[str, Raw]).decode


class Instance(msgspec.Struct, gc=False):
    """An instance's rows."""

    id: str
    row: bytes
    digest: str  # of ``Webhook`` as it came, and of what shapes rows; empty where webhooks are not known
    is_read: bool  # whether what follows was read
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
    missing: dict[str, None] = field(default_factory=dict)  # ``Webhook`` or ``WebhookEvents``
    broken_text: bool = False  # bytes that are not UTF-8
    faults: list[str] = field(default_factory=list)


def in_order(extra: dict[str, Any]) -> dict[str, Any] | None:
    """Return what no column holds in one order, so that equal objects are equal bytes; ``None`` for nothing."""
    return dict(sorted(extra.items())) if extra else None


class ApiObject:
    """An object of the API: which of its keys are columns of a stream, and which other keys it is known to have."""

    def __init__(self, stream: str, prefix: str, nested: Sequence[str], *, include_secrets: bool) -> None:
        """Take the stream's columns whose ``x-api`` is ``prefix`` and one key; ``nested`` keys are read elsewhere."""
        self.stream, self.prefix = stream, prefix
        paths = {path.removeprefix(prefix): c for path, c in api_columns(stream).items() if path.startswith(prefix)}
        columns = {key: column for key, column in paths.items() if "." not in key}
        self.known = frozenset([*columns, *nested])
        self.kinds = {key: column.kind for key, column in columns.items() if include_secrets or not column.secret}
        self.times = [index for index, kind in enumerate(self.kinds.values()) if kind == "time"]
        names = {f"f{index}": key for index, key in enumerate(self.kinds)}  # a key may not be a Python name
        fields = [(name, TYPES[self.kinds[key]], None) for name, key in names.items()]
        self.struct: Any = msgspec.defstruct(stream, fields, rename=names, gc=False)


class Reader:
    """Reads the objects of a run into rows; with ``include_secrets`` nothing is withheld."""

    def __init__(self, *, include_secrets: bool, shape: int = 0) -> None:
        """Make the structs from the schemas; ``shape`` is a digest of whatever else makes other rows of an object."""
        self.include_secrets, self.shape = include_secrets, shape
        self.findings = Findings()

        def api_object(stream: str, prefix: str = "", *nested: str) -> ApiObject:
            return ApiObject(stream, prefix, nested, include_secrets=include_secrets)

        self._business = api_object("businesses", "", "businessId")
        self._instance = api_object("instances", "", "Auth", "WhatsApp", "Webhook")
        self._auth, self._whatsapp = api_object("instances", "Auth."), api_object("instances", "WhatsApp.")
        self._webhook = api_object("webhooks", "", "instanceInstanceId", "WebhookEvents")
        self._events = api_object("webhook_events")
        streams = ("businesses", "instances", "webhooks", "webhook_events")
        rows = (row_type(stream, include_secrets=include_secrets) for stream in streams)
        self._business_row, self._instance_row, self._webhook_row, self._events_row = rows

    # ------------------------------------------------------------------------------------------------- objects

    def read_business(self, body: dict[str, Any], source: Source) -> bytes:
        """Return the row of a business from an answer's top level (without ``Instances``)."""
        extra: dict[str, Any] = {}
        self._check_id("businesses", "businessId", body, source.business_id, extra)
        values = self._values(self._business, body, extra)
        return encode(self._business_row(source.business_id, *values, source.observed_at, in_order(extra)))

    def read_instance(
        self, raw: bytes, path: str, source: Source, is_unchanged: Callable[[str, str], bool]
    ) -> Instance | None:
        """Return an item of ``Instances`` with its rows; ``None`` and a fault if it has no usable key.

        ``is_unchanged(instance_id, digest)`` says that nothing below it needs to be read.
        """
        try:
            item, digest, is_read = self._parse(raw, is_unchanged)
        except RecursionError:
            self.findings.faults.append(f"{path} is nested too deep to be read")
            return None
        if (instance_id := self._key(item, "instanceId", path)) is None:
            return None
        extra: dict[str, Any] = {}
        webhook = item.get("Webhook")
        if is_read and not digest:
            if webhook is None:
                self.findings.missing["instances.Webhook"] = None
            else:
                self._misfit("instances", "Webhook", webhook, extra)
        own = self._values(self._instance, item, extra)
        auth = self._part(self._auth, item, "Auth", extra)
        whatsapp = self._part(self._whatsapp, item, "WhatsApp", extra)
        at = source.observed_at
        row = self._instance_row(source.business_id, *own, *auth, *whatsapp, at, in_order(extra))
        if row.whatsapp_picture_url and not self.include_secrets:
            row.whatsapp_picture_url = mask_url(row.whatsapp_picture_url)
        instance = Instance(instance_id, encode(row), digest, is_read)
        if is_read and digest:
            for index, hook in enumerate([webhook] if isinstance(webhook, dict) else webhook or ()):
                webhook_id = self._key(hook, "webhookId", f"{path}.Webhook[{index}]")
                if webhook_id is not None:
                    self._read_webhook(hook, webhook_id, instance)
        return instance

    def _read_webhook(self, item: dict[str, Any], webhook_id: str, instance: Instance) -> None:
        extra: dict[str, Any] = {}
        if item.get("instanceInstanceId") != instance.id:
            self._check_id("webhooks", "instanceInstanceId", item, instance.id, extra)
        events = item.get("WebhookEvents")
        if events is None and "WebhookEvents" not in item:
            self.findings.missing["webhooks.WebhookEvents"] = None
            instance.unknown_events.add(webhook_id)
        elif events is not None and not isinstance(events, dict):
            self._misfit("webhooks", "WebhookEvents", events, extra)
            instance.unknown_events.add(webhook_id)
        values = self._values(self._webhook, item, extra)
        row = self._webhook_row(instance.id, *values, None, in_order(extra))
        if row.url and not self.include_secrets:
            row.url = mask_url(row.url)
        instance.webhooks.append(Row(webhook_id, encode(row), row.updated_at))
        if isinstance(events, dict):
            extra = {}
            values = self._values(self._events, events, extra)
            row = self._events_row(instance.id, webhook_id, *values, None, in_order(extra))
            instance.webhook_events.append(Row(webhook_id, encode(row), row.updated_at))

    # --------------------------------------------------------------------------------------------------- one object

    def _parse(self, raw: bytes, is_unchanged: Callable[[str, str], bool]) -> tuple[Any, str, bool]:
        """Parse an item; repair it first where it holds what msgspec, or a target, cannot read."""
        if b"\\" not in raw or b"\\u0000" not in raw:  # the first of the two is much quicker
            try:
                return self._parse_valid(raw, is_unchanged)
            except UnicodeDecodeError:
                self.findings.broken_text = True
            except msgspec.DecodeError:
                pass
        return self._parse_valid(repair(raw), is_unchanged)

    def _parse_valid(self, raw: bytes, is_unchanged: Callable[[str, str], bool]) -> tuple[Any, str, bool]:
        """Return an item, the digest of its ``Webhook`` (if that may hold webhooks), and whether it is read."""
        if raw[:1] != b"{":
            return decode(raw), "", True
        members = _split(raw)
        webhook = members.pop("Webhook", Raw())
        first = bytes(webhook)[:1]
        digest = xxh3_64_hexdigest(webhook, seed=self.shape) if first and first in b"[{n" else ""
        instance_id = decode(members["instanceId"]) if digest and "instanceId" in members else None
        if isinstance(instance_id, str) and is_unchanged(instance_id, digest):
            return {key: decode(value) for key, value in members.items()}, digest, False
        return decode(raw), digest, True

    def _key(self, item: Any, name: str, path: str) -> str | None:  # noqa: ANN401
        """Return an item's key as text; without one, note where the item stands."""
        value = item.get(name) if isinstance(item, dict) else MISFIT
        if value and isinstance(value, str):
            return value
        if (key := to_text(value)) and key is not MISFIT:
            return str(key)
        if value is MISFIT:
            self.findings.faults.append(f"{path} is {json_type(item)}, not an object")
        else:
            what = "empty" if key == "" else json_type(value) if name in item else "missing"
            self.findings.faults.append(f"{path}: its {name} is {what}")
        return None

    def _values(self, kind: ApiObject, item: dict[str, Any], extra: dict[str, Any]) -> tuple[Any, ...]:
        """Return the values of an object's columns, in the schema's order; what no column holds goes to ``extra``."""
        try:
            values = astuple(convert(item, kind.struct))
            for index in kind.times:
                time = values[index]
                if time is not None and time.tzinfo is not UTC:
                    raise msgspec.ValidationError  # noqa: TRY301 (it fits, but not as it is)
        except msgspec.ValidationError:
            values = tuple([self._value(kind, key, item.get(key), extra) for key in kind.kinds])
        if not item.keys() <= kind.known:
            for key in [key for key in item if key not in kind.known]:
                if item[key] is not None and self._keep(kind.stream, kind.prefix + key, item[key], extra):
                    self.findings.unknown[f"{kind.stream}.{kind.prefix}{key}"] = None
        return values

    def _value(self, kind: ApiObject, key: str, value: Any, extra: dict[str, Any]) -> Any:  # noqa: ANN401
        """Return what a column holds of a value; one that it cannot hold goes to ``extra``."""
        converted = CONVERTERS[kind.kinds[key]](value)
        if converted is not MISFIT:
            return converted
        self._misfit(kind.stream, kind.prefix + key, value, extra)
        return None

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

    # ---------------------------------------------------------------------------------------- what no column holds

    def _misfit(self, stream: str, path: str, value: Any, extra: dict[str, Any]) -> None:  # noqa: ANN401
        """Note, and keep, a value that its column cannot hold."""
        self.findings.misfits[f"{stream}.{path}"] = None
        self._keep(stream, path, value, extra)

    def _keep(self, stream: str, path: str, value: Any, extra: dict[str, Any]) -> bool:  # noqa: ANN401
        """Put a value into ``extra`` under its API path; return whether it was kept, or withheld as a secret."""
        kept: Any = MISFIT
        if path.startswith("Auth") and not self.include_secrets and f"{stream}.{path}.".startswith("instances.Auth."):
            self.findings.withheld[f"{stream}.{path}"] = None  # only what its columns hold leaves
        else:
            kept = self._without_secrets(path, value, f"{stream}.{path}")
        if kept is MISFIT:
            return False
        while path in extra:  # a key of its own that is spelled like the path of another
            path += "_"
        extra[path] = kept
        return True

    def _without_secrets(self, name: str, value: Any, path: str, depth: int = 0) -> Any:  # noqa: ANN401
        """Return a key's value without the secrets in it; :data:`MISFIT` if all of it is one."""
        if not self.include_secrets and is_secret(name, value):
            shown = f"{path.removesuffix(name)}{MASK}" if is_secret_text(name) else path  # a key may be one itself
            self.findings.withheld[shown] = None
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
