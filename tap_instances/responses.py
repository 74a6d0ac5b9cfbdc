"""What a response means: a snapshot, a list of businesses, or a failure to act on.

The outcome of :func:`read_connected` and :func:`read_listed` is a :class:`Snapshot`, the list's items, or a
:class:`tap_instances.failures.SnapshotError`; none of them holds a response, a header or a body.
"""

from __future__ import annotations

import http.client
import re
from codecs import BOM_UTF8
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import Raw
from urllib3.exceptions import InvalidHeader
from urllib3.response import HTTPResponse
from urllib3.util import Retry

from tap_instances.failures import CHECK_URL, REACH, SnapshotError, one_line
from tap_instances.paging import links_to_next, next_page_key
from tap_instances.redact import MASK, is_secret_name, scrub
from tap_instances.values import decode, encode, is_unicode, json_type, parse_json, repair

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import requests

    from tap_instances.body import Body

    T = TypeVar("T")

TRANSIENT: Final = frozenset({408, 429, *range(500, 600)})  # worth a retry
MAX_RETRY_AFTER: Final = 300.0  # seconds; a longer wait is the scheduler's business
OPERATOR: Final = "ask the server's operator"
TOO_DEEP: Final = "the response is nested deeper than some 1,000 levels"
GATEWAY: Final = "a gateway in front of the server may want headers"
ADVICE: Final = {
    400: "check its business_id: the API does not accept it",
    401: f"check auth_token: it is wrong, expired, or another business's ({GATEWAY})",
    403: f"check auth_token: it may not read this business ({GATEWAY})",
    404: "check api_url (the server's base URL, without /api/v2) and business_id",
    407: "put the proxy's user and password into HTTP_PROXY or HTTPS_PROXY",
}
LIST_ADVICE: Final = {
    401: f"check admin_token: it is wrong or expired ({GATEWAY})",
    403: f"check admin_token: it may not list businesses ({GATEWAY})",
    404: "this server has no such list: use businesses, with an auth_token each (or check api_url)",
    407: ADVICE[407],
}
# What servers say to plain HTTP on a TLS port: nginx, Apache, Go (Caddy, Traefik), Tomcat.
WANTS_TLS: Final = re.compile(rb"HTTP request .{0,20}HTTPS|SSL-enabled server port|host and port requires TLS")
MESSAGE_KEYS: Final = ("message", "messages", "errors", "detail", "response", "title", "error")


@dataclass(slots=True)
class Snapshot:
    """One complete response."""

    top: dict[str, Any]  # the top-level object without ``Instances``
    instances: Sequence[Raw]  # the list's items
    body: Body  # whose parts they are
    observed_at: datetime  # in UTC: when the response was complete
    not_utf8: bool = False  # bytes were replaced by U+FFFD
    seconds: float = 0.0  # how long it took, retries and waits included


def read_connected(response: requests.Response, body: Body) -> Snapshot:
    """Return the snapshot in a response that is complete just now, or raise a :class:`SnapshotError`."""
    observed_at = datetime.now(timezone.utc)
    _check(response, body, ADVICE)
    top, instances, not_utf8 = _parse(response, body, _read_top)
    if not isinstance(top, dict):
        raise SnapshotError(f"the response is {json_type(top)}, not an object with Instances", CHECK_URL)
    if instances is None:
        what = json_type(top["Instances"]) if "Instances" in top else "missing"
        reason = f"Instances is {what} in the response, which is not taken for 'nothing is connected'"
        raise SnapshotError(reason, CHECK_URL, _said(top))
    if key := _parse(response, body, lambda _: next_page_key(top)):  # it may be nested too deep for that
        raise _not_whole(f"its {key} tells of more pages")
    return Snapshot(top, instances, body, observed_at, not_utf8)


def read_listed(response: requests.Response, body: Body) -> list[dict[str, Any]]:
    """Return the items of the server's list of businesses, or raise a :class:`SnapshotError`."""
    _check(response, body, LIST_ADVICE)
    value = _parse(response, body, lambda body: parse_json(bytes(body)))
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return value
    what = "an array of other things" if isinstance(value, list) else json_type(value)
    reason = f"the response is {what}, not an array of businesses"
    raise SnapshotError(reason, "check api_url, or use businesses instead of admin_token", _said(value))


def _parse(response: requests.Response, body: Body, parse: Callable[[Body], T]) -> T:
    """Return what ``parse`` makes of a body, or raise a :class:`SnapshotError`."""
    try:
        return parse(body)
    except RecursionError as error:
        raise SnapshotError(TOO_DEEP, OPERATOR) from error
    except ValueError as error:
        codings = {coding.strip().lower() for coding in response.headers.get("Content-Encoding", "").split(",")}
        if unknown := codings - {"", "identity", *HTTPResponse.CONTENT_DECODERS}:
            reason = f"the response has Content-Encoding {scrub(one_line(min(unknown)))[:40]}, which is not supported"
            advice = "let the server, or the proxy in front of it, send gzip or no encoding: the tap asks for that"
            raise SnapshotError(reason, advice) from error
        if _is_page(body):
            raise SnapshotError("the response is a web page, not JSON", CHECK_URL, transient=True) from error
        what = "not JSON" if bytes(body).strip() else "empty"
        raise SnapshotError(f"the response is {what}", f"if it stays so, {OPERATOR}", transient=True) from error


