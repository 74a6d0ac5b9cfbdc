"""An API object becomes a row: JSON in, finished rows (JSON bytes) out.

An item of ``Instances`` is parsed into structs that are made from ``schemas/``. What they refuse (a value of another
type, a key that no schema knows) is parsed into dicts instead, and each value is converted by itself
(:data:`tap_instances.values.CONVERTERS`). Either way the same code reads the objects. What no column holds goes to
``additional_properties`` or is withheld as a secret, and :class:`Findings` takes note of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import astuple
from xxhash import xxh3_64_hexdigest

from tap_instances.columns import api_columns, row_type
from tap_instances.redact import MASK, is_secret, is_secret_text, mask_url
from tap_instances.values import (
    CONVERTERS,
    MISFIT,
    UTC,
    decode,
    decoder,
    deep_recursion,
    encode,
    json_type,
    repair,
    to_text,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tap_instances.memory import Memory

MAX_DEPTH: Final = 100  # a value nested deeper is kept as its JSON text
MAX_LEARNT: Final = 100  # keys an object; servers that make up keys must not make structs without end
TYPES: Final[dict[str, Any]] = {"text": str | None, "flag": bool | None, "time": datetime | None}


class Row(Struct, gc=False):
    """A finished row: its key, its JSON, the API's ``updatedAt``."""

    key: str
    json: bytes
    updated_at: datetime | None


class Source(NamedTuple):
    """Whose answer a row comes from, and when that answer was complete (UTC)."""

    business_id: str
    observed_at: datetime


class Instance(Struct, gc=False):
    """An instance's rows."""

    id: str
    row: bytes
    digest: str  # of ``Webhook`` as it came, and of what shapes rows; empty where webhooks are not known
    known: tuple[Memory, ...] | None  # what each stream remembers of its webhooks, which were not read
    webhooks: Sequence[Row] = ()
    webhook_events: Sequence[Row] = ()
    unknown_events: Collection[str] = ()  # ids of webhooks whose ``WebhookEvents`` is missing or is not an object
    hidden: Collection[str] = ()  # ids of webhooks that a stream map filters out


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


class FaultError(Exception):
    """Why an item of a list is not emitted: it has no usable key."""


class ApiObject:
    """An object of the API: which of its keys are columns of a stream, and which other keys it has.

    ``struct`` has a field for each of them. Its last field, ``others``, is a dict of what no field holds where the
    struct was built from a dict, and ``None`` where it was parsed from JSON.
    """

    def __init__(
        self, stream: str, prefix: str = "", nested: dict[str, Any] | None = None, *, key: str = "", secrets: bool
    ) -> None:
        """Take the stream's columns whose ``x-api`` is ``prefix`` and one key.

        ``nested`` are further keys, with the object or the type that each holds. An object with a ``key`` must have it.
        """
        self.stream, self.prefix, self.key = stream, prefix, key
        paths = {path.removeprefix(prefix): c for path, c in api_columns(stream).items() if path.startswith(prefix)}
        columns = {name: column for name, column in paths.items() if "." not in name}
        self.columns = {name: column.kind for name, column in columns.items() if secrets or not column.secret}
        self.nested = (nested or {}) | {name: Raw for name in columns if name not in self.columns}
        self.times = [index for index, kind in enumerate(self.columns.values()) if kind == "time"]
        self.nothing = (None,) * len(self.columns)
        self.learnt: tuple[str, ...] = ()  # keys that no column holds, and that the struct has a field for
        self.met: dict[str, None] = {}  # those for the next struct
        self.make_struct()

    def make_struct(self) -> None:
        """Make the struct, and those of nested objects, of all keys that are known by now."""
        fields: list[Any] = [(name, TYPES[kind], None) for name, kind in self.columns.items()]
        if self.key:
            fields[0] = (self.key, Annotated[str, msgspec.Meta(min_length=1)])
        for name, held in self.nested.items():
            if isinstance(held, ApiObject):
                held.make_struct()
            fields.append((name, (held.struct | None if isinstance(held, ApiObject) else held) | UnsetType, UNSET))
        self.learnt = (*self.learnt, *self.met)[:MAX_LEARNT]
        self.met = {}
        names = {f"learnt{index}": name for index, name in enumerate(self.learnt)}  # a key may not be a Python name
        fields += [*((name, Any, UNSET) for name in names), ("others", None, None)]
        names["others"] = ""
        self.struct: Any = msgspec.defstruct(self.stream, fields, rename=names, forbid_unknown_fields=True, gc=False)

    def build(self, item: Any) -> Any:  # noqa: ANN401
        """Return an object as its struct, value by value.

        Raises:
            FaultError: it has no usable key.
        """
        if not isinstance(item, dict):
            raise FaultError(f" is {json_type(item)}, not an object")
        if self.key and to_text(item.get(self.key)) in {None, "", MISFIT}:
            value = item.get(self.key, UNSET)
            what = "missing" if value is UNSET else "empty" if value == "" else json_type(value)
            raise FaultError(f": its {self.key} is {what}")
        fields, others = {}, {}
        for name, value in item.items():
            held = self._held(name, value)
            if held is MISFIT:
                others[name] = value
            else:
                fields[name] = held
        if len(self.learnt) < MAX_LEARNT:
            self.met |= dict.fromkeys(filter(self._can_be_learnt, others))
        return self.struct(**fields, others=others)

    def _held(self, name: str, value: Any) -> Any:  # noqa: ANN401
        """Return what the struct's field of this name holds of a value, or :data:`MISFIT`."""
        if name in self.columns:
            return CONVERTERS[self.columns[name]](value)
        held = self.nested.get(name, MISFIT)
        if not isinstance(held, ApiObject):
            return held if held is MISFIT else value
        if isinstance(value, dict):
            return held.build(value)
        return MISFIT if value is not None else None

    def _can_be_learnt(self, name: str) -> bool:
        known = name in self.columns or name in self.nested or name in self.learnt
        return not known and name.isprintable() and '"' not in name and "\\" not in name and name != ""


