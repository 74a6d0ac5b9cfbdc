"""What came back of a request, and what it means: a whole snapshot, or a failure in words that a person can act on.

:func:`judge` takes an answer, :func:`network_failure` an exception in place of one. What leaves is a :class:`Snapshot`
or a :class:`TryError`; neither holds a response, a header or a body.
"""

from __future__ import annotations

import ssl
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from http import HTTPStatus
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec
import requests
import urllib3

from tap_instances.redact import MASK, is_secret_name, scrub, spellings
from tap_instances.typed import looks_odd
from tap_instances.values import json_type, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

PASSING: Final = frozenset({408, 429, *range(500, 600)})  # worth another try
MAX_RETRY_AFTER: Final = 300.0  # seconds; a longer wait is the scheduler's business
MAX_MESSAGE: Final = 500  # characters of the API's own words in an error
CHECK_URL: Final = "check api_url: it must be CodeChat's base URL, without /api/v2"
REACH: Final = "see that the server is up and that this machine can reach it"
OPERATOR: Final = "ask the server's operator"
ADVICE: Final = {
    400: "check its business_id: the API does not take it",
    401: "check auth_token: it is wrong, expired, or another business's",
    403: "check auth_token: it may not read this business",
    404: "check api_url (the server's base URL, without /api/v2) and business_id",
    407: "put the proxy's user and password into HTTP_PROXY or HTTPS_PROXY",
}
# What was met -> what to say of it; the first that fits. Without words: the operating system's.
TROUBLES: Final[tuple[tuple[tuple[type[BaseException], ...], str], ...]] = (
    ((urllib3.exceptions.NameResolutionError,), "the host name has no address"),
    ((urllib3.exceptions.NewConnectionError,), ""),  # a ConnectTimeoutError by descent only
    ((requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError), "no connection within {} s (request_timeout)"),
    ((requests.ReadTimeout, TimeoutError, urllib3.exceptions.ReadTimeoutError), "no byte for {} s (request_timeout)"),
    ((requests.exceptions.ContentDecodingError, urllib3.exceptions.DecodeError), "the answer's compression is broken"),
    ((RemoteDisconnected,), "the server closed the connection without an answer"),
    ((ConnectionError,), ""),
    ((IncompleteRead, urllib3.exceptions.IncompleteRead), "the answer was cut short"),
    ((HTTPException,), "what answers does not speak HTTP"),
    ((urllib3.exceptions.ProtocolError,), "the answer was cut short"),
)


@dataclass(slots=True)
class Snapshot:
    """One complete answer.

    ``body`` is the top-level object without ``Instances``; ``instances`` are the list's items, each as raw JSON or,
    where msgspec cannot read the body, as Python objects; ``odd`` if a raw item may hold what types cannot see;
    ``observed_at`` (UTC) is when the answer was complete; ``seconds`` is how long it took, tries and waits included.
    """

    body: dict[str, Any]
    instances: Sequence[Any]
    odd: bool
    observed_at: datetime
    seconds: float = 0.0


