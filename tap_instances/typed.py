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
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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
TYPES: Final[dict[str, Any]] = {"text": str | None, "flag": bool | None, "time": datetime | None}
MAX_LEARNT: Final = 64  # new keys; a server that invents keys without end goes the general way
MAX_KEPT, SHORT = 4096, 64  # values of such keys that are looked at once; bytes
LEARNABLE: Final = re.compile(r'[^"\\\x00-\x1f\ud800-\udfff]*')  # the keys that msgspec takes as a field's
# The types cannot see these: an escape that is U+0000 or half a pair, and a fraction that they would round.
ODD: Final = (re.compile(rb"\\u(?:0000|[dD][89a-fA-F])"), re.compile(rb"\.[0-9]{7}"))


class _OddError(Exception):
    """The types accepted what only the general way reads right."""


class Shape(NamedTuple):
    """One API object's struct, and where its values go."""

    struct: type[msgspec.Struct]
    width: int  # so many of the struct's first values are the row's columns, in their order
    times: tuple[int, ...]  # which of them are times
    learnt: tuple[str, ...]  # further keys, the struct's last values

    def columns(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the values that are the row's columns; a time in another zone than UTC is for the general way."""
        for index in self.times:
            time = values[index]
            if time is not None and time.tzinfo is not UTC:
                raise _OddError
        return values[: self.width]


def looks_odd(raw: bytes | bytearray) -> bool:
    """Tell whether JSON may hold what the types cannot see (a linear scan, some 1 ms a MB)."""
    return any(pattern.search(raw) for pattern in ODD)


class TypedReader:
    """Reads instances of one run; ``include_secrets`` decides which columns there are."""

    def __init__(self, *, include_secrets: bool) -> None:
        """Derive the structs from the schemas."""
        self.include_secrets = include_secrets
        self._learnt: dict[str, list[str]] = {"": [], "Auth.": [], "WhatsApp.": [], "Webhook": [], "WebhookEvents": []}
        self._kept: dict[tuple[str, str, bytes], tuple[dict[str, Any], records.Findings]] = {}
        self._derive()

    def read(self, item: Any, index: int, reading: Reading, *, odd: bool) -> Instance | None:  # noqa: ANN401
        """Return what :func:`tap_instances.records.read_instance` returns for this item of ``Instances``.

        ``item`` is raw JSON, ``odd`` if it may hold what types cannot see; or what a body parsed otherwise holds.
        """
        where = f"Instances[{index}]"
        if isinstance(item, Raw):
            if not (odd and looks_odd(bytes(item))):
                try:
                    return self._typed(self._decode(item), reading)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, _OddError):
                    pass  # the general way knows what it is
            try:
                item = parse_json(bytes(item))
            except RecursionError:  # msgspec passed over it, where less of the stack was in use
                reading.findings.faults.append(f"{where} is nested too deep to be read")
                return None
            self._learn(item)
        return records.read_instance(item, where, reading)

    # ----------------------------------------------------------------------------------------------- the shapes

    def _derive(self) -> None:
        events = self._shape("webhook_events", "", "WebhookEvents")
        webhook = self._shape(
            "webhooks", "", "Webhook", instanceInstanceId=str | None, WebhookEvents=events.struct | None
        )
        auth, whatsapp = self._shape("instances", "Auth."), self._shape("instances", "WhatsApp.")
        listed: Any = list.__class_getitem__(webhook.struct)
        instance = self._shape(
            "instances", "", Auth=auth.struct | None, WhatsApp=whatsapp.struct | None, Webhook=listed | None
        )
        self._events, self._webhook, self._auth, self._whatsapp, self._instance = (
            events,
            webhook,
            auth,
            whatsapp,
            instance,
        )
        self._no_auth, self._no_whatsapp = auth.struct(), whatsapp.struct()
        self._decode = msgspec.json.Decoder(instance.struct).decode
        streams = ("instances", "webhooks", "webhook_events")
        self._rows = [row_type(name, include_secrets=self.include_secrets) for name in streams]
        self._has_learnt = any(self._learnt.values())

    def _shape(self, stream: str, prefix: str, level: str | None = None, **children: Any) -> Shape:  # noqa: ANN401
        """Derive the struct of an object whose keys are ``prefix`` + one name in ``x-api``."""
        columns = [
            (path.removeprefix(prefix), column)
            for path, column in api_columns(stream).items()
            if path.startswith(prefix) and "." not in path.removeprefix(prefix)
        ]
        columns.sort(key=lambda entry: entry[1].secret and not self.include_secrets)  # what stays here goes last
        width = sum(self.include_secrets or not column.secret for _, column in columns)
        learnt = tuple(self._learnt[prefix if level is None else level])
        keys = [name for name, _ in columns] + [*children, *learnt]
        fields: list[tuple[str, Any, Any]] = [
            (f"f{index}", TYPES[column.kind], None) for index, (_, column) in enumerate(columns)
        ]
        fields += [(name, kind, None) for name, kind in children.items()]
        fields += [(f"x{index}", Raw, UNSET) for index in range(len(learnt))]
        rename = {name: key for (name, _, _), key in zip(fields, keys, strict=True)}
        struct = defstruct(f"{stream}_{prefix}", fields, rename=rename, forbid_unknown_fields=True, gc=False)
        times = tuple(index for index, (_, column) in enumerate(columns[:width]) if column.kind == "time")
        return Shape(struct, width, times, learnt)

    def _learn(self, item: Any) -> None:  # noqa: ANN401
        """Know the keys of this item next time."""
        before = room = MAX_LEARNT - sum(map(len, self._learnt.values()))
        if not isinstance(item, dict) or not room:
            return
        hooks = item.get("Webhook")
        hooks = [hook for hook in hooks if isinstance(hook, dict)] if isinstance(hooks, list) else []
        objects: list[tuple[str, str, str, tuple[str, ...], Any]] = [
            ("", "instances", "", (*records.PARTS, "Webhook"), item),
            *((f"{part}.", "instances", f"{part}.", (), item.get(part)) for part in records.PARTS),
            *(("Webhook", "webhooks", "", ("instanceInstanceId", "WebhookEvents"), hook) for hook in hooks),
            *(("WebhookEvents", "webhook_events", "", (), hook.get("WebhookEvents")) for hook in hooks),
        ]
        for level, stream, prefix, children, value in objects:
            known = self._learnt[level]
            for key in value if isinstance(value, dict) else ():
                new = prefix + key not in api_columns(stream) and key not in (*children, *known)
                if room and new and LEARNABLE.fullmatch(key):
                    known.append(key)
                    room -= 1
        if room < before:
            self._derive()

    # ------------------------------------------------------------------------------------------------- the rows

    def _typed(self, item: Any, reading: Reading) -> Instance:  # noqa: ANN401
        values, auth, whatsapp = astuple(item), item.Auth or self._no_auth, item.WhatsApp or self._no_whatsapp
        if not (instance_id := values[0]):
            raise _OddError
        extra: dict[str, Any] = {}
        row = self._rows[0](
            reading.business_id,
            *self._instance.columns(values),
            *self._auth.columns(auth_values := astuple(auth)),
            *self._whatsapp.columns(whatsapp_values := astuple(whatsapp)),
            reading.observed_at,
            None,
        )
        if self._has_learnt:
            self._take(self._auth, auth_values, "instances", "Auth.", extra, reading)
            self._take(self._whatsapp, whatsapp_values, "instances", "WhatsApp.", extra, reading)
            self._take(self._instance, values, "instances", "", extra, reading)
            row.additional_properties = records.in_order(extra)
        instance = records.Instance(instance_id, encode(row), [], [])
        for hook in item.Webhook or ():
            self._typed_webhook(hook, instance, reading)
        return instance

    def _typed_webhook(self, hook: Any, instance: Instance, reading: Reading) -> None:  # noqa: ANN401
        values, owner = astuple(hook), hook.instanceInstanceId
        if not (webhook_id := values[0]) or (owner is not None and owner != instance.id):
            raise _OddError
        extra: dict[str, Any] = {}
        row = self._rows[1](instance.id, *self._webhook.columns(values), None, None)
        if self._has_learnt:
            self._take(self._webhook, values, "webhooks", "", extra, reading)
            row.additional_properties = records.in_order(extra)
        if row.url and not self.include_secrets:
            row.url = mask_url(row.url)
        instance.webhooks.append((webhook_id, encode(row), row.updated_at))
        if (events := hook.WebhookEvents) is not None:
            values, extra = astuple(events), {}
            row = self._rows[2](instance.id, webhook_id, *self._events.columns(values), None, None)
            if self._has_learnt:
                self._take(self._events, values, "webhook_events", "", extra, reading)
                row.additional_properties = records.in_order(extra)
            instance.webhook_events.append((webhook_id, encode(row), row.updated_at))

    def _take(  # noqa: PLR0913
        self, shape: Shape, values: tuple[Any, ...], stream: str, prefix: str, extra: dict[str, Any], reading: Reading
    ) -> None:
        """Put the learnt keys' values where they are kept."""
        for key, raw in zip(shape.learnt, values[-len(shape.learnt) :], strict=True) if shape.learnt else ():
            if raw is not UNSET:
                self._keep(prefix + key, bytes(raw), stream, extra, reading)

    def _keep(self, path: str, raw: bytes, stream: str, extra: dict[str, Any], reading: Reading) -> None:
        """Keep a learnt key's value; most are flags or words that were met before."""
        known = self._kept.get((stream, path, raw))
        if known is None:
            known = {}, records.Findings()
            records.keep_unknown(known[0], path, raw, stream, replace(reading, findings=known[1]))
            if len(raw) <= SHORT and len(self._kept) < MAX_KEPT:
                self._kept[stream, path, raw] = known
        kept, findings = known
        if not extra.keys().isdisjoint(kept):  # two keys of one path: the general way keeps them apart
            raise _OddError
        extra.update(kept)
        reading.findings.unknown.update(findings.unknown)
        reading.findings.withheld.update(findings.withheld)
