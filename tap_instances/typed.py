"""The fast way through ``records``: the types are the validation.

Replaces: parsing an instance into dicts and looking at each value (:func:`tap_instances.records.read_instance`).
Why it may: msgspec decodes straight into structs that are derived from ``schemas/`` and refuse whatever does not fit
them. What they accept needs no second look; what they refuse takes the general way, item by item, with the same bytes
as the result (a test holds the two against each other). Keys that a server adds are learnt as they are met.
What it was worth: see docs/performance.md.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, Raw, defstruct
from msgspec.structs import astuple

from tap_instances import records
from tap_instances.columns import api_columns, row_type
from tap_instances.redact import mask_url
from tap_instances.values import encode, parse_json

if TYPE_CHECKING:
    from tap_instances.records import Instance, Reading

UTC: Final = timezone.utc
LISTED: Final = "Webhook"  # the one object of which there may be many
TYPES: Final[dict[str, Any]] = {"text": str | None, "flag": bool | None, "time": datetime | None}
MAX_LEARNT: Final = 32  # new keys of an object; a server that invents keys without end goes the general way
MAX_KEPT, SHORT = 4096, 64  # values of such keys that are looked at once; bytes
LEARNABLE: Final = re.compile(r'[^"\\\x00-\x1f\ud800-\udfff]*')  # the keys that msgspec takes as a field's
# The types cannot see these: an escape that is U+0000 or half a pair, and a fraction that they would round.
ODD: Final = (re.compile(rb"\\u(?:0000|[dD][89a-fA-F])"), re.compile(rb"\.[0-9]{7}"))


def looks_odd(raw: bytes | bytearray) -> bool:
    """Tell whether JSON may hold what the types cannot see (a linear scan, some 1 ms a MB)."""
    return any(pattern.search(raw) for pattern in ODD)


class _OddError(Exception):
    """The types accepted what only the general way reads right."""


class Shape:
    """One API object: a struct of the keys that columns hold, of the objects below it, and of the keys learnt since.

    Its values are in this order: the row's columns in theirs, a column that does not leave, what is below, the learnt.
    """

    def __init__(self, stream: str, prefix: str, below: dict[str, Shape | None], *, include_secrets: bool) -> None:
        """Take the columns of a stream whose ``x-api`` is ``prefix`` + one name; ``None`` below stands for a text."""
        self.stream, self.prefix, self.below = stream, prefix, below
        every = [(path.removeprefix(prefix), c) for path, c in api_columns(stream).items() if path.startswith(prefix)]
        own = [(key, column) for key, column in every if "." not in key]
        own.sort(key=lambda entry: entry[1].secret and not include_secrets)
        self.fields = [(key, TYPES[column.kind], None) for key, column in own]
        leaving = [column.kind for _, column in own if include_secrets or not column.secret]
        self.width = len(leaving)
        self.times = [index for index, kind in enumerate(leaving) if kind == "time"]
        self.learnt: list[str] = []

    def derive(self) -> None:
        """Make the struct, and those below it, as of what is learnt by now."""
        fields: list[tuple[str, Any, Any]] = [*self.fields]
        for key, shape in self.below.items():
            if shape:
                shape.derive()
            kind: Any = shape.struct if shape else str
            fields.append((key, (list[kind] if key == LISTED else kind) | None, None))
        fields += [(key, Raw, UNSET) for key in self.learnt]
        rename = {f"f{index}": key for index, (key, _, _) in enumerate(fields)}  # a key may be no name in Python
        named = [(name, *field[1:]) for name, field in zip(rename, fields, strict=True)]
        self.struct: Any = defstruct(self.stream, named, rename=rename, forbid_unknown_fields=True, gc=False)
        self.nothing = astuple(self.struct())

    def learn(self, item: Any) -> bool:  # noqa: ANN401
        """Know this object's keys next time, and those of what is below it; tell whether one of them was new."""
        if isinstance(item, list):
            return sum(map(self.learn, item)) > 0  # all of them, not up to the first
        if not isinstance(item, dict):
            return False
        known = {*(key for key, _, _ in self.fields), *self.below, *self.learnt}
        new = [key for key in item if key not in known and LEARNABLE.fullmatch(key)]
        new = new[: MAX_LEARNT - len(self.learnt)]
        self.learnt += new
        below = [shape.learn(item.get(key)) for key, shape in self.below.items() if shape]
        return new != [] or any(below)

    def values(self, item: Any) -> tuple[Any, ...]:  # noqa: ANN401
        """Return a struct's values; of none, nulls. A time in another zone than UTC is for the general way."""
        values = astuple(item) if item is not None else self.nothing
        for index in self.times:
            time = values[index]
            if time is not None and time.tzinfo is not UTC:
                raise _OddError
        return values


