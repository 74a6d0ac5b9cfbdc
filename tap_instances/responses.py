"""What a response, or a network exception, means: a snapshot, a list of businesses, or a failure to act on.

:func:`read_connected` and :func:`read_listed` take a response, :func:`network_failure` an exception in place of one.
The outcome is a :class:`Snapshot`, :class:`ListedBusiness` items, or a :class:`TryError`; none of them holds a
response, a header or a body.
"""

from __future__ import annotations

import codecs
import json
import re
import ssl
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from email.utils import mktime_tz, parsedate_tz
from http import HTTPStatus
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec
import requests
import urllib3

from tap_instances.businesses import ListedBusiness
from tap_instances.redact import MASK, is_secret_name, scrub, spellings
from tap_instances.values import decode, encode, json_type, parse_json, repair

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

TRANSIENT: Final = frozenset({408, 429, *range(500, 600)})  # worth a retry
MAX_RETRY_AFTER: Final = 300.0  # seconds; a longer wait is the scheduler's business
MAX_MESSAGE: Final = 500  # characters of the API's own message in an error
CHECK_URL: Final = "check api_url: it must be CodeChat's base URL, without /api/v2"
REACH: Final = "see that the server is up and that this machine can reach it"
OPERATOR: Final = "ask the server's operator"
GATEWAY: Final = "a gateway in front of the server may want headers"
SAY_HTTPS: Final = "change http to https in api_url"
MAYBE_HTTPS: Final = "if this port has TLS, change http to https in api_url"
MAYBE_HTTP: Final = "if this port has no TLS, change https to http in api_url"
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
# Network exceptions -> what they mean; the first that fits. Without words: the operating system's.
NETWORK_ERRORS: Final[tuple[tuple[tuple[type[BaseException], ...], str], ...]] = (
    ((urllib3.exceptions.NameResolutionError,), "the host name has no address"),
    ((urllib3.exceptions.NewConnectionError,), ""),  # derives from ConnectTimeoutError without being one
    ((requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError), "no connection within {} s (request_timeout)"),
    ((requests.ReadTimeout, TimeoutError, urllib3.exceptions.ReadTimeoutError), "no byte for {} s (request_timeout)"),
    (
        (requests.exceptions.ContentDecodingError, urllib3.exceptions.DecodeError),
        "the response's compression is broken",
    ),
    ((RemoteDisconnected,), "the server closed the connection without a response"),
    ((ConnectionError,), ""),
    ((IncompleteRead, urllib3.exceptions.IncompleteRead), "the response was cut short"),
    ((HTTPException,), "the response is not HTTP"),
    ((urllib3.exceptions.ProtocolError,), "the response was cut short"),
)
# What servers say to plain HTTP on a TLS port: nginx, Apache, Go (Caddy, Traefik), Tomcat.
WANTS_TLS: Final = re.compile(
    rb"HTTP request (was sent )?to (an )?HTTPS|SSL-enabled server port|host and port requires TLS"
)
MESSAGE_KEYS: Final = ("message", "messages", "errors", "detail", "response", "title", "error")
# Keys, in lower case without "-" and "_", by which servers tell that a list comes in pages.
NEXT_KEYS: Final = frozenset(
    {"next", "nextpage", "nextpageurl", "nexturl", "nextlink", "nextcursor", "nextpagetoken", "nexttoken"}
    | {"hasnext", "hasnextpage", "hasmore", "hasmorepages", "more"}
)
PAGES_KEYS: Final = frozenset({"totalpages", "pages", "pagecount", "pagestotal", "numpages", "lastpage"})
TOTAL_KEYS: Final = frozenset({"total", "totalrecords", "totalitems", "totalcount", "totalelements"})
SIZE_KEYS: Final = frozenset({"limit", "perpage", "pagesize", "itemsperpage"})
LAST_KEYS: Final = frozenset({"last", "islast", "islastpage"})
PAGING_KEYS: Final = frozenset({"pagination", "paging", "meta", "metadata", "page", "pages", "pageinfo", "links"})


