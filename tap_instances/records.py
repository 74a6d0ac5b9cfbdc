"""An API object becomes a row: JSON in, finished rows (JSON bytes) out.

An item of ``Instances`` is parsed into structs that are made from ``schemas/``. What they refuse, such as a value of
another type, is built into the same structs value by value (:data:`KINDS`). What no column
holds goes to ``additional_properties`` or is withheld as a secret, and :class:`Findings` takes note of it.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache, partial
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import astuple
from xxhash import xxh3_64_hexdigest

from tap_instances import redact
from tap_instances.columns import api_columns, row_type
from tap_instances.redact import is_plain_text, mask_url
from tap_instances.values import (
    MISFIT,
    UTC,
    add_key,
    decode,
    decoder,
    deep_recursion,
    encode,
    encode_row,
    is_unicode,
    json_type,
    repair,
    to_flag,
    to_text,
    to_time,
    to_utc,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tap_instances.memory import Memory

MAX_DEPTH: Final = 100  # a value nested deeper is kept as its JSON text
MAX_UNKNOWN: Final = 100  # keys; a server that makes up keys must not make structs without end
NULL: Final = rb"\u0000"  # as JSON has it: msgspec reads it, but no target does
NOT_PARSED: Final = (msgspec.DecodeError, UnicodeDecodeError)


class Row(Struct, gc=False):
    """A finished row: its key, its JSON, and the API's ``updatedAt``."""

    key: str
    json: bytes
    updated_at: datetime | None


class Source(NamedTuple):
    """Whose answer a row comes from, and when that answer was complete (UTC)."""

    business_id: str
    observed_at: datetime


class Instance(Struct, gc=False):
    """An instance's rows, and what is needed to compare them."""

    id: str
    row: bytes = b""
    digest: str = ""  # of ``Webhook`` as it came, and of what shapes rows; empty where webhooks are not known
    is_unchanged: bool = False  # its ``Webhook`` is as remembered, and was not read
    webhook_count: int = 0
    webhooks: list[Row] = []
    webhook_events: list[Row] = []
    unknown_events: frozenset[str] = frozenset()  # ids of webhooks whose ``WebhookEvents`` is missing, or no object
    hidden: frozenset[str] = frozenset()  # ids of webhooks that a stream map filters out


class Findings(Struct):
    """What a run met that no column holds (paths such as ``instances.WhatsApp.newThing``), and what has no key."""

    unknown: dict[str, None] = {}
    misfits: dict[str, None] = {}
    withheld: dict[str, None] = {}
    missing: dict[str, None] = {}  # ``Webhook`` or ``WebhookEvents``
    broken_text: bool = False  # bytes that are not UTF-8
    faults: list[str] = []


class FaultError(Exception):
    """Why an item of a list is not emitted: it has no usable key."""


class Field(NamedTuple):
    """A key of an object: its type where it is parsed, what it is if it is missing, and how it is read by itself."""

    type: Any
    default: Any
    read: Callable[[bytes], Any]


KINDS: Final = {
    "key": Field(Annotated[str, msgspec.Meta(min_length=1)], msgspec.field(), lambda raw: to_text(decode(raw))),
    "text": Field(str | None, None, lambda raw: to_text(decode(raw))),
    "flag": Field(bool | None, None, lambda raw: to_flag(decode(raw))),
    "time": Field(datetime | None, None, lambda raw: to_time(decode(raw))),
}
ANY: Final = Field(Any, None, decode)
RAW: Final = Field(Raw | UnsetType, UNSET, lambda raw: raw)


class Place(Struct, gc=False):
    """Where a key stands whose value no column holds."""

    path: str  # from the stream's own object
    where: str  # the same, with the stream, for people
    is_known: bool  # to a schema
    withheld: bool  # whatever its value is
    is_harmless: bool  # its name is not a secret's


