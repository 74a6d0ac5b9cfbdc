"""The only module that knows HTTP: request, authentication, retry, errors -> one whole snapshot a business.

What leaves it is a :class:`Snapshot` of a complete and valid body, or a :class:`SnapshotError` whose text tells a
person what to do; never a response, a header or a body.
"""

from __future__ import annotations

import logging
import os
import random
import ssl
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import mktime_tz, parsedate_tz
from http import HTTPStatus
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec
import requests
import urllib3
from requests.auth import AuthBase
from typing_extensions import override

from tap_instances.records import json_type, parse_json
from tap_instances.redact import MASK, is_secret_name, scrub, spellings
from tap_instances.typed import looks_odd

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

PATH: Final = "/api/v2/business/{business_id}/instance/connected"
PASSING: Final = frozenset({408, 429})  # and all of 500-599: worth another try
MAX_RETRY_AFTER: Final = 300.0  # seconds; a longer wait is the scheduler's business
MAX_BACKOFF: Final = 60.0  # seconds
MAX_MESSAGE: Final = 500  # characters of the API's own words in an error
MAX_ERROR_BODY: Final = 65536  # bytes of an error answer that are read
CHUNK: Final = 1 << 20
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

logger = logging.getLogger("tap-instances")


class Business(NamedTuple):
    """A configured business: its id and its bearer token."""

    id: str
    token: str

    @override
    def __repr__(self) -> str:
        return f"Business(id={self.id!r}, token='{MASK}')"


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


class SnapshotError(Exception):
    """Why a business could not be read, and what to do about it."""


class _TryError(Exception):
    """Why a try failed, what to do, what the API says of it; whether another try may mend it, and after how long."""

    def __init__(
        self, why: str, advice: str, said: str = "", *, passing: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(why)
        self.why, self.advice, self.said = why, advice, said
        self.passing, self.retry_after = passing, retry_after

    def redirected(self, urls: Sequence[str]) -> _TryError:
        """Say where the request went in the end, if that is not the server that was asked."""
        if urls and (origin := _origin(urls[-1])) != _origin(urls[0]):
            self.advice += " (redirected to {}://{}:{}, which does not get the token: set api_url)".format(*origin)
        return self

    def line(self, tries: int, token: str) -> str:
        """Return it as one line for a person; a server may have echoed the token."""
        why, advice = self.why, self.advice
        if self.passing:
            why += f" ({tries} {'try' if tries == 1 else 'tries'})"
            if self.retry_after and self.retry_after > MAX_RETRY_AFTER:
                advice = f"the server asks to wait {self.retry_after:.0f} s, run again after that"
        secrets = spellings([token])
        said = scrub(self.said, secrets)  # before it is cut: half a token is half a secret
        said = said if len(said) <= MAX_MESSAGE else f"{said[:MAX_MESSAGE]} …"
        return scrub(f"{why}: {advice}", secrets) + (f". The API says: {said}" if said else "")


class _Bearer(AuthBase):
    """The token, set as ``auth`` so that a ``~/.netrc`` cannot replace it."""

    def __init__(self, token: str) -> None:
        self.token = token

    @override
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


class _Session(requests.Session):
    """A session whose redirects carry the token to the same scheme, host and port only, and no ``.netrc`` anywhere."""

    def __init__(self, user_agent: str) -> None:
        super().__init__()
        self.headers.update({"User-Agent": user_agent, "Accept": "application/json"})
        # requests reads REQUESTS_CA_BUNDLE (and prefers it to this), but never SSL_CERT_FILE.
        self.verify = os.environ.get("SSL_CERT_FILE") or True
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))  # one business's must not serve another

    @override
    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        if _origin(prepared_request.url) != _origin(response.request.url):
            prepared_request.headers.pop("Authorization", None)