@dataclass(slots=True)
class Snapshot:
    """One complete response.

    ``body`` is the top-level object without ``Instances``; ``instances`` are the list's items, each as raw JSON;
    ``observed_at`` (UTC) is when the response was complete; ``not_utf8`` if bytes were replaced by U+FFFD; ``seconds``
    is how long it took, retries and waits included.
    """

    body: dict[str, Any]
    instances: Sequence[msgspec.Raw]
    observed_at: datetime
    not_utf8: bool = False
    seconds: float = 0.0


class TryError(Exception):
    """Why one request failed, what to do about it, and the API's own message.

    ``transient`` if it can pass by itself; ``retry`` if this run should try again, after ``retry_after`` seconds or,
    where that is ``None``, after a wait of the caller's choice.
    """

    def __init__(
        self, reason: str, advice: str, message: str = "", *, transient: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason, self.advice, self.message = reason, advice, message
        self.transient, self.retry_after = transient, retry_after
        self.retry = transient
        if retry_after is not None and retry_after > MAX_RETRY_AFTER:
            self.retry = False
            self.advice = f"the server asks to wait {retry_after:.0f} s, run again after that"

    def add_redirect(self, urls: Sequence[str]) -> None:
        """Say where the last of the requested URLs is, if that is not the configured server."""
        if urls and (target := origin(urls[-1])) != origin(urls[0]):
            self.advice += " (redirected to {}://{}:{}, which does not get the token: set api_url)".format(*target)

    def line(self, tries: int, *secrets: str) -> str:
        """Return the failure as one line without these secrets, which the server may have echoed."""
        hidden = spellings(secrets)
        reason = f"{self.reason} ({tries} {'try' if tries == 1 else 'tries'})" if self.transient else self.reason
        message = scrub(self.message, hidden)  # before it is cut: half a token is half a secret
        message = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} …"
        return scrub(f"{reason}: {self.advice}", hidden) + (f". The API says: {message}" if message else "")


def origin(url: str | None) -> tuple[str, str | None, int | None]:
    """Return a URL's scheme, host and port."""
    parts = urlsplit(url or "")
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


# ------------------------------------------------------------------------------------------------------ no response


def network_failure(error: Exception, timeout: int, api_url: str, *, responded: bool) -> TryError:
    """Translate a network exception into a :class:`TryError`.

    ``timeout`` is in seconds; ``responded`` if a response's head had arrived, of a redirect perhaps.
    """
    chain = list(_causes(error))
    if isinstance(error, requests.TooManyRedirects):
        return TryError("redirected too often", CHECK_URL)
    if isinstance(error, (ValueError, TypeError)) or isinstance(chain[-1], UnicodeError):
        if responded:
            return TryError("redirected to something other than http(s)", CHECK_URL)
        return TryError("not an http(s) address", "check api_url, HTTP_PROXY and HTTPS_PROXY")
    if failure := _tls_failure(error, chain):
        return failure
    words = next((words for kinds, words in NETWORK_ERRORS if any(isinstance(cause, kinds) for cause in chain)), "")
    if not (reason := words.format(timeout)):
        system = [c for c in chain if isinstance(c, OSError) and not isinstance(c, requests.RequestException)]
        reasons = [cause.strerror or str(cause) for cause in system]
        reason = f"the connection failed ({_one_line(reasons[-1]) if reasons else type(chain[-1]).__name__})"
    advice = REACH
    if _is_at_proxy(chain):
        reason, advice = f"{reason}, at the proxy", "check HTTP_PROXY and HTTPS_PROXY, or name the server in NO_PROXY"
    elif not responded and any(map(_may_be_wrong_scheme, chain)):
        advice += "; " + (MAYBE_HTTP if api_url.startswith("https:") else MAYBE_HTTPS)
    return TryError(reason, advice, transient=True)