class ApiObject:
    """An object of the API: which of its keys are columns of a stream, and which others it has.

    Its ``struct`` has a field for each column, for each other known key, for ``rest`` (what no field can hold), and for
    each unknown key that was met. It is itself the field of an object that has it.
    """

    default = UNSET

    def __init__(
        self, stream: str, at: str = "", parent: ApiObject | None = None, *, secrets: bool, key: str = "", **also: Field
    ) -> None:
        """Take a stream's columns; of the stream that ``parent`` is of, those whose ``x-api`` is below ``at``.

        The object stands ``at`` this key of its parent. ``key`` names the key that it must have; ``also`` are keys that
        are known, but no columns. ``secrets`` takes secret columns, too.
        """
        self.stream, self.parent, self.key, self.secrets = stream, parent, key, secrets
        self.prefix = prefix = f"{at}." if parent and parent.stream == stream else ""
        paths = {path.removeprefix(prefix): c for path, c in api_columns(stream).items() if path.startswith(prefix)}
        columns = {name: column for name, column in paths.items() if "." not in name}
        kinds = {name: column.kind for name, column in columns.items() if secrets or not column.secret}
        self.times = [index for index, kind in enumerate(kinds.values()) if kind == "time"]
        self.fields: dict[str, Any] = {name: KINDS["key" if name == key else kind] for name, kind in kinds.items()}
        self.fields |= {name: RAW for name in columns if name not in kinds} | also
        self.width, self.nothing = len(kinds), (None,) * len(kinds)
        self.row = row_type(stream, include_secrets=secrets)
        self.place = cache(self._place)
        self.unknown: dict[str, Place] = {}  # keys that no schema knows, and for which the struct has a field
        if parent:
            parent.fields[at] = self
        self.make_struct()

    def make_struct(self) -> None:
        """Make the struct, and then the one that has it as a field."""
        fields = [*((name, key.type, key.default) for name, key in self.fields.items()), ("rest", None, None)]
        self.first_unknown = len(fields)
        names = {f"unknown{index}": name for index, name in enumerate(self.unknown)}  # it may not be a Python name
        fields += [(name, Any, None) for name in names]
        names["rest"] = ""  # a key that is not learnt
        self.struct: Any = msgspec.defstruct(self.stream, fields, rename=names, forbid_unknown_fields=True, gc=False)
        self.type: Any = self.struct | None | UnsetType
        self.parse = decoder(self.struct).decode
        self.parse_list = decoder(list[self.struct] | None).decode  # type: ignore[name-defined]
        if self.parent:
            self.parent.make_struct()

    def _place(self, name: str) -> Place:
        path = self.prefix + (name if self.secrets else redact.shown_name(name))
        is_known = self.fields.get(name, ANY) is not ANY
        # Not by the path: a key of the instance may be spelled "Auth.x", too.
        of_auth = self.prefix == "Auth." or (is_known and name == "Auth")
        withheld = not self.secrets and (of_auth or redact.is_secret_text(name))
        return Place(path, f"{self.stream}.{path}", is_known, withheld, not redact.is_secret_name(path))

    def read(self, raw: bytes) -> Any:  # noqa: ANN401
        """Return an object as its struct, ``None`` if it is null, :data:`MISFIT` if it is no object.

        What cannot be parsed is read value by value, and its unknown keys are learnt.

        Raises:
            FaultError: it is an item of a list, and has no usable key.
            msgspec.DecodeError: its text is not fit for UTF-8.
            UnicodeDecodeError: it is not UTF-8.
        """
        try:
            return self.parse(raw)
        except NOT_PARSED:
            value = decode(raw)
        if not isinstance(value, dict):
            if self.key:
                raise FaultError(f" is {json_type(value)}, not an object")
            return None if value is None else MISFIT
        key = value.get(self.key)
        if self.key and to_text(key) in {None, "", MISFIT}:
            what = "missing" if self.key not in value else "empty" if key == "" else json_type(key)
            raise FaultError(f": its {self.key} is {what}")
        held = {name: self.fields[name].read(member) for name, member in _split(raw).items() if name in self.fields}
        fields = {name: item for name, item in held.items() if item is not MISFIT}
        rest = {name: item for name, item in value.items() if name not in fields}
        known = {*self.fields, *self.unknown, ""}
        new = [name for name in rest if name not in known and encode(name) == f'"{name}"'.encode()]
        if new and len(self.unknown) + len(new) <= MAX_UNKNOWN:
            self.unknown |= {name: self.place(name) for name in new}
            self.make_struct()
        return self.struct(**fields, rest=rest)


