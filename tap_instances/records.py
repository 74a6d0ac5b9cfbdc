"""An API object becomes a row. Pure functions: a JSON object in, finished rows (JSON bytes) out.

What no column holds goes to ``additional_properties``, is withheld as a secret, or is reported: see :class:`Findings`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tap_instances.columns import api_columns, column_names, row_type
from tap_instances.redact import JWT, is_secret_name, mask_url
from tap_instances.values import CONVERTERS, MISFIT, clean_text, deep_recursion, encode, json_type, parse_json, to_text

if TYPE_CHECKING:
    from datetime import datetime

PARTS: Final = ("Auth", "WhatsApp")  # objects of an instance that become columns of its row
MAX_DEPTH: Final = 100  # a value nested deeper is kept as its JSON text

Row = tuple[str, bytes, "datetime | None"]  # its key, its JSON, its updatedAt


class Instance(msgspec.Struct, gc=False):
    """An instance's finished rows, and what of it is not there or could not be read."""

    id: str
    row: bytes
    webhooks: list[Row]
    webhook_events: list[Row]
    readable: bool = True  # its Webhook is a list, an object or null
    unread_events: tuple[str, ...] = ()  # ids of webhooks whose WebhookEvents is no object
    hidden: frozenset[str] = frozenset()  # ids of webhooks that a stream map filtered out


@dataclass
class Findings:
    """What a run met that no column holds: dotted paths, and the things that could not be emitted at all."""

    unknown: dict[str, None] = field(default_factory=dict)
    withheld: dict[str, None] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reading:
    """Whose answer is read, when it was complete (UTC), whether secrets leave, and where findings go."""

    business_id: str
    observed_at: datetime
    include_secrets: bool
    findings: Findings


def read_business(body: dict[str, Any], reading: Reading) -> bytes:
    """Return the ``businesses`` row of a body (without its ``Instances``)."""
    row, extra = _blank("businesses", reading), {}  # type: tuple[dict[str, Any], dict[str, Any]]
    row.update(business_id=reading.business_id, observed_at=reading.observed_at)
    rest = dict(body)
    business_id = rest.pop("businessId", None)
    if _differs(business_id, reading.business_id):
        _keep(extra, "businessId", business_id, "businesses", reading)
    _fill(row, extra, rest, "businesses", "", reading)
    return _finish(row, extra)


def read_instance(item: Any, where: str, reading: Reading) -> Instance | None:  # noqa: ANN401
    """Return the rows of an item of ``Instances``, or ``None`` (and a fault) if it has no usable key."""
    instance_id = _key(item, "instanceId", where, reading)
    if instance_id is None:
        return None
    row, extra = _blank("instances", reading), {}  # type: tuple[dict[str, Any], dict[str, Any]]
    row.update(business_id=reading.business_id, observed_at=reading.observed_at)
    rest = dict(item)
    hooks = rest.pop("Webhook", None)
    for part in PARTS:
        value = rest.pop(part, None)
        if isinstance(value, dict):
            _fill(row, extra, value, "instances", f"{part}.", reading)
        elif value is not None:
            _keep(extra, part, value, "instances", reading)
    _fill(row, extra, rest, "instances", "", reading)

    hooks = [hooks] if isinstance(hooks, dict) else hooks
    readable = hooks is None or isinstance(hooks, list)
    if not readable:
        _keep(extra, "Webhook", hooks, "instances", reading)
    instance = Instance(instance_id, _finish(row, extra), [], [], readable)
    for index, hook in enumerate(hooks if isinstance(hooks, list) else ()):
        _read_webhook(hook, f"{where}.Webhook[{index}]", instance, reading)
    return instance


def _read_webhook(item: Any, where: str, instance: Instance, reading: Reading) -> None:  # noqa: ANN401
    """Add the rows of an item of ``Webhook`` to its instance's."""
    webhook_id = _key(item, "webhookId", where, reading)
    if webhook_id is None:
        return
    row, extra = _blank("webhooks", reading), {}  # type: tuple[dict[str, Any], dict[str, Any]]
    row["instance_id"] = instance.id
    rest = dict(item)
    events, owner = rest.pop("WebhookEvents", None), rest.pop("instanceInstanceId", None)
    if _differs(owner, instance.id):
        _keep(extra, "instanceInstanceId", owner, "webhooks", reading)
    _fill(row, extra, rest, "webhooks", "", reading)
    if row["url"] and not reading.include_secrets:
        row["url"] = mask_url(row["url"])
    if events is not None and not isinstance(events, dict):
        instance.unread_events += (webhook_id,)
        _keep(extra, "WebhookEvents", events, "webhooks", reading)
    instance.webhooks.append((webhook_id, _finish(row, extra), row["updated_at"]))
    if isinstance(events, dict):
        row, extra = _blank("webhook_events", reading), {}
        row.update(instance_id=instance.id, webhook_id=webhook_id)
        _fill(row, extra, events, "webhook_events", "", reading)
        instance.webhook_events.append((webhook_id, _finish(row, extra), row["updated_at"]))