class TryError(Exception):
    """Why a try failed, what to do, what the API says of it; whether another try may mend it, and after how long."""

    def __init__(
        self, why: str, advice: str, said: str = "", *, passing: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(why)
        self.why, self.advice, self.said = why, advice, said
        self.passing, self.retry_after = passing, retry_after
        self.again = passing  # whether this run should try again
        if retry_after is not None and retry_after > MAX_RETRY_AFTER:
            self.again = False
            self.advice = f"the server asks to wait {retry_after:.0f} s, run again after that"

    def redirected(self, urls: Sequence[str]) -> None:
        """Say where the request went in the end, if that is not the server that was asked."""
        if urls and (there := origin(urls[-1])) != origin(urls[0]):
            self.advice += " (redirected to {}://{}:{}, which does not get the token: set api_url)".format(*there)

    def line(self, tries: int, token: str) -> str:
        """Return it as one line for a person; a server may have echoed the token."""
        secrets = spellings([token])
        why = f"{self.why} ({tries} {'try' if tries == 1 else 'tries'})" if self.passing else self.why
        said = scrub(self.said, secrets)  # before it is cut: half a token is half a secret
        said = said if len(said) <= MAX_MESSAGE else f"{said[:MAX_MESSAGE]} …"
        return scrub(f"{why}: {self.advice}", secrets) + (f". The API says: {said}" if said else "")


def origin(url: str | None) -> tuple[str, str | None, int | None]:
    """Return a URL's scheme, host and port: who gets what is sent there."""
    parts = urlsplit(url or "")
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


# ------------------------------------------------------------------------------------------------------ no answer


def network_failure(error: Exception, timeout: int, *, redirected: bool) -> TryError:
    """Return what it means that no whole answer came; ``timeout`` is in seconds."""
    chain = list(_causes(error))
    if isinstance(error, requests.TooManyRedirects):
        return TryError("redirected too often", CHECK_URL)
    if isinstance(error, (ValueError, TypeError)) or isinstance(chain[-1], UnicodeError):
        if redirected:
            return TryError("redirected to what is no http or https address", CHECK_URL)
        return TryError("no http or https address", "check api_url, HTTP_PROXY and HTTPS_PROXY")
    if certificate := _certificate_failure(error, chain):
        return certificate
    words = next((words for kinds, words in TROUBLES if any(isinstance(cause, kinds) for cause in chain)), "")
    if not (why := words.format(timeout)):
        system = [c for c in chain if isinstance(c, OSError) and not isinstance(c, requests.RequestException)]
        reasons = [cause.strerror or str(cause) for cause in system]
        why = f"the connection failed ({_one_line(reasons[-1]) if reasons else type(chain[-1]).__name__})"
    if any(isinstance(cause, urllib3.exceptions.ProxyError) for cause in chain):
        advice = "check HTTP_PROXY and HTTPS_PROXY, or name the server in NO_PROXY"
        return TryError(f"{why}, at the proxy", advice, passing=True)
    return TryError(why, REACH, passing=True)


def _certificate_failure(error: Exception, chain: list[BaseException]) -> TryError | None:
    tls = next((cause for cause in chain if isinstance(cause, ssl.SSLError)), None)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return TryError(
            f"the server's certificate does not verify ({tls.verify_message})",
            "name your own CA's file in REQUESTS_CA_BUNDLE (or SSL_CERT_FILE), or correct api_url",
        )
    if (tls and tls.library in {"X509", "PEM"}) or "TLS CA certificate bundle" in str(error):  # requests' words
        return TryError("no CA certificates", "let REQUESTS_CA_BUNDLE or SSL_CERT_FILE name a PEM file that is there")
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


# ------------------------------------------------------------------------------------------------------ an answer


def judge(response: requests.Response, body: bytearray, observed_at: datetime) -> Snapshot:
    """Return the snapshot in an answer that was complete at that time (UTC).

    Raises:
        TryError: its status or its body means something else.
    """
    status = response.status_code
    if 200 <= status < 300:  # noqa: PLR2004
        return read_snapshot(body, observed_at)
    why, said = f"{status} {_phrase(status)}", _message(body)
    if status in PASSING:
        wait = _retry_after(response.headers.get("Retry-After", "").strip(), observed_at)
        raise TryError(why, REACH, said, passing=True, retry_after=wait)
    advice = ADVICE.get(status, CHECK_URL)
    if _is_page(body):
        advice = f"{advice if status in {401, 403, 407} else CHECK_URL} (a web page answered)"
    raise TryError(why, advice, said)


def read_snapshot(body: bytearray, observed_at: datetime) -> Snapshot:
    """Return the snapshot in the body of a 200.

    Raises:
        TryError: it is no JSON, which can pass, or JSON of another shape.
    """
    try:
        top, instances = _decode(body)
    except RecursionError as error:
        raise TryError("the answer is nested deeper than some 1,000 levels", OPERATOR) from error
    except ValueError as error:
        if _is_page(body):
            raise TryError("a web page came instead of JSON", CHECK_URL, passing=True) from error
        what = "no JSON" if body.strip() else "empty"
        raise TryError(f"the answer is {what}", f"if it stays so, {OPERATOR}", passing=True) from error
    if not isinstance(top, dict):
        raise TryError(f"the answer is {json_type(top)}, not an object with Instances", CHECK_URL)
    if not isinstance(instances, list):
        what = json_type(instances) if "Instances" in top else "missing"
        why = f"Instances is {what} in the answer, which is not taken for 'nothing is connected'"
        raise TryError(why, CHECK_URL, _error_text(top))
    top.pop("Instances", None)
    return Snapshot(top, instances, looks_odd(body), observed_at)


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """The documented body; ``Raw | None`` would refuse all but null."""

    Instances: list[msgspec.Raw]
    businessId: msgspec.Raw = msgspec.Raw(b"null")  # noqa: N815 (the API's name)
    name: msgspec.Raw = msgspec.Raw(b"null")


def _decode(body: bytearray) -> tuple[Any, Any]:
    """Return a body's JSON value and its ``Instances``, the items unparsed where msgspec can read the body."""
    with suppress(msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        exact = msgspec.json.decode(body, type=_Body)
        members = {"businessId": exact.businessId, "name": exact.name}
        return {name: parse_json(bytes(raw)) for name, raw in members.items()}, exact.Instances
    with suppress(msgspec.DecodeError, RecursionError, UnicodeDecodeError, KeyError):  # a key more at the top: twice
        every = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        items = msgspec.json.decode(every.pop("Instances"), type=list[msgspec.Raw])
        return {name: parse_json(bytes(raw)) for name, raw in every.items()}, items
    value = parse_json(bytes(body))
    return value, value.get("Instances") if isinstance(value, dict) else None


def _phrase(status: int) -> str:
    with suppress(ValueError):
        return HTTPStatus(status).phrase
    return "(no standard status)"


def _is_page(body: bytearray) -> bool:
    return body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _message(body: bytearray) -> str:
    """Return the API's own message in an error body, as one line."""
    with suppress(ValueError, RecursionError):
        value = parse_json(bytes(body))
        return _error_text(value) if isinstance(value, dict) else ""
    return ""


def _error_text(body: dict[str, Any]) -> str:
    """Return ``message`` (documented as an array or an object, in the wild also a string), or ``error``."""
    with suppress(RecursionError):
        return _one_line(_words(body.get("message") or body.get("error") or "", "; "))
    return ""


def _words(part: Any, separator: str = ", ") -> str:  # noqa: ANN401
    if isinstance(part, dict):
        return ", ".join(f"{key}: {MASK if is_secret_name(key) else _words(value)}" for key, value in part.items())
    return separator.join(_words(item) for item in part if item is not None) if isinstance(part, list) else str(part)


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _retry_after(value: str, now: datetime) -> float | None:
    """Return the seconds that ``Retry-After`` names, as a number or as a date; ``None`` without a readable one."""
    if value.isascii() and value.isdigit():
        return float(value)
    with suppress(ValueError, OverflowError):
        return max(0.0, mktime_tz(date) - now.timestamp()) if (date := parsedate_tz(value)) else None
    return None