def _origin(url: str | None) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url or "")
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class Client:
    """Asks one CodeChat server, a request a business and at most ``concurrency`` at a time."""

    def __init__(
        self, api_url: str, *, concurrency: int, request_timeout: int, max_retries: int, user_agent: str
    ) -> None:
        """Keep the settings; nothing is sent yet. ``request_timeout`` is in seconds without a byte."""
        self.api_url = api_url.rstrip("/")
        self.concurrency = concurrency
        self.request_timeout = request_timeout
        self.max_retries = max_retries
        self.user_agent = user_agent
        self._local = threading.local()

    # ----------------------------------------------------------------------------------------- many businesses

    def snapshots(self, businesses: Sequence[Business]) -> Generator[Snapshot | SnapshotError, None, None]:
        """Yield each business's outcome in the given order, while those that follow are fetched ahead.

        At most ``concurrency`` outcomes are under way or waiting, so with the one that was yielded last at most
        ``concurrency`` + 1 bodies are in memory, if the caller lets go of each before asking for the next.
        The threads are daemons: they never hold up an exit.
        """
        slots = threading.Semaphore(self.concurrency)
        outcomes: deque[Future[Snapshot | SnapshotError]] = deque(Future() for _ in businesses)
        work = deque(zip(businesses, outcomes, strict=True))
        lock, stop = threading.Lock(), threading.Event()

        def fetch_ahead() -> None:
            while True:
                slots.acquire()
                with lock:
                    if stop.is_set() or not work:
                        return
                    business, future = work.popleft()
                try:
                    future.set_result(self.fetch(business))
                except SnapshotError as error:
                    future.set_result(SnapshotError(str(error)))  # without the frames that hold the body
                except Exception as error:  # noqa: BLE001 (one business's trouble is not the others')
                    logger.debug("business %s", business.id, exc_info=True)
                    future.set_result(SnapshotError(f"unexpected {type(error).__name__}: please report it"))
                del future  # or its body would be held until this thread's next turn

        for number in range(min(self.concurrency, len(businesses))):
            threading.Thread(target=fetch_ahead, name=f"fetch-{number}", daemon=True).start()
        try:
            while outcomes:
                outcomes[0].exception()  # waits; what is taken next is there
                slots.release()
                yield outcomes.popleft().result()
        finally:
            stop.set()
            slots.release(self.concurrency)

    # -------------------------------------------------------------------------------------------- one business

    def fetch(self, business: Business) -> Snapshot:
        """Return the business's snapshot, after up to ``max_retries`` further tries.

        Raises:
            SnapshotError: it cannot be had.
        """
        started = time.monotonic()
        for attempt in range(self.max_retries + 1):
            try:
                snapshot = self._try(business)
            except _TryError as failure:
                too_long = failure.retry_after is not None and failure.retry_after > MAX_RETRY_AFTER
                if not failure.passing or too_long or attempt == self.max_retries:
                    raise SnapshotError(failure.line(attempt + 1, business.token)) from failure
                # 0 is what a time in the past comes to: no reason to hurry
                wait = failure.retry_after or min(2.0**attempt, MAX_BACKOFF) * random.uniform(0.5, 1)  # noqa: S311
                logger.warning("business %s: %s; try %d of %d in %.1f s", business.id, failure, attempt + 2,
                               self.max_retries + 1, wait)  # fmt: skip
            else:
                snapshot.seconds = time.monotonic() - started
                return snapshot
            time.sleep(wait)
        raise AssertionError  # the last try returned or raised

    def _try(self, business: Business) -> Snapshot:
        """Send the request once; what goes wrong is a :class:`_TryError`."""
        url = self.api_url + PATH.format(business_id=quote(business.id, safe=""))
        if not hasattr(self._local, "session"):
            self._local.session = _Session(self.user_agent)  # requests' sessions are not for sharing by threads
        session: _Session = self._local.session
        urls: list[str] = []  # of each answer, and of the request that got none
        try:
            with session.get(
                url,
                auth=_Bearer(business.token),
                hooks={"response": lambda answer, **_: urls.append(answer.url)},
                stream=True,
                timeout=self.request_timeout,
            ) as response:
                body = _read(response)
        # ValueError and TypeError: what requests and urllib3 make of some impossible addresses.
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError, TypeError) as error:
            redirected = bool(urls)
            if failed := getattr(error, "request", None):
                urls.append(failed.url)
            raise self._network_failure(error, redirected=redirected).redirected(urls) from error
        try:
            return _judge(response, body)
        except _TryError as failure:
            raise failure.redirected(urls) from failure.__cause__

    def _network_failure(self, error: Exception, *, redirected: bool) -> _TryError:
        """Return what it means that no whole answer came."""
        chain = list(_causes(error))
        if isinstance(error, requests.TooManyRedirects):
            return _TryError("redirected too often", CHECK_URL)
        if isinstance(error, (ValueError, TypeError)) or isinstance(chain[-1], UnicodeError):
            if redirected:
                return _TryError("redirected to what is no http or https address", CHECK_URL)
            return _TryError("no http or https address", "check api_url, HTTP_PROXY and HTTPS_PROXY")
        tls = next((cause for cause in chain if isinstance(cause, ssl.SSLError)), None)
        if isinstance(tls, ssl.SSLCertVerificationError):
            return _TryError(
                f"the server's certificate does not verify ({tls.verify_message})",
                "name your own CA's file in REQUESTS_CA_BUNDLE (or SSL_CERT_FILE), or correct api_url",
            )
        if (tls and tls.library in {"X509", "PEM"}) or "TLS CA certificate bundle" in str(error):  # requests' words
            return _TryError(
                "no CA certificates", "let REQUESTS_CA_BUNDLE or SSL_CERT_FILE name a PEM file that is there"
            )
        why = next((words for kinds, words in TROUBLES if any(isinstance(cause, kinds) for cause in chain)), "")
        why = why.format(self.request_timeout)
        if not why:
            system = [c for c in chain if isinstance(c, OSError) and not isinstance(c, requests.RequestException)]
            reasons = [cause.strerror or str(cause) for cause in system]
            why = f"the connection failed ({_one_line(reasons[-1]) if reasons else type(chain[-1]).__name__})"
        proxy = any(isinstance(cause, urllib3.exceptions.ProxyError) for cause in chain)
        advice = "check HTTP_PROXY and HTTPS_PROXY, or name the server in NO_PROXY" if proxy else REACH
        return _TryError(f"{why}, at the proxy" if proxy else why, advice, passing=True)


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


