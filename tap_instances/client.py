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
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec
import requests
import urllib3
from requests.auth import AuthBase
from typing_extensions import override

from tap_instances.records import json_type, parse_json
from tap_instances.redact import MASK, is_secret_name, scrub
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
ADVICE: Final = {
    400: "check its business_id: the API does not take it",
    401: "check auth_token: it is wrong, expired, or another business's",
    403: "check auth_token: it may not read this business",
    404: "check api_url (the server's base URL, without /api/v2) and business_id",
}
CHECK_URL: Final = "check api_url: is it CodeChat's base URL?"

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


class _PassingError(Exception):
    """A failure that another try may mend; ``retry_after`` in seconds, if the server named a time."""

    def __init__(self, why: str, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


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
                    future.set_result(error)
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
            except _PassingError as failure:  # noqa: PERF203 (a loop of tries)
                if failure.retry_after is not None and failure.retry_after > MAX_RETRY_AFTER:
                    raise SnapshotError(
                        f"{failure}; the server asks to wait {failure.retry_after:.0f} s: run again after that"
                    ) from failure
                if attempt == self.max_retries:
                    tries = f"{attempt + 1} tries" if attempt else "1 try"
                    raise SnapshotError(
                        f"{failure} ({tries}): is the server up, and can this machine reach it?"
                    ) from failure
                wait = failure.retry_after
                if wait is None:
                    wait = min(2.0**attempt, MAX_BACKOFF) * random.uniform(0.5, 1)  # noqa: S311 (jitter)
                logger.warning("business %s: %s; try %d of %d in %.1f s", business.id, failure, attempt + 2,
                               self.max_retries + 1, wait)  # fmt: skip
                time.sleep(wait)
            else:
                snapshot.seconds = time.monotonic() - started
                return snapshot
        raise AssertionError  # the last try returned or raised

    def _try(self, business: Business) -> Snapshot:
        url = self.api_url + PATH.format(business_id=quote(business.id, safe=""))
        if not hasattr(self._local, "session"):
            self._local.session = _Session(self.user_agent)  # requests' sessions are not for sharing by threads
        session: _Session = self._local.session
        try:
            with session.get(url, auth=_Bearer(business.token), stream=True, timeout=self.request_timeout) as response:
                body = _read(response)
        except requests.TooManyRedirects as error:
            raise SnapshotError(f"redirected more than {session.max_redirects} times: {CHECK_URL}") from error
        except requests.exceptions.InvalidProxyURL as error:
            raise SnapshotError("HTTP_PROXY or HTTPS_PROXY is no web address: correct it") from error
        except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL) as error:
            raise SnapshotError(f"redirected to what is no web address: {CHECK_URL}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._network_error(error) from error
        try:
            return _judge(response, body)
        except (SnapshotError, _PassingError) as error:
            why = scrub(str(error), [business.token])  # a server may echo the token in its message
            if (origin := _origin(response.url)) != _origin(url):
                why += " (redirected to {}://{}:{}, which does not get the token: set api_url)".format(*origin)
            error.args = (why,)
            raise

    def _network_error(self, error: Exception) -> Exception:  # noqa: PLR0911 (a table, in the order of its rows)
        """Tell what can pass from what cannot."""
        chain = list(_causes(error))
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in chain):
            return SnapshotError(
                "the server's certificate does not verify: name your own CA's file in REQUESTS_CA_BUNDLE "
                "(or SSL_CERT_FILE), or correct api_url"
            )
        if isinstance(error, OSError) and "TLS CA certificate bundle" in str(error):
            return SnapshotError("the file that REQUESTS_CA_BUNDLE or SSL_CERT_FILE names is not there")
        for cause in chain:
            if isinstance(cause, (requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError)):
                return _PassingError(f"no connection within {self.request_timeout} s")
            if isinstance(cause, (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)):
                return _PassingError(f"no byte came for {self.request_timeout} s (request_timeout)")
            if isinstance(cause, urllib3.exceptions.NameResolutionError):
                return _PassingError("the name in api_url has no address")
            if isinstance(cause, (urllib3.exceptions.DecodeError, requests.exceptions.ContentDecodingError)):
                return _PassingError("the answer's compression is broken")
            if isinstance(cause, urllib3.exceptions.IncompleteRead):
                return _PassingError("the answer was cut short")
        reasons = [cause.strerror for cause in chain if isinstance(cause, OSError) and cause.strerror]
        return _PassingError(f"the connection failed: {reasons[-1] if reasons else type(chain[-1]).__name__}")


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
    if response.ok and status < 300:  # noqa: PLR2004
        return _snapshot(body, observed_at)
    phrase = f"{status} {_phrase(status)}"
    message = _message(body)
    said = f" The API says: {message}" if message else ""
    if status in PASSING or status >= 500:  # noqa: PLR2004
        raise _PassingError(f"{phrase}.{said}" if said else phrase, _retry_after(response))
    if _is_page(body):
        advice = f"{ADVICE[status] if status in {401, 403} else CHECK_URL} (a web page answered)"
    else:
        advice = ADVICE.get(status, CHECK_URL)
    raise SnapshotError(f"{phrase}: {advice}.{said}")