def _read_top(body: Body) -> tuple[Any, list[Raw] | None, bool]:
    """Return what :func:`_split` does, of a repaired body if need be, and whether bytes were not UTF-8."""
    start = len(BOM_UTF8)
    text = body.view[start:] if bytes(body.view[:start]) == BOM_UTF8 else body.view
    try:
        return *_split(text), False
    except (msgspec.DecodeError, UnicodeDecodeError):
        raw = bytes(body)
        return *_split(repair(raw)), not is_unicode(raw)


class _Documented(msgspec.Struct, forbid_unknown_fields=True):
    """A body with the keys of the documentation and no others: it is split in one pass."""

    Instances: list[Raw]
    businessId: Raw = Raw(b"null")  # noqa: N815
    name: Raw = Raw(b"null")


def _split(body: bytes | memoryview) -> tuple[Any, list[Raw] | None]:
    """Return a body's JSON value without ``Instances``, and their items, unparsed; all of it if they are no list."""
    rest: dict[str, Any]
    try:
        rest = msgspec.structs.asdict(msgspec.json.decode(body, type=_Documented))
        instances = rest.pop("Instances")
    except msgspec.ValidationError:
        try:
            rest = msgspec.json.decode(body, type=dict[str, Raw])
            instances = msgspec.json.decode(rest.pop("Instances"), type=list[Raw])
        except (msgspec.ValidationError, KeyError):
            return decode(body), None
    encoded = encode(rest)
    return decode(repair(encoded) if b"\\u0000" in encoded else encoded), instances


def _not_whole(how: str) -> SnapshotError:
    return SnapshotError(f"the list in the response is not whole: {how}", f"{OPERATOR}: it must come in one response")


# ------------------------------------------------------------------------------------------------- what went wrong


def _check(response: requests.Response, body: Body, advice: Mapping[int, str]) -> None:
    """Raise a :class:`SnapshotError` unless this is a successful response with a whole list."""
    status = response.status_code
    if status == http.client.PARTIAL_CONTENT:
        raise _not_whole("its status is 206 Partial Content")
    if http.client.OK <= status < http.client.MULTIPLE_CHOICES:
        if links_to_next(response.headers.get("Link", "")):
            raise _not_whole("its Link header names a next page")
        return
    reason = f"{status} {http.client.responses.get(status, '(no standard status)')}"
    message = _message(body)
    if status in TRANSIENT:
        wait = _retry_after(response.headers.get("Retry-After", "").strip())
        action = f"the server asks to wait {wait:.0f} s, run again after that" if wait > MAX_RETRY_AFTER else REACH
        raise SnapshotError(reason, action, message, transient=True, wait=wait)
    if WANTS_TLS.search(body.view):
        raise SnapshotError(reason, "change http to https in api_url", message)
    action = advice.get(status, CHECK_URL)
    if _is_page(body):
        action = f"{action if status in {401, 403, 407} else CHECK_URL} (a web page answered)"
        if status in {401, 403}:
            action += ": a gateway or proxy may have refused the request, not CodeChat"
    raise SnapshotError(reason, action, message)


def _is_page(body: Body) -> bool:
    return bytes(body.view[:1024]).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _retry_after(value: str) -> float:
    """Return the seconds that ``Retry-After`` names, as a number or as a date; 0 if it cannot be read."""
    with suppress(InvalidHeader, ValueError, OverflowError):
        return float(min(Retry().parse_retry_after(value), 21_600))  # as newer versions of urllib3 have it
    return 0.0


def _message(body: Body) -> str:
    """Return the API's own message in an error response, as one line."""
    raw = bytes(body)
    try:
        value = parse_json(raw)
        return one_line(value) if isinstance(value, str) else _said(value)
    except (ValueError, RecursionError):
        text = raw.decode("utf-8", "replace").strip()
        return text if text.isprintable() and not text.startswith(("<", "{", "[")) else ""


def _said(value: Any) -> str:  # noqa: ANN401
    """Return the message in an API's JSON body, as one line: the first of the usual keys that says something."""
    if isinstance(value, list):
        return "; ".join(filter(None, map(_said, value)))
    if not isinstance(value, dict):
        return ""
    with suppress(RecursionError):
        for key in MESSAGE_KEYS:
            part = value.get(key)
            text = _said(part) if key == "response" and isinstance(part, dict) else _words(part, "; ")
            if line := one_line(text):
                return line
    return ""


def _words(part: Any, separator: str = ", ") -> str:  # noqa: ANN401
    if part is None or isinstance(part, bool):
        return ""
    if isinstance(part, dict):
        words = {key: MASK if is_secret_name(key) else _words(value) for key, value in part.items()}
        return ", ".join(f"{key}: {text}" for key, text in words.items() if text)
    return separator.join(filter(None, map(_words, part))) if isinstance(part, list) else str(part)