def _read(response: requests.Response) -> bytearray:
    """Return the decoded body, held once (``response.content`` would hold it twice for a moment)."""
    ok = response.ok
    body = bytearray()
    try:
        for chunk in response.raw.stream(CHUNK, decode_content=True):
            body += chunk
            if not ok and len(body) > MAX_ERROR_BODY:
                break
    except (urllib3.exceptions.HTTPError, OSError):
        if ok:
            raise  # of an error answer the status is enough
    return body


def _judge(response: requests.Response, body: bytearray) -> Snapshot:
    """Return the snapshot in an answer, or raise what its status or body means."""
    observed_at = datetime.now(timezone.utc)
    status = response.status_code
    if 200 <= status < 300:  # noqa: PLR2004
        return _snapshot(body, observed_at)
    why, said, page = f"{status} {_phrase(status)}", _message(body), _is_page(body)
    if status in PASSING or status >= 500:  # noqa: PLR2004
        raise _TryError(why, REACH, said, passing=True, retry_after=_retry_after(response))
    advice = ADVICE.get(status, CHECK_URL)
    if page:
        advice = f"{advice if status in {401, 403, 407} else CHECK_URL} (a web page answered)"
    raise _TryError(why, advice, said)


def _snapshot(body: bytearray, observed_at: datetime) -> Snapshot:
    """Return the snapshot in the body of a 200.

    Raises:
        _TryError: it is no JSON, which can pass, or JSON of another shape.
    """
    try:
        top, instances = _decode(body)
    except RecursionError as error:
        raise _TryError("the answer is nested deeper than some 1,000 levels", OPERATOR) from error
    except ValueError as error:
        if _is_page(body):
            raise _TryError("a web page came instead of JSON", CHECK_URL, passing=True) from error
        what = "no JSON" if body.strip() else "empty"
        raise _TryError(f"the answer is {what}", f"if it stays so, {OPERATOR}", passing=True) from error
    if not isinstance(top, dict):
        raise _TryError(f"the answer is {json_type(top)}, not an object with Instances", CHECK_URL)
    if not isinstance(instances, list):
        what = json_type(instances) if "Instances" in top else "missing"
        why = f"Instances is {what} in the answer, which is not taken for 'nothing is connected'"
        raise _TryError(why, CHECK_URL, _error_text(top))
    top.pop("Instances", None)
    return Snapshot(top, instances, looks_odd(body), observed_at)


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    Instances: list[msgspec.Raw]
    businessId: msgspec.Raw | None = None  # noqa: N815 (the API's name)
    name: msgspec.Raw | None = None


def _decode(body: bytearray) -> tuple[Any, Any]:
    """Return a body's JSON value and its ``Instances``, the items unparsed where msgspec can read the body."""
    with suppress(msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        exact = msgspec.json.decode(body, type=_Body)
        members = {"businessId": exact.businessId, "name": exact.name}
        return {name: parse_json(bytes(raw)) for name, raw in members.items() if raw is not None}, exact.Instances
    with suppress(msgspec.DecodeError, RecursionError, UnicodeDecodeError, KeyError):  # a key more at the top
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
    try:
        value = parse_json(bytes(body))
    except (ValueError, RecursionError):
        return ""
    return _error_text(value) if isinstance(value, dict) else ""


def _error_text(body: dict[str, Any]) -> str:
    """Return ``message`` (documented as an array or an object, in the wild also a string), or ``error``."""
    message = body.get("message") or body.get("error")
    try:
        return "" if message is None else _one_line(_words(message, "; "))
    except RecursionError:
        return ""


def _words(part: Any, separator: str = ", ") -> str:  # noqa: ANN401
    if isinstance(part, dict):
        return ", ".join(f"{key}: {MASK if is_secret_name(key) else _words(value)}" for key, value in part.items())
    return separator.join(_words(item) for item in part if item is not None) if isinstance(part, list) else str(part)


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _retry_after(response: requests.Response) -> float | None:
    """Return the seconds that ``Retry-After`` names, as a number or as a date; ``None`` without a readable one."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    date = parsedate_tz(value)
    try:
        return max(0.0, mktime_tz(date) - time.time()) if date else None
    except (ValueError, OverflowError):
        return None
