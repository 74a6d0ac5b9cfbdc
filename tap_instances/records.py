"""An API object becomes a row: JSON in, finished rows (JSON bytes) out.

An item of ``Instances`` is parsed into structs that are made from ``schemas/``. What they refuse, such as a value of
another type, is built into the same structs value by value (:data:`tap_instances.values.CONVERTERS`). What no column
holds goes to ``additional_properties`` or is withheld as a secret, and :class:`Findings` takes note of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from types import NoneType
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
    encode_row,
    json_type,
    repair,
    to_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from tap_instances.memory import Memory

MAX_DEPTH: Final = 100  # a value nested deeper is kept as its JSON text
MAX_UNKNOWN: Final = 100  # keys; a server that makes up keys must not make structs without end
NULL: Final = rb"\u0000"  # as JSON has it: msgspec reads it, but no target does
TYPES: Final[dict[str, Any]] = {"text": str | None, "flag": bool | None, "time": datetime | None}


class Row(Struct, gc=False):
    """A finished row: its key, its JSON, the API's ``updatedAt``, and a digest of what is written of it."""

    key: str
    json: bytes
    updated_at: datetime | None
    digest: str = ""


class Source(NamedTuple):
    """Whose answer a row comes from, and when that answer was complete (UTC)."""

    business_id: str
    observed_at: datetime


class Instance(Struct, gc=False):
    """An instance's rows."""

    id: str
    row: bytes
    digest: str = ""  # of ``Webhook`` as it came, and of what shapes rows; empty where webhooks are not known
    known: tuple[Memory, ...] | None = None  # what each stream remembers of its webhooks, which were not read
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


class FaultError(Exception):
    """Why an item of a list is not emitted: it has no usable key."""