def deleted_row(stream: str, instance_id: str, webhook_id: str, reading: Reading) -> bytes:
    """Return the row that says a webhook (or its events) is gone: its ids, ``deleted_at``, and nulls."""
    row = _blank(stream, reading)
    row.update(instance_id=instance_id, webhook_id=webhook_id, deleted_at=reading.observed_at)
    return encode(row)


def change_row(instance_id: str, change: str, previous_observed_at: str, reading: Reading) -> bytes:
    """Return a ``connection_changes`` row: it happened between the two times."""
    row = row_type("connection_changes", include_secrets=False)
    return encode(row(reading.business_id, instance_id, change, previous_observed_at, reading.observed_at))


def _blank(stream: str, reading: Reading) -> dict[str, Any]:
    return dict.fromkeys(column_names(stream, include_secrets=reading.include_secrets))


def _finish(row: dict[str, Any], extra: dict[str, Any]) -> bytes:
    row["additional_properties"] = in_order(extra)
    return encode(row)


def in_order(extra: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is kept beside the columns in one order, so that equal objects are equal bytes."""
    return (extra if len(extra) == 1 else dict(sorted(extra.items()))) if extra else None


def _key(item: Any, name: str, where: str, reading: Reading) -> str | None:  # noqa: ANN401
    """Return the item's key as text; without one, report where it stood."""
    if not isinstance(item, dict):
        reading.findings.faults.append(f"{where} is {json_type(item)}, not an object")
        return None
    key = to_text(item.get(name))
    if isinstance(key, str) and key:
        return key
    what = "empty" if key == "" else json_type(item[name]) if name in item else "missing"
    reading.findings.faults.append(f"{where}: its {name} is {what}")
    return None


def _differs(copy: Any, key: str) -> bool:  # noqa: ANN401
    """Tell whether a copy of a key says something else than the key, which is known anyway."""
    return copy is not None and to_text(copy) != key


def _fill(  # noqa: PLR0913
    row: dict[str, Any], extra: dict[str, Any], item: dict[str, Any], stream: str, prefix: str, reading: Reading
) -> None:
    """Put each value of an object into its column, or where it is kept."""
    columns = api_columns(stream)
    for name, value in item.items():
        if value is None:
            continue
        path = prefix + name
        column = columns.get(path) if "." not in name else None
        if column is None:
            _keep_unknown(extra, prefix + clean_text(name), value, stream, reading)
        elif column.secret and not reading.include_secrets:
            continue
        elif (converted := CONVERTERS[column.kind](value)) is MISFIT:
            _keep(extra, path, value, stream, reading)
        else:
            row[column.name] = converted


def keep_unknown(extra: dict[str, Any], path: str, raw: bytes, stream: str, reading: Reading) -> None:
    """Keep the JSON value of a key that no column knows."""
    value = parse_json(raw)
    if value is not None:
        _keep_unknown(extra, path, value, stream, reading)


def _keep_unknown(extra: dict[str, Any], path: str, value: Any, stream: str, reading: Reading) -> None:  # noqa: ANN401
    if _keep(extra, path, value, stream, reading):
        reading.findings.unknown[f"{stream}.{path}"] = None


def _keep(extra: dict[str, Any], path: str, value: Any, stream: str, reading: Reading) -> bool:  # noqa: ANN401
    """Put what no column holds under its API name, unless it is a secret; tell which."""
    hide = not reading.include_secrets
    if hide and stream == "instances" and (path == "Auth" or path.startswith("Auth.")):
        cleaned: Any = MISFIT  # of Auth, only what its columns hold leaves
    elif hide and is_secret_name(path) and not isinstance(value, bool):
        cleaned = MISFIT
    else:
        cleaned = _clean(value, f"{stream}.{path}", reading)
    if cleaned is MISFIT:
        reading.findings.withheld[f"{stream}.{path}"] = None
        return False
    while path in extra:  # two keys that differ only in what was removed from them
        path += "_"
    extra[path] = cleaned
    return True


def _clean(value: Any, path: str, reading: Reading, depth: int = 0) -> Any:  # noqa: ANN401
    """Return a JSON value that every target can carry, without secrets; :data:`MISFIT` if all of it is one."""
    hide = not reading.include_secrets
    if isinstance(value, str):
        text = clean_text(value)
        if hide and JWT.search(text):
            return MISFIT
        return mask_url(text) if hide and "://" in text else text
    if not isinstance(value, (dict, list)):
        return value
    if depth == MAX_DEPTH:
        with deep_recursion():
            return encode(_clean(value, path, reading, depth + 1)).decode()
    if isinstance(value, list):
        items = [_clean(item, f"{path}[]", reading, depth + 1) for item in value]
        if MISFIT in items:
            reading.findings.withheld[f"{path}[]"] = None
        return [item for item in items if item is not MISFIT]
    result: dict[str, Any] = {}
    for key, item in value.items():
        name = clean_text(key)
        secret = hide and is_secret_name(name) and not isinstance(item, bool)
        cleaned = MISFIT if secret else _clean(item, f"{path}.{name}", reading, depth + 1)
        if cleaned is MISFIT:
            reading.findings.withheld[f"{path}.{name}"] = None
            continue
        while name in result:
            name += "_"
        result[name] = cleaned
    return result