def _snapshot(body: bytearray, observed_at: datetime) -> Snapshot:
    """Return the snapshot in the body of a 200.

    Raises:
        _PassingError: it is no JSON.
        SnapshotError: it is JSON of another shape.
    """
    try:
        top, instances = _decode(body)
    except RecursionError as error:
        raise SnapshotError(
            "the answer is nested deeper than some 1,000 levels: ask the server's operator what it is"
        ) from error
    except ValueError as error:
        if _is_page(body):
            msg = f"a web page came instead of JSON: {CHECK_URL}"
        else:
            raise _PassingError("the answer is no JSON" if body.strip() else "the answer is empty") from error
    if not isinstance(top, dict):
        raise SnapshotError(f"the answer is {json_type(top)}, not an object with Instances: {CHECK_URL}")
    if not isinstance(instances, list):
        what = json_type(instances) if "Instances" in top else "missing"
        said = _error_text(top)
        msg = f"Instances is {what} in the answer, which is not taken for 'nothing is connected': {CHECK_URL}"
        raise SnapshotError(f"{msg} The API says: {said}" if said else msg)
    top.pop("Instances", None)
    return Snapshot(top, instances, looks_odd(body), observed_at)


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    Instances: list[msgspec.Raw]
    businessId: msgspec.Raw | None = None  # noqa: N815 (the API's name)
    name: msgspec.Raw | None = None


def _decode(body: bytearray) -> tuple[Any, Any]:
    """Return a body's JSON value and its ``Instances``, the items unparsed where msgspec can read the body."""
    with suppress(msgspec.DecodeError, RecursionError):
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


def _message(body: bytearray) -> str | None:
    """Return the API's own message in an error body, as one short line."""
    try:
        value = parse_json(bytes(body))
    except (ValueError, RecursionError):
        return None
    return _error_text(value) if isinstance(value, dict) else None


def _error_text(body: dict[str, Any]) -> str | None:
    """Return ``message`` (documented as an array or an object, in the wild also a string), or ``error``."""
    message = body.get("message") or body.get("error")
    parts = message if isinstance(message, list) else [message]
    text = "; ".join(_words(part) for part in parts if part is not None)
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} …"


def _words(part: Any) -> str:  # noqa: ANN401
    if isinstance(part, dict):
        return ", ".join(f"{key}: {MASK if is_secret_name(key) else _words(value)}" for key, value in part.items())
    return ", ".join(map(_words, part)) if isinstance(part, list) else str(part)


def _retry_after(response: requests.Response) -> float | None:
    """Return the seconds that ``Retry-After`` names, as a number or as a date; ``None`` without a readable one."""
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(urllib3.Retry().parse_retry_after(value)))
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return None