class Reader:
    """Reads the objects of a run into rows; with ``include_secrets`` nothing is withheld."""

    def __init__(self, *, include_secrets: bool, shape: int = 0) -> None:
        """Make the structs from the schemas; ``shape`` is a digest of whatever else makes other rows of an object."""
        self.include_secrets, self.shape = include_secrets, shape
        self.findings = Findings()
        # Instance -> what is remembered of its webhooks. They are not read while the digest of ``Webhook`` is the same.
        self.remembered: dict[str, Memory] = {}
        api_object = partial(ApiObject, secrets=include_secrets)
        self._business = api_object("businesses", businessId=ANY)
        self._instance = api_object("instances", key="instanceId", Webhook=RAW)
        self._auth = api_object("instances", "Auth", self._instance)
        self._whatsapp = api_object("instances", "WhatsApp", self._instance)
        self._webhook = api_object("webhooks", key="webhookId", instanceInstanceId=ANY)
        self._events = api_object("webhook_events", "WebhookEvents", self._webhook)

    # ------------------------------------------------------------------------------------------------- objects

    def read_business(self, body: dict[str, Any], source: Source) -> bytes:
        """Return the row of a business from an answer's top level (without ``Instances``)."""
        extra: dict[str, Any] = {}
        business = self._business.read(encode(body))
        if to_text(business.businessId) != source.business_id:
            self._keep([(self._business.place("businessId"), business.businessId)], extra)
        values = self._values(self._business, business, extra)
        return encode_row(self._business.row(source.business_id, *values, source.observed_at, extra or None))

    def read_instance(self, raw: bytes, index: int, source: Source) -> Instance | None:
        """Return an item of ``Instances`` with its rows; ``None`` and a fault if it has no usable key."""
        try:
            if b"\\" in raw and NULL in raw:  # the first is much quicker
                raw = repair(raw)
            try:
                return self._read_instance(raw, index, source)
            except NOT_PARSED:
                self.findings.broken_text |= not is_unicode(raw)
                return self._read_instance(repair(raw), index, source)
        except RecursionError:
            fault = " is nested too deep to be read"
        except FaultError as error:
            fault = str(error)
        self.findings.faults.append(f"Instances[{index}]{fault}")
        return None

    def _read_instance(self, raw: bytes, index: int, source: Source) -> Instance:
        item = self._instance.read(raw)
        instance = Instance(item.instanceId)
        extra: dict[str, Any] = {}
        own = self._values(self._instance, item, extra)
        auth = self._values(self._auth, item.Auth, extra)
        whatsapp = self._values(self._whatsapp, item.WhatsApp, extra)
        if item.Webhook is UNSET:
            self.findings.missing["instances.Webhook"] = None
        else:
            self._read_webhooks(item.Webhook, index, instance, extra)
        row = self._instance.row(source.business_id, *own, *auth, *whatsapp, source.observed_at, extra or None)
        if row.whatsapp_picture_url and not self.include_secrets:
            row.whatsapp_picture_url = mask_url(row.whatsapp_picture_url)
        instance.row = encode_row(row)
        return instance

    def _read_webhooks(self, raw: Raw, index: int, instance: Instance, extra: dict[str, Any]) -> None:
        """Read what is below an instance, if it is not as remembered; what has another type goes to ``extra``."""
        digest = xxh3_64_hexdigest(raw, seed=self.shape)
        memory = self.remembered.pop(instance.id, None)
        if memory and memory.digest == digest:
            instance.is_unchanged, instance.digest, instance.webhook_count = True, digest, len(memory.rows)
            return
        try:
            hooks = self._webhook.parse_list(raw) or ()
        except NOT_PARSED:
            value = decode(raw)  # all of it: no fault is noted of a text that is to be repaired
            if not isinstance(value, (list, dict, NoneType)):
                self._keep([(self._instance.place("Webhook"), value)], extra)
                return
            hooks = self._build_hooks([raw] if isinstance(value, dict) else _split_list(raw) or (), index)
        self._add_webhooks(hooks, instance)
        instance.digest, instance.webhook_count = digest, len(instance.webhooks)

    def _build_hooks(self, raws: Iterable[Raw], item: int) -> list[Any]:
        hooks = []
        for index, raw in enumerate(raws):
            try:
                hooks.append(self._webhook.read(raw))
            except FaultError as fault:  # noqa: PERF203
                self.findings.faults.append(f"Instances[{item}].Webhook[{index}]{fault}")
        return hooks

    def _add_webhooks(self, hooks: Iterable[Any], instance: Instance) -> None:
        """Add the rows of webhooks, and of their events, to their instance's."""
        instance_id, webhooks, webhook_events = instance.id, instance.webhooks, instance.webhook_events
        for hook in hooks:
            extra: dict[str, Any] = {}
            webhook_id, events, owner = hook.webhookId, hook.WebhookEvents, hook.instanceInstanceId
            if owner != instance_id and to_text(owner) != instance_id:
                self._keep([(self._webhook.place("instanceInstanceId"), owner)], extra)
            values = self._values(self._webhook, hook, extra)
            row = self._webhook.row(instance_id, *values, None, extra or None)
            if row.url and not self.include_secrets:
                row.url = mask_url(row.url)
            webhooks.append(Row(webhook_id, encode_row(row), row.updated_at))
            if events:
                extra = {}
                values = self._values(self._events, events, extra)
                row = self._events.row(instance_id, webhook_id, *values, None, extra or None)
                webhook_events.append(Row(webhook_id, encode_row(row), row.updated_at))
            elif events is UNSET:
                instance.unknown_events |= {webhook_id}
                if not hook.rest or "WebhookEvents" not in hook.rest:
                    self.findings.missing["webhooks.WebhookEvents"] = None

    # --------------------------------------------------------------------------------------------------- one object

    def _values(self, api_object: ApiObject, item: Any, extra: dict[str, Any]) -> Sequence[Any]:  # noqa: ANN401
        """Return the values of an object's columns, in the schema's order; what no column holds goes to ``extra``."""
        if not item:
            return api_object.nothing
        values = astuple(item)
        for index in api_object.times:
            time = values[index]
            if time is not None and time.tzinfo is not UTC:
                try:
                    in_utc = to_utc(time)
                except OverflowError:  # its year is then 0 or 10000
                    in_utc = None
                    self._keep([(api_object.place([*api_object.fields][index]), time.isoformat())], extra)
                values = (*values[:index], in_utc, *values[index + 1 :])
        if item.rest:
            self._keep([(api_object.place(name), value) for name, value in item.rest.items()], extra)
        elif api_object.unknown:
            unknown = zip(api_object.unknown.values(), values[api_object.first_unknown :])  # noqa: B905 (it may be an older struct)
            self._keep(unknown, extra)
        return values[: api_object.width]

    # ---------------------------------------------------------------------------------------- what no column holds

    def _keep(self, pairs: Iterable[tuple[Place, Any]], extra: dict[str, Any]) -> None:
        """Put what no column holds into ``extra`` under its API path, without secrets, and note it."""
        findings = self.findings
        for place, value in pairs:
            if value is None:
                continue
            if place.is_known:
                findings.misfits[place.where] = None
            if place.withheld:
                findings.withheld[place.where] = None
                continue
            # Most are flags and plain texts: nothing in those is a secret.
            is_plain = type(value) is bool or (type(value) is str and place.is_harmless and is_plain_text(value))
            kept = value if is_plain else self._without_secrets(place.path, value, place.where)
            if kept is MISFIT:
                continue
            if not place.is_known:
                findings.unknown[place.where] = None
            add_key(extra, place.path, kept)  # a key of its own may be spelled like the path of another

    def _without_secrets(self, name: str, value: Any, where: str, depth: int = 0) -> Any:  # noqa: ANN401
        """Return a key's value without the secrets in it; :data:`MISFIT` if all of it is one."""
        if not self.include_secrets and redact.is_secret(name, value):
            self.findings.withheld[where] = None
            return MISFIT
        if isinstance(value, str):
            return value if self.include_secrets else redact.mask_text(value)
        if not isinstance(value, (dict, list)):
            return value
        if depth == MAX_DEPTH:
            with deep_recursion():
                return encode_row(self._without_secrets(name, value, where, depth + 1)).decode()
        if isinstance(value, list):
            items = [self._without_secrets("", item, f"{where}[]", depth + 1) for item in value]
            return [item for item in items if item is not MISFIT]
        kept: dict[str, Any] = {}
        for key, item in value.items():
            shown = key if self.include_secrets else redact.shown_name(key)
            held = self._without_secrets(key, item, f"{where}.{shown}", depth + 1)
            if held is not MISFIT:
                add_key(kept, shown, held)
        return kept


_split: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_split_list: Final = msgspec.json.Decoder(list[Raw] | None).decode