def _is_at_proxy(chain: list[BaseException]) -> bool:
    return any(isinstance(cause, urllib3.exceptions.ProxyError) for cause in chain)


def _may_be_wrong_scheme(error: BaseException) -> bool:
    """Return whether this is how HTTP on a TLS port, or TLS on an HTTP port, can end."""
    kinds = (ssl.SSLError, HTTPException, ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
    return isinstance(error, kinds) or (isinstance(error, TimeoutError) and "handshake" in str(error))


def _tls_failure(error: Exception, chain: list[BaseException]) -> TryError | None:
    tls = next((cause for cause in chain if isinstance(cause, ssl.SSLError)), None)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return TryError(
            f"the server's certificate does not verify ({tls.verify_message})",
            "name your own CA's file in REQUESTS_CA_BUNDLE (or SSL_CERT_FILE), or correct api_url",
        )
    if (tls and tls.library in {"X509", "PEM"}) or "TLS CA certificate bundle" in str(error):  # requests' words
        return TryError("no CA certificates", "let REQUESTS_CA_BUNDLE or SSL_CERT_FILE name an existing PEM file")
    if tls and tls.reason == "WRONG_VERSION_NUMBER" and not _is_at_proxy(chain):  # it answered without TLS
        return TryError("the server does not speak TLS on this port", "change https to http in api_url")
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what is wrapped in it (requests and urllib3 keep it in several places)."""
    seen: set[int] = set()
    queue: deque[Any] = deque([error])
    while queue:
        cause = queue.popleft()
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            queue += [*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__]


# ------------------------------------------------------------------------------------------------------- a response


def read_connected(response: requests.Response, body: bytearray, observed_at: datetime) -> Snapshot:
    """Return the snapshot in a response that was complete at that time (UTC).

    Raises:
        TryError: its status, its headers or its body mean something else.
    """
    _check(response, body, observed_at, ADVICE)
    with _naming_encoding(response):
        return read_snapshot(body, observed_at)


def read_listed(response: requests.Response, body: bytearray, observed_at: datetime) -> list[ListedBusiness]:
    """Return the server's list of businesses, in its order.

    Raises:
        TryError: its status, its headers or its body mean something else.
    """
    _check(response, body, observed_at, LIST_ADVICE)
    with _naming_encoding(response), _parsing(body):
        value = parse_json(bytes(body))
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        what = "an array of other things" if isinstance(value, list) else json_type(value)
        message = _message(value) if isinstance(value, dict) else ""
        reason = f"the response is {what}, not an array of businesses"
        raise TryError(reason, "check api_url, or use businesses instead of admin_token", message)
    return [
        ListedBusiness(item.get("businessId"), item.get("businessToken"), item.get("deletedAt") is not None)
        for item in value
    ]


def read_snapshot(body: bytearray, observed_at: datetime) -> Snapshot:
    """Return the snapshot in the body of a 200.

    Raises:
        TryError: it is not JSON, which can pass, or JSON of another shape, or a part of a list.
    """
    not_utf8 = False
    with _parsing(body):
        try:
            top, instances = _split(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            not_utf8 = not _is_unicode(body)
            top, instances = _split(repair(body))
    if not isinstance(top, dict):
        raise TryError(f"the response is {json_type(top)}, not an object with Instances", CHECK_URL)
    if instances is None:
        what = json_type(top["Instances"]) if "Instances" in top else "missing"
        reason = f"Instances is {what} in the response, which is not taken for 'nothing is connected'"
        raise TryError(reason, CHECK_URL, _message(top))
    if key := _next_page(top):
        raise _not_whole(f"its {key} tells of more pages")
    return Snapshot(top, instances, observed_at, not_utf8)


def _check(response: requests.Response, body: bytearray, observed_at: datetime, advice: Mapping[int, str]) -> None:
    """Raise a :class:`TryError` unless this is a successful response with a whole list."""
    status = response.status_code
    if status == HTTPStatus.PARTIAL_CONTENT:
        raise _not_whole("its status is 206 Partial Content")
    if 200 <= status < 300:  # noqa: PLR2004
        if _links_to_next(response.headers.get("Link", "")):
            raise _not_whole("its Link header names a next page")
        return
    reason, message = f"{status} {_phrase(status)}", _error_message(body)
    if status in TRANSIENT:
        wait = _retry_after(response.headers.get("Retry-After", "").strip(), observed_at)
        raise TryError(reason, REACH, message, transient=True, retry_after=wait)
    if WANTS_TLS.search(body):
        raise TryError(reason, SAY_HTTPS, message)
    action = advice.get(status, CHECK_URL)
    if _is_page(body):
        action = f"{action if status in {401, 403, 407} else CHECK_URL} (a web page answered)"
        if status in {401, 403}:
            action += ": a gateway or proxy may have refused the request, not CodeChat"
    raise TryError(reason, action, message)


@contextmanager
def _parsing(body: bytearray) -> Iterator[None]:
    """Translate what JSON parsers raise into a :class:`TryError`."""
    try:
        yield
    except RecursionError as error:
        raise TryError("the response is nested deeper than some 1,000 levels", OPERATOR) from error
    except ValueError as error:
        if _is_page(body):
            raise TryError("the response is a web page, not JSON", CHECK_URL, transient=True) from error
        what = "not JSON" if body.strip() else "empty"
        raise TryError(f"the response is {what}", f"if it stays so, {OPERATOR}", transient=True) from error


# ---------------------------------------------------------------------------------------------------------- encoding


def unreadable_encoding(response: requests.Response) -> str:
    """Return the response's content codings that cannot be decoded here, ``br`` for example; usually none."""
    codings = {coding.strip().lower() for coding in response.headers.get("Content-Encoding", "").split(",")}
    known = {"", "identity", *urllib3.response.BaseHTTPResponse.CONTENT_DECODERS}
    return _one_line(", ".join(sorted(codings - known)))[:40]


@contextmanager
def _naming_encoding(response: requests.Response) -> Iterator[None]:
    """Name an encoding that cannot be decoded as the reason of a failure (a body may be readable in spite of it)."""
    try:
        yield
    except TryError as failure:
        if encoding := unreadable_encoding(response):
            advice = "let the server, or the proxy in front of it, send gzip or no encoding: the tap asks for that"
            raise TryError(f"the response has Content-Encoding {encoding}, which is not supported", advice) from failure
        raise


def _is_unicode(body: bytearray) -> bool:
    """Return whether the body's bytes are valid UTF-8 (or the UTF-16 or UTF-32 that they look like)."""
    if body.isascii():
        return True
    decoder = codecs.getincrementaldecoder(json.detect_encoding(bytes(body[:4])))()
    try:
        for start in range(0, len(body), 1 << 16):  # in pieces: the whole text may need four times the memory
            decoder.decode(body[start : start + (1 << 16)])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _split(body: bytes | bytearray) -> tuple[Any, list[msgspec.Raw] | None]:
    """Return a body's JSON value and the items of its ``Instances``, unparsed; ``None`` if that is not a list."""
    try:
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return decode(body), None
    listed = members.pop("Instances", None)
    rest = encode(members)
    top = decode(repair(rest) if b"\\u0000" in rest else rest)
    if listed is None:
        return top, None
    if bytes(memoryview(listed)[:1]) == b"[":
        return top, msgspec.json.decode(listed, type=list[msgspec.Raw])
    top["Instances"] = decode(listed)
    return top, None


# ------------------------------------------------------------------------------------------------------ partial lists


def _not_whole(how: str) -> TryError:
    return TryError(f"the list in the response is not whole: {how}", f"{OPERATOR}: it must come in one response")


# The parameters of a Link header, quoted or not.
_PARAMETER: Final = re.compile(r"""[;,]\s*([^\s=;,<"']+)\s*=\s*("(?:[^"\\]|\\.)*"|'[^']*'|[^\s;,]*)""")


def _links_to_next(header: str) -> bool:
    """Return whether a ``Link`` header has a link with the relation ``next``."""
    parameters = _PARAMETER.findall(re.sub(r"<[^>]*>", "", header))
    return any(name.lower() == "rel" and "next" in value.strip("\"'").lower().split() for name, value in parameters)


def _next_page(top: dict[str, Any], path: str = "") -> str:
    """Return the path of the key that tells of more pages than this one, or an empty string."""
    sizes = [_number(value) for key, value in top.items() if _fold(key) in SIZE_KEYS]
    for key, value in top.items():
        name = _fold(key)
        if isinstance(value, dict) and name in PAGING_KEYS:
            if found := _next_page(value, f"{path}{key}."):
                return found
        elif (
            (name in NEXT_KEYS and _is_given(value))
            or (name in PAGES_KEYS and _number(value) > 1)
            or (name in LAST_KEYS and value is False)
            or (name in TOTAL_KEYS and any(0 < size < _number(value) for size in sizes))
        ):
            return f"{path}{key}"
    return ""


def _fold(key: str) -> str:
    return key.lower().replace("-", "").replace("_", "")


def _is_given(value: Any) -> bool:  # noqa: ANN401
    """Return whether a key such as ``nextPage`` or ``hasMore`` says yes."""
    if isinstance(value, dict):
        return any(map(_is_given, value.values()))
    return bool(value) and str(value).strip().lower() not in {"", "0", "false", "null", "none"}


def _number(value: Any) -> Decimal:  # noqa: ANN401
    """Return a number, or the number that a text spells; 0 for anything else."""
    if isinstance(value, (int, Decimal)) or (isinstance(value, str) and value.strip().isdecimal()):
        return Decimal(value)
    return Decimal()


# ----------------------------------------------------------------------------------------------- the API's own message


def _phrase(status: int) -> str:
    with suppress(ValueError):
        return HTTPStatus(status).phrase
    return "(no standard status)"


def _is_page(body: bytearray) -> bool:
    return body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _error_message(body: bytearray) -> str:
    """Return the API's own message in an error response, as one line."""
    with suppress(RecursionError):
        try:
            value = parse_json(bytes(body))
        except ValueError:
            text = body.decode("utf-8", "replace").strip()
            return text if text.isprintable() and not text.startswith(("<", "{", "[")) else ""
        if isinstance(value, str):
            return _one_line(value)
        items = value if isinstance(value, list) else [value]
        return "; ".join(filter(None, map(_message, items)))
    return ""


def _message(value: Any) -> str:  # noqa: ANN401
    """Return the message in an API's JSON object, as one line: the first of the usual keys that says something."""
    if not isinstance(value, dict):
        return ""
    with suppress(RecursionError):
        for key in MESSAGE_KEYS:
            part = value.get(key)
            text = _message(part) if key == "response" and isinstance(part, dict) else _words(part, "; ")
            if line := _one_line(text):
                return line
    return ""


def _words(part: Any, separator: str = ", ") -> str:  # noqa: ANN401
    if part is None or isinstance(part, bool):
        return ""
    if isinstance(part, dict):
        words = {key: MASK if is_secret_name(key) else _words(value) for key, value in part.items()}
        return ", ".join(f"{key}: {text}" for key, text in words.items() if text)
    return separator.join(filter(None, map(_words, part))) if isinstance(part, list) else str(part)


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _retry_after(value: str, now: datetime) -> float | None:
    """Return the seconds that ``Retry-After`` names, as a number or as a date; ``None`` without a readable one."""
    if value.isascii() and value.isdigit():
        return float(value)
    with suppress(ValueError, OverflowError):
        return max(0.0, mktime_tz(date) - now.timestamp()) if (date := parsedate_tz(value)) else None
    return None