class TypedReader:
    """Reads instances of one run; ``include_secrets`` decides which columns there are."""

    def __init__(self, *, include_secrets: bool) -> None:
        """Derive the structs from the schemas."""
        self.include_secrets = include_secrets
        self._kept: dict[tuple[str, str, bytes], tuple[dict[str, Any], records.Findings]] = {}
        self._events = self._shape("webhook_events")
        self._webhook = self._shape("webhooks", instanceInstanceId=None, WebhookEvents=self._events)
        self._auth, self._whatsapp = self._shape("instances", "Auth."), self._shape("instances", "WhatsApp.")
        self._instance = self._shape("instances", Auth=self._auth, WhatsApp=self._whatsapp, Webhook=self._webhook)
        streams = ("instances", "webhooks", "webhook_events")
        self._rows = [row_type(name, include_secrets=include_secrets) for name in streams]
        self._derive()

    def _derive(self) -> None:
        self._instance.derive()
        self._decode = msgspec.json.Decoder(self._instance.struct).decode

    def _shape(self, stream: str, prefix: str = "", **below: Shape | None) -> Shape:
        return Shape(stream, prefix, below, include_secrets=self.include_secrets)

    def read(self, item: Any, index: int, reading: Reading, *, odd: bool) -> Instance | None:  # noqa: ANN401
        """Return what :func:`tap_instances.records.read_instance` returns for this item of ``Instances``.

        ``item`` is raw JSON, ``odd`` if it may hold what types cannot see; or what a body parsed otherwise holds.
        """
        where = f"Instances[{index}]"
        if isinstance(item, Raw):
            if not (odd and looks_odd(bytes(item))):
                try:
                    return self._read_instance(self._decode(item), reading)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, _OddError):
                    pass  # the general way knows what it is
            try:
                item = parse_json(bytes(item))
            except RecursionError:  # msgspec passed over it, where less of the stack was in use
                reading.findings.faults.append(f"{where} is nested too deep to be read")
                return None
            if self._instance.learn(item):
                self._derive()
        return records.read_instance(item, where, reading)

    def _read_instance(self, item: Any, reading: Reading) -> Instance:  # noqa: ANN401
        shape, auth, whatsapp = self._instance, self._auth, self._whatsapp
        values = shape.values(item)
        below = len(shape.fields)
        auth_values, whatsapp_values = auth.values(values[below]), whatsapp.values(values[below + 1])
        if not (instance_id := values[0]):
            raise _OddError
        extra: dict[str, Any] = {}
        self._keep_learnt(auth, auth_values, extra, reading)
        self._keep_learnt(whatsapp, whatsapp_values, extra, reading)
        self._keep_learnt(shape, values, extra, reading)
        row = self._rows[0](
            reading.business_id,
            *values[: shape.width],
            *auth_values[: auth.width],
            *whatsapp_values[: whatsapp.width],
            reading.observed_at,
            records.in_order(extra),
        )
        instance = records.Instance(instance_id, encode(row), [], [])
        for hook in values[below + 2] or ():
            self._read_webhook(hook, instance, reading)
        return instance

    def _read_webhook(self, item: Any, instance: Instance, reading: Reading) -> None:  # noqa: ANN401
        shape = self._webhook
        values = shape.values(item)
        below = len(shape.fields)
        owner, events = values[below], values[below + 1]
        if not (webhook_id := values[0]) or (owner is not None and owner != instance.id):
            raise _OddError
        extra: dict[str, Any] = {}
        self._keep_learnt(shape, values, extra, reading)
        row = self._rows[1](instance.id, *values[: shape.width], None, records.in_order(extra))
        if row.url and not self.include_secrets:
            row.url = mask_url(row.url)
        instance.webhooks.append((webhook_id, encode(row), row.updated_at))
        if events is not None:
            shape, values, extra = self._events, self._events.values(events), {}
            self._keep_learnt(shape, values, extra, reading)
            row = self._rows[2](instance.id, webhook_id, *values[: shape.width], None, records.in_order(extra))
            instance.webhook_events.append((webhook_id, encode(row), row.updated_at))

    def _keep_learnt(self, shape: Shape, values: tuple[Any, ...], extra: dict[str, Any], reading: Reading) -> None:
        """Put the learnt keys' values where they are kept; most are flags or words that were met before."""
        for key, raw in zip(shape.learnt, values[-len(shape.learnt) :], strict=True) if shape.learnt else ():
            if raw is UNSET:
                continue
            text = bytes(raw)
            known = self._kept.get((shape.stream, path := shape.prefix + key, text))
            if known is None:
                known = {}, records.Findings()
                records.keep_unknown(known[0], path, text, shape.stream, replace(reading, findings=known[1]))
                if len(text) <= SHORT and len(self._kept) < MAX_KEPT:
                    self._kept[shape.stream, path, text] = known
            kept, findings = known
            if not extra.keys().isdisjoint(kept):  # two keys of one path: the general way keeps them apart
                raise _OddError
            extra.update(kept)
            reading.findings.unknown.update(findings.unknown)
            reading.findings.withheld.update(findings.withheld)
