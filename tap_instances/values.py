"""One JSON value: how it is parsed without loss, what a column makes of it, and how it is written again."""

from __future__ import annotations

import json
import re
import sys
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

import msgspec
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator

UTC: Final = timezone.utc
MAX_DIGITS: Final = 4300  # Python, and so most targets, refuse to read a longer integer: it is kept as its text


# -------------------------------------------------------------------------------------------------------- JSON


class Number(Decimal):
    """A number that is written as it came: ``1e5`` stays ``1e5``, ``1.50`` stays ``1.50``."""

    def __init__(self, text: str) -> None:
        self.text = text

    @override
    def __str__(self) -> str:
        return self.text


def _number(text: str) -> Any:  # noqa: ANN401
    if text.removeprefix("-").isdigit():
        return int(text) if len(text) <= MAX_DIGITS else text
    try:
        return Number(text)
    except InvalidOperation:  # an exponent that no number type can hold
        return text


def _other(value: Any) -> Any:  # noqa: ANN401
    """Write a number as it came, and as text what a stream map made and JSON has not."""
    return msgspec.Raw(str(value).encode()) if isinstance(value, Number) else str(value)


def decoder(kind: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401
    """Return a decoder of JSON into this type, for numbers as they come."""
    return msgspec.json.Decoder(kind, float_hook=_number)


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_other, decimal_format="number")
encode, encode_lines = _ENCODER.encode, _ENCODER.encode_lines
# Equal objects are equal bytes, whatever the order of their keys.
encode_row: Final = msgspec.json.Encoder(enc_hook=_other, decimal_format="number", order="deterministic").encode
decode: Final = decoder(Any).decode
# ``int`` raises ValueError for NaN and Infinity, which are not JSON.
_LENIENT: Final = json.JSONDecoder(parse_float=_number, parse_int=_number, parse_constant=int, strict=False)


def parse_json(raw: bytes) -> Any:  # noqa: ANN401
    """Parse JSON as leniently as can be: byte order marks, UTF-16, broken UTF-8, control characters, any number.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested deeper than Python's parser goes (some 1,000 levels).
    """
    return _LENIENT.decode(raw.decode(json.detect_encoding(raw), "replace"))


def is_unicode(raw: bytes) -> bool:
    """True if JSON is valid UTF-8, or the UTF-16 or UTF-32 that it looks like."""
    try:
        raw.decode(json.detect_encoding(raw))
    except UnicodeDecodeError:
        return False
    return True


def repair(raw: bytes) -> bytes:
    r"""Return JSON that :data:`decode` and every target can read.

    Bytes that are not UTF-8 and lone surrogates become U+FFFD, ``\u0000`` is removed. Raises what :func:`parse_json`
    raises.
    """
    value = parse_json(raw)
    with deep_recursion():
        return encode(_clean(value))


def _clean(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if not isinstance(value, dict):
        return value
    result: dict[str, Any] = {}
    for key, item in value.items():
        add_key(result, clean_text(key), _clean(item))
    return result


def compact(raw: bytes) -> bytes:
    """Return JSON in one line, as a message needs it that repeats a part of it."""
    raw = raw.strip()
    return msgspec.json.format(raw, indent=-1) if b"\n" in raw or b"\r" in raw else raw


def add_key(target: dict[str, Any], key: str, value: Any) -> None:  # noqa: ANN401
    """Add a key to an object; if it has this key already, the new one gets an underscore."""
    while key in target:
        key += "_"
    target[key] = value


def clean_text(text: str) -> str:
    """Return text that UTF-8 and PostgreSQL can carry: U+0000 removed, lone surrogates as U+FFFD."""
    return text.replace("\x00", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Let Python go as deep as its JSON parser went."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 50_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def json_type(value: Any) -> str:  # noqa: ANN401
    """Name a JSON value's type for an error line; never the value."""
    names = {NoneType: "null", bool: "a boolean", str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), "a number")


# ----------------------------------------------------------------------------------------------------- columns


MISFIT: Final = object()  # stands for a value that its column cannot hold


def to_text(value: Any) -> Any:  # noqa: ANN401
    """Return what a text column holds: the text, a number's JSON text, ``None``, or :data:`MISFIT`."""
    if value is None or isinstance(value, str):
        return value
    return str(value) if isinstance(value, (int, Decimal)) and not isinstance(value, bool) else MISFIT


def to_flag(value: Any) -> Any:  # noqa: ANN401
    """Return what a boolean column holds, or :data:`MISFIT`."""
    return value if value is None or isinstance(value, bool) else MISFIT


def to_time(value: Any) -> Any:  # noqa: ANN401
    """Return what a time column holds, a datetime in UTC, or :data:`MISFIT`.

    An offset is applied, a missing zone is read as UTC, a date alone as midnight.
    """
    if not isinstance(value, str):
        return None if value is None else MISFIT
    text = value.strip()
    if len(text) == len("2025-06-30"):
        text += "T00:00"
    if text[16:17] != ":":  # it has no seconds
        text = f"{text[:16]}:00{text[16:]}"
    if text[-3:-2] in {"+", "-"}:  # as PostgreSQL writes an offset
        text += ":00"
    for spelling in (text, _LONG_FRACTION.sub(r"\1", text)):  # the last moment of 9999 cannot be rounded
        with suppress(msgspec.ValidationError, OverflowError):  # no such day or hour; a year outside 1-9999
            return to_utc(msgspec.convert(spelling, datetime))
    return MISFIT


def to_utc(time: datetime) -> datetime:
    """Return a time in UTC; one without a zone is. OverflowError: its year is then 0 or 10000."""
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


_LONG_FRACTION: Final = re.compile(r"(\.\d{6})\d+")