class ApiObject:
    """An object of the API: which of its keys are columns of a stream, and which others it has.

    Its ``struct`` has a field for each column, then for each other key, and at last ``rest``: a dict of what no field
    can hold if the struct was built, ``None`` if it was parsed.
    """

    struct: Any
    parse: Callable[[bytes], Any]
    parse_list: Callable[[bytes], Any]

    def __init__(
        self, stream: str, prefix: str = "", nested: dict[str, Any] | None = None, *, key: str = "", secrets: bool
    ) -> None:
        """Take the columns whose ``x-api`` is ``prefix`` and one key, and ``nested``: key -> object, or its type.

        ``key`` names the key that the object must have. ``secrets`` takes secret columns, too.
        """
        self.stream, self.prefix, self.key, self.secrets = stream, prefix, key, secrets
        paths = {path.removeprefix(prefix): c for path, c in api_columns(stream).items() if path.startswith(prefix)}
        columns = {name: column for name, column in paths.items() if "." not in name}
        self.columns = {name: column.kind for name, column in columns.items() if secrets or not column.secret}
        self.nested = (nested or {}) | {name: Raw for name in columns if name not in self.columns}
        self.place = cache(self._place)
        self.times = [index for index, kind in enumerate(self.columns.values()) if kind == "time"]
        self.nothing = (None,) * len(self.columns)
        self.unknown: list[str] = []  # keys that no schema knows, and for which the struct has a field
        self.met: dict[str, None] = {}  # those for which the next one will
        self._make_struct()

    def _make_struct(self) -> None:
        self.unknown += self.met
        self.met = {}
        fields: list[Any] = [(name, TYPES[kind], None) for name, kind in self.columns.items()]
        if self.key:
            fields[0] = (self.key, Annotated[str, msgspec.Meta(min_length=1)])
        for name, held in self.nested.items():
            kind = held.struct | None if isinstance(held, ApiObject) else held
            fields.append((name, kind | UnsetType, UNSET))
        names = {f"unknown{index}": name for index, name in enumerate(self.unknown)}  # it may not be a Python name
        self.first_unknown = len(fields)
        fields += [(name, Any, UNSET) for name in names]
        fields.append(("rest", None, None))
        names["rest"] = ""  # a key that is not learnt
        self.struct = struct = msgspec.defstruct(
            self.stream, fields, rename=names, forbid_unknown_fields=True, gc=False
        )
        self.parse = decoder(struct).decode
        self.parse_list = decoder(list[struct] | None).decode  # type: ignore[valid-type]

    def _place(self, name: str) -> tuple[str, str, bool, bool]:
        """Return a key's path, the same with its stream, whether a column has this key, and whether all are secret."""
        path = self.prefix + name
        where = f"{self.stream}.{path}"
        is_known = name in self.columns or self.nested.get(name, Any) is not Any
        return path, where, is_known, not self.secrets and f"{where}.".startswith("instances.Auth.")

    def learn(self) -> bool:
        """Make the struct anew if unknown keys were met in this object, or in one below it; return whether so."""
        learnt = [held.learn() for held in self.nested.values() if isinstance(held, ApiObject)]
        if not self.met and not any(learnt):
            return False
        self._make_struct()
        return True

    def build(self, item: Any) -> Any:  # noqa: ANN401
        """Return an object as its struct, value by value.

        Raises:
            FaultError: it has no usable key.
        """
        if not isinstance(item, dict):
            raise FaultError(f" is {json_type(item)}, not an object")
        key = item.get(self.key, UNSET)
        if self.key and to_text(key) in {None, "", MISFIT}:
            what = "missing" if key is UNSET else "empty" if key == "" else json_type(key)
            raise FaultError(f": its {self.key} is {what}")
        fields = {name: self._held(name, value) for name, value in item.items()}
        rest = {name: item[name] for name, held in fields.items() if held is MISFIT}
        known = {*self.columns, *self.nested, *self.unknown, ""}
        new = [name for name in rest if name not in known and name.isprintable() and not {'"', "\\"} & set(name)]
        self.met |= dict.fromkeys(new[: MAX_UNKNOWN - len(self.unknown) - len(self.met)])
        return self.struct(**{name: held for name, held in fields.items() if held is not MISFIT}, rest=rest)

    def _held(self, name: str, value: Any) -> Any:  # noqa: ANN401
        """Return what the struct's field of this name holds of a value, or :data:`MISFIT`."""
        if name in self.columns:
            return CONVERTERS[self.columns[name]](value)
        held = self.nested.get(name, MISFIT)
        if isinstance(held, ApiObject):
            return held.build(value) if isinstance(value, dict) else None if value is None else MISFIT
        return MISFIT if held is MISFIT else value


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
        streams = ("businesses", "instances", "webhooks", "webhook_events")
        rows = (row_type(stream, include_secrets=include_secrets) for stream in streams)
        self._business_row, self._instance_row, self._webhook_row, self._events_row = rows

    # ------------------------------------------------------------------------------------------------- objects

    def read_business(self, body: dict[str, Any], source: Source) -> bytes:
        """Return the row of a business from an answer's top level (without ``Instances``)."""
        extra: dict[str, Any] = {}
        business = self._business.build(body)
        self._keep_id(self._business, "businessId", business.businessId, source.business_id, extra)
        values = self._values(self._business, business, extra)
        return encode_row(self._business_row(source.business_id, *values, source.observed_at, extra or None))

    def read_instance(self, raw: bytes, index: int, source: Source) -> Instance | None:
        """Return an item of ``Instances`` with its rows; ``None`` and a fault if it has no usable key."""
        try:
            if not (b"\\" in raw and NULL in raw):  # the first is much quicker
                try:
                    return self._read_instance(self._instance.parse(raw), index, source)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    pass
            return self._read_instance(self._build_instance(raw), index, source)
        except RecursionError:
            fault = " is nested too deep to be read"
        except FaultError as error:
            fault = str(error)
        self.findings.faults.append(f"Instances[{index}]{fault}")
        return None

    def _build_instance(self, raw: bytes) -> Any:  # noqa: ANN401
        """Parse an item value by value; its ``Webhook`` stays JSON, but for a misfit."""
        self._instance.learn()
        self._webhook.learn()
        try:
            value = None if NULL in raw else decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.findings.broken_text |= isinstance(error, UnicodeDecodeError)
            value = None
        if value is None:
            raw = repair(raw)
            value = decode(raw)
        if not isinstance(value, dict) or "Webhook" not in value:
            return self._instance.build(value)
        item = self._instance.build(value | {"Webhook": _split(raw)["Webhook"]})
        if not isinstance(value["Webhook"], (list, dict, NoneType)):
            item.rest["Webhook"] = value["Webhook"]
        return item

    def _read_instance(self, item: Any, index: int, source: Source) -> Instance:  # noqa: ANN401
        extra: dict[str, Any] = {}
        own = self._values(self._instance, item, extra)
        auth = self._values(self._auth, item.Auth, extra)
        whatsapp = self._values(self._whatsapp, item.WhatsApp, extra)
        at = source.observed_at
        row = self._instance_row(source.business_id, *own, *auth, *whatsapp, at, extra or None)
        if row.whatsapp_picture_url and not self.include_secrets:
            row.whatsapp_picture_url = mask_url(row.whatsapp_picture_url)
        instance = Instance(item.instanceId, encode_row(row))
        if item.Webhook is UNSET:
            self.findings.missing["instances.Webhook"] = None
        elif not item.rest or "Webhook" not in item.rest:
            self._read_webhooks(item, index, instance)
        return instance

    def _read_webhooks(self, item: Any, index: int, instance: Any) -> None:  # noqa: ANN401
        instance.digest = xxh3_64_hexdigest(item.Webhook, seed=self.shape)
        known = self.known.pop(instance.id, None)
        if known and known[0].digest == instance.digest:
            instance.known = known
            return
        hooks = self._webhook.parse_list(item.Webhook) if item.rest is None else self._build_hooks(item.Webhook, index)
        instance.webhooks, instance.webhook_events = webhooks, webhook_events = [], []
        instance.unknown_events = set()
        for hook in hooks or ():
            extra: dict[str, Any] = {}
            webhook_id, events = hook.webhookId, hook.WebhookEvents
            if hook.instanceInstanceId != instance.id:
                self._keep_id(self._webhook, "instanceInstanceId", hook.instanceInstanceId, instance.id, extra)
            values = self._values(self._webhook, hook, extra)
            row = self._webhook_row(instance.id, *values, None, extra or None)
            if row.url and not self.include_secrets:
                row.url = mask_url(row.url)
            webhooks.append(Row(webhook_id, encode_row(row), row.updated_at))
            if events:
                extra = {}
                values = self._values(self._events, events, extra)
                row = self._events_row(instance.id, webhook_id, *values, None, extra or None)
                webhook_events.append(Row(webhook_id, encode_row(row), row.updated_at))
            elif events is UNSET:
                instance.unknown_events.add(webhook_id)
                if not hook.rest or "WebhookEvents" not in hook.rest:
                    self.findings.missing["webhooks.WebhookEvents"] = None

    def _build_hooks(self, raw: Raw, item: int) -> list[Any]:
        """Parse the webhooks of an item value by value."""
        value = decode(raw)
        hooks = []
        for index, hook in enumerate([value] if isinstance(value, dict) else value or ()):
            try:
                hooks.append(self._webhook.build(hook))
            except FaultError as fault:  # noqa: PERF203
                self.findings.faults.append(f"Instances[{item}].Webhook[{index}]{fault}")
        return hooks

    # --------------------------------------------------------------------------------------------------- one object

    def _values(self, kind: ApiObject, item: Any, extra: dict[str, Any]) -> Sequence[Any]:  # noqa: ANN401
        """Return the values of an object's columns, in the schema's order; what no column holds goes to ``extra``.

        Raises:
            msgspec.ValidationError: a time in JSON is in another zone, or in none.
        """
        if not item:
            return kind.nothing
        values = astuple(item)
        for index in kind.times:
            time = values[index]
            if time and time.tzinfo is not UTC:
                raise msgspec.ValidationError
        if item.rest:
            self._keep(kind, item.rest.items(), extra)
        elif kind.unknown:
            self._keep(kind, zip(kind.unknown, values[kind.first_unknown :]), extra)  # noqa: B905 (``rest`` is the last)
        return values[: len(kind.columns)]

    # ---------------------------------------------------------------------------------------- what no column holds

    def _keep(self, kind: ApiObject, rest: Iterable[tuple[str, Any]], extra: dict[str, Any]) -> None:
        """Put what no column holds into ``extra`` under its API path, without secrets, and note it."""
        for name, value in rest:
            if value is None or value is UNSET:
                continue
            path, where, is_known, is_secret = kind.place(name)
            kept = self._withheld(path, where) if is_secret else self._without_secrets(path, value, where)
            if is_known:
                self.findings.misfits[where] = None
            elif kept is not MISFIT:
                self.findings.unknown[where] = None
            if kept is not MISFIT:
                while path in extra:  # a key of its own that is spelled like the path of another
                    path += "_"
                extra[path] = kept

    def _withheld(self, name: str, path: str) -> Any:  # noqa: ANN401
        shown = f"{path.removesuffix(name)}{MASK}" if is_secret_text(name) else path  # a key may be one itself
        self.findings.withheld[shown] = None
        return MISFIT

    def _keep_id(self, kind: ApiObject, name: str, value: Any, parent_id: str, extra: dict[str, Any]) -> None:  # noqa: ANN401
        """Keep a repeated id (such as ``instanceInstanceId``) if it contradicts the parent's id."""
        if to_text(value) != parent_id:
            self._keep(kind, [(name, value)], extra)

    def _without_secrets(self, name: str, value: Any, path: str, depth: int = 0) -> Any:  # noqa: ANN401
        """Return a key's value without the secrets in it; :data:`MISFIT` if all of it is one."""
        if not self.include_secrets and is_secret(name, value):
            return self._withheld(name, path)
        if isinstance(value, str):
            return value if self.include_secrets or "://" not in value else mask_url(value)
        if not isinstance(value, (dict, list)):
            return value
        if depth == MAX_DEPTH:
            with deep_recursion():
                return encode_row(self._without_secrets(name, value, path, depth + 1)).decode()
        if isinstance(value, list):
            items = (self._without_secrets("", item, f"{path}[]", depth + 1) for item in value)
            return [item for item in items if item is not MISFIT]
        pairs = ((key, self._without_secrets(key, item, f"{path}.{key}", depth + 1)) for key, item in value.items())
        return {key: item for key, item in pairs if item is not MISFIT}


_split: Final = msgspec.json.Decoder(dict[str, Raw]).decode