class Reader:
    """Reads the objects of a run into rows; with ``include_secrets`` nothing is withheld."""

    def __init__(self, *, include_secrets: bool, shape: int = 0) -> None:
        """Make the structs from the schemas; ``shape`` is a digest of whatever else makes other rows of an object."""
        self.include_secrets, self.shape = include_secrets, shape
        self.findings = Findings()
        # Of instances of which nothing below needs to be read while the digest of ``Webhook`` is the same.
        self.known: dict[str, tuple[Memory, ...]] = {}
        api_object = partial(ApiObject, secrets=include_secrets)
        self._business = api_object("businesses", nested={"businessId": Any})
        self._auth, self._whatsapp = api_object("instances", "Auth."), api_object("instances", "WhatsApp.")
        self._events = api_object("webhook_events")
        nested = {"instanceInstanceId": Any, "WebhookEvents": self._events}
        self._webhook = api_object("webhooks", nested=nested, key="webhookId")
        nested = {"Auth": self._auth, "WhatsApp": self._whatsapp, "Webhook": Raw}
        self._instance = api_object("instances", nested=nested, key="instanceId")
        self._kinds = (self._instance, self._auth, self._whatsapp, self._webhook, self._events)
        self._make_decoders()
        streams = ("businesses", "instances", "webhooks", "webhook_events")
        rows = (row_type(stream, include_secrets=include_secrets) for stream in streams)
        self._business_row, self._instance_row, self._webhook_row, self._events_row = rows

    def _make_decoders(self) -> None:
        self._instance.make_struct()
        self._webhook.make_struct()
        self._parse_instance = decoder(self._instance.struct).decode
        self._parse_webhooks = decoder(list[self._webhook.struct] | None).decode  # type: ignore[name-defined]

    # ------------------------------------------------------------------------------------------------- objects

    def read_business(self, body: dict[str, Any], source: Source) -> bytes:
        """Return the row of a business from an answer's top level (without ``Instances``)."""
        extra: dict[str, Any] = {}
        business = self._business.build(body)
        self._check_id("businesses", "businessId", business.businessId, source.business_id, extra)
        values = self._values(self._business, business, extra)
        return encode(self._business_row(source.business_id, *values, source.observed_at, in_order(extra)))

    def read_instance(self, raw: bytes, path: str, source: Source) -> Instance | None:
        """Return an item of ``Instances`` with its rows; ``None`` and a fault if it has no usable key."""
        ways = (self._parse_instance, self._build_instance, self._build_repaired)
        has_null = b"\\" in raw and b"\\u0000" in raw  # msgspec reads it, but no target; the first is much quicker
        for parse in ways[2:] if has_null else ways:
            try:
                return self._read_instance(parse(raw), path, source)
            except UnicodeDecodeError:  # noqa: PERF203
                self.findings.broken_text = True
            except msgspec.DecodeError:
                pass
            except RecursionError:
                self.findings.faults.append(f"{path} is nested too deep to be read")
                return None
            except FaultError as fault:
                self.findings.faults.append(f"{path}{fault}")
                return None
        raise AssertionError  # what was repaired can be read

    def _build_instance(self, raw: bytes) -> Any:  # noqa: ANN401
        """Parse an item that is not as documented. ``Webhook`` stays JSON, as in one that is."""
        if any(kind.met for kind in self._kinds):
            self._make_decoders()
        if raw[:1] != b"{":
            return self._instance.build(decode(raw))
        members = _split(raw)
        return self._instance.build(
            {name: value if name == "Webhook" else decode(value) for name, value in members.items()}
        )

    def _build_repaired(self, raw: bytes) -> Any:  # noqa: ANN401
        return self._build_instance(repair(raw))

    def _read_instance(self, item: Any, path: str, source: Source) -> Instance:  # noqa: ANN401
        extra: dict[str, Any] = {}
        digest, known, hooks = "", None, None
        if item.Webhook is UNSET:
            self.findings.missing["instances.Webhook"] = None
        else:
            digest = xxh3_64_hexdigest(item.Webhook, seed=self.shape)
            known = self.known.pop(item.instanceId, None)
            if known and known[0].digest != digest:
                known = None
        if digest and not known:
            hooks = self._parse_webhooks(item.Webhook) if item.others is None else self._build_webhooks(item, path)
            if item.others and "Webhook" in item.others:
                digest = ""
        own = self._values(self._instance, item, extra)
        auth = self._values(self._auth, item.Auth, extra)
        whatsapp = self._values(self._whatsapp, item.WhatsApp, extra)
        at = source.observed_at
        row = self._instance_row(source.business_id, *own, *auth, *whatsapp, at, in_order(extra))
        if row.whatsapp_picture_url and not self.include_secrets:
            row.whatsapp_picture_url = mask_url(row.whatsapp_picture_url)
        instance = Instance(item.instanceId, encode(row), digest, known)
        if hooks:
            instance.webhooks, instance.webhook_events, instance.unknown_events = [], [], set()
            for hook in hooks:
                self._read_webhook(hook, instance)
        return instance

    def _build_webhooks(self, item: Any, path: str) -> list[Any]:  # noqa: ANN401
        """Parse the webhooks of an item that is not as documented; a ``Webhook`` that holds none is a misfit."""
        value = decode(item.Webhook)
        if value is not None and not isinstance(value, (dict, list)):
            item.others["Webhook"] = value
        hooks = [value] if isinstance(value, dict) else value if isinstance(value, list) else []
        webhooks = []
        for index, hook in enumerate(hooks):
            try:
                webhooks.append(self._webhook.build(hook))
            except FaultError as fault:  # noqa: PERF203
                self.findings.faults.append(f"{path}.Webhook[{index}]{fault}")
        return webhooks

    def _read_webhook(self, hook: Any, instance: Any) -> None:  # noqa: ANN401
        extra: dict[str, Any] = {}
        webhook_id, events = hook.webhookId, hook.WebhookEvents
        if hook.instanceInstanceId != instance.id:
            self._check_id("webhooks", "instanceInstanceId", hook.instanceInstanceId, instance.id, extra)
        values = self._values(self._webhook, hook, extra)
        row = self._webhook_row(instance.id, *values, None, in_order(extra))
        if row.url and not self.include_secrets:
            row.url = mask_url(row.url)
        instance.webhooks.append(Row(webhook_id, encode(row), row.updated_at))
        if events is UNSET:
            instance.unknown_events.add(webhook_id)
            if not hook.others or "WebhookEvents" not in hook.others:
                self.findings.missing["webhooks.WebhookEvents"] = None
        elif events is not None:
            extra = {}
            values = self._values(self._events, events, extra)
            row = self._events_row(instance.id, webhook_id, *values, None, in_order(extra))
            instance.webhook_events.append(Row(webhook_id, encode(row), row.updated_at))

    # --------------------------------------------------------------------------------------------------- one object

    def _values(self, kind: ApiObject, item: Any, extra: dict[str, Any]) -> Sequence[Any]:  # noqa: ANN401
        """Return the values of an object's columns, in the schema's order; what no column holds goes to ``extra``.

        Raises:
            msgspec.ValidationError: a time in JSON is in another zone, or in none.
        """
        if item is None or item is UNSET:
            return kind.nothing
        values = astuple(item)
        for index in kind.times:
            time = values[index]
            if time is not None and time.tzinfo is not UTC:
                raise msgspec.ValidationError
        others = item.others
        if others is None and kind.learnt:
            others = dict(zip(kind.learnt, values[-1 - len(kind.learnt) : -1], strict=True))
        if others:
            self._keep_others(kind, others, extra)
        return values[: len(kind.columns)]

    def _keep_others(self, kind: ApiObject, others: dict[str, Any], extra: dict[str, Any]) -> None:
        """Put what no column holds into ``extra``, and note it."""
        for name, value in others.items():
            if value is None or value is UNSET:
                continue
            path = kind.prefix + name
            if name in kind.columns or name in kind.nested:
                self.findings.misfits[f"{kind.stream}.{path}"] = None
                self._keep(kind.stream, path, value, extra)
            elif self._keep(kind.stream, path, value, extra):
                self.findings.unknown[f"{kind.stream}.{path}"] = None

    def _check_id(self, stream: str, name: str, value: Any, parent_id: str, extra: dict[str, Any]) -> None:  # noqa: ANN401
        """Keep a repeated id (such as ``instanceInstanceId``) if it contradicts the parent's id."""
        if value is not None and value is not UNSET and to_text(value) != parent_id:
            self._keep(stream, name, value, extra)

    # ---------------------------------------------------------------------------------------- what no column holds

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


_split: Final = msgspec.json.Decoder(dict[str, Raw]).decode
