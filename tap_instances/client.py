"""HTTP client for one CodeChat server: requests, authentication, redirects, retries, several businesses at a time.

With :mod:`tap_instances.responses`, the only module that knows HTTP. It returns a :class:`Snapshot` of a complete and
valid response, or raises a :class:`SnapshotError` whose text tells a person what to do.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from datetime import datetime, timezone
from http.cookiejar import DefaultCookiePolicy
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

import requests
import urllib3
from requests.auth import AuthBase
from typing_extensions import override

from tap_instances.failures import TryError, network_failure, origin
from tap_instances.redact import scrub_logs
from tap_instances.responses import read_connected, read_listed, unreadable_encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from tap_instances.businesses import Business, ListedBusiness
    from tap_instances.responses import Snapshot

    T = TypeVar("T")
    Reader = Callable[[requests.Response, bytearray, datetime], T]

# The second is known from public clients of the API, not from its documentation.
CONNECTED_PATH: Final = "/api/v2/business/{business_id}/instance/connected"
BUSINESSES_PATH: Final = "/api/v2/admin/business"
MAX_BACKOFF: Final = 60.0  # seconds
MAX_ERROR_BODY: Final = 65536  # bytes of an error response that are read
CHUNK: Final = 1 << 20
MIN_SECRET_HEADER: Final = 8  # characters; hiding a shorter value would hide parts of ordinary words

logger = logging.getLogger("tap-instances")


class SnapshotError(Exception):
    """Why something could not be read, and what to do about it; ``transient`` if it can pass without a change."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class _Bearer(AuthBase):
    """The token, set as ``auth`` so that a ``~/.netrc`` cannot replace it."""

    def __init__(self, token: str) -> None:
        self.token = token

    @override
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


class _Session(requests.Session):
    """A session that sends the token and the configured headers to one scheme, host and port only."""

    def __init__(self, headers: Mapping[str, str], user_agent: str) -> None:
        super().__init__()
        self.configured = headers
        self.headers.update({"User-Agent": user_agent, "Accept": "application/json"} | dict(headers))
        # requests reads REQUESTS_CA_BUNDLE (and prefers it to this), but never SSL_CERT_FILE.
        self.verify = os.environ.get("SSL_CERT_FILE") or True
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))  # one business's must not serve another

    @override
    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        # Called for each redirect. What was removed on the way to another server does not come back.
        if origin(prepared_request.url) != origin(response.request.url):
            for name in ("Authorization", *self.configured):
                prepared_request.headers.pop(name, None)
        elif "Authorization" in prepared_request.headers:
            prepared_request.headers.update(self.configured)  # requests has removed a Cookie


class Client:
    """Reads from one CodeChat server: one request per business, at most ``concurrency`` at a time."""

    def __init__(  # noqa: PLR0913 (the settings)
        self,
        api_url: str,
        *,
        headers: Mapping[str, str],
        concurrency: int,
        request_timeout: int,
        max_retries: int,
        user_agent: str,
    ) -> None:
        """Keep the settings; nothing is sent yet. ``request_timeout`` is in seconds without a byte."""
        self.api_url = api_url.rstrip("/")
        self.headers = headers
        self.concurrency = concurrency
        self.request_timeout = request_timeout
        self.max_retries = max_retries
        self.user_agent = user_agent
        # A server may echo a value, or the second word of "Basic …".
        parts = (part for value in headers.values() for part in (value, *value.split()))
        self._secrets = {part for part in parts if len(part) >= MIN_SECRET_HEADER}
        self._idle: deque[_Session] = deque()  # kept for their connections; one thread at a time uses one

    # ---------------------------------------------------------------------------------------- several businesses

    def snapshots(self, businesses: Sequence[Business]) -> Generator[Snapshot | SnapshotError, None, None]:
        """Yield each business's outcome in the given order, while the next ones are being fetched.

        At most ``concurrency`` fetches are running or waiting to be yielded. So at most ``concurrency`` + 1 bodies are
        in memory, if the caller drops each outcome before it asks for the next.
        """
        remaining = iter(businesses)
        started = deque(_Fetch(self, business) for business in islice(remaining, self.concurrency))
        while started:
            fetch = started.popleft()
            fetch.join()
            started.extend(_Fetch(self, business) for business in islice(remaining, 1))
            yield fetch.outcome

    def outcome(self, business: Business) -> Snapshot | SnapshotError:
        """Return the business's snapshot, or why there is none."""
        try:
            return self.fetch(business)
        except SnapshotError as error:
            # A new one, without the traceback: its frames hold the body.
            return SnapshotError(str(error), transient=error.transient)
        except Exception as error:  # noqa: BLE001 (a bug that one business meets must not stop the others)
            logger.debug("business %s", business.id, exc_info=True)
            return SnapshotError(f"unexpected {type(error).__name__}: please report it")

    # ------------------------------------------------------------------------------------------ what can be read

    def fetch(self, business: Business) -> Snapshot:
        """Return the business's snapshot, after up to ``max_retries`` retries.

        Raises:
            SnapshotError: there is none.
        """
        if business.problem:
            raise SnapshotError(business.problem)
        started = time.monotonic()
        path = CONNECTED_PATH.format(business_id=quote(business.id, safe=""))
        snapshot = self._get(path, business.token, read_connected, f"business {business.id}")
        snapshot.seconds = time.monotonic() - started
        return snapshot

    def list_businesses(self, admin_token: str) -> list[ListedBusiness]:
        """Return the businesses that the server lists, in its order; from now on logs hide their tokens.

        Raises:
            SnapshotError: there is no such list.
        """
        listed = self._get(BUSINESSES_PATH, admin_token, read_listed, "the list of businesses")
        scrub_logs({item.token for item in listed if isinstance(item.token, str) and item.token})
        return listed

    # ----------------------------------------------------------------------------------------------- one request

    def _get(self, path: str, token: str, read: Reader[T], subject: str) -> T:
        """Return what ``read`` makes of the response, after up to ``max_retries`` retries."""
        for attempt in range(1, self.max_retries + 2):
            try:
                return self._try(path, token, read)
            except TryError as failure:
                if not failure.retry or attempt > self.max_retries:
                    line = failure.line(attempt, token, *self._secrets)
                    raise SnapshotError(line, transient=failure.transient) from failure
                # `Retry-After: 0` or a past date: use our own backoff
                wait = failure.retry_after or min(2.0 ** (attempt - 1), MAX_BACKOFF) * random.uniform(0.5, 1)  # noqa: S311
                logger.warning("%s: %s; try %d of %d in %.1f s", subject, failure, attempt + 1,
                               self.max_retries + 1, wait)  # fmt: skip
            time.sleep(wait)
        raise AssertionError  # the last try returned or raised

    def _try(self, path: str, token: str, read: Reader[T]) -> T:
        """Send the request once.

        Raises:
            TryError: there is no complete and valid response.
        """
        try:
            session = self._idle.pop()
        except IndexError:
            session = _Session(self.headers, self.user_agent)
        urls: list[str] = []  # of each response, and of the request that got none
        try:
            try:
                with session.get(
                    self.api_url + path,
                    auth=_Bearer(token),
                    hooks={"response": lambda response, **_: urls.append(response.url)},
                    stream=True,
                    timeout=self.request_timeout,
                ) as response:
                    body = _read(response)
            # ValueError and TypeError: requests and urllib3 raise them for some invalid URLs.
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError, TypeError) as error:
                failure = network_failure(error, self.request_timeout, self.api_url, responded=bool(urls))
                if failed := getattr(error, "request", None):
                    urls.append(failed.url)
                raise failure from error
            return read(response, body, datetime.now(timezone.utc))
        except TryError as failure:
            failure.add_redirect(urls)
            raise
        finally:
            self._idle.append(session)


class _Fetch(threading.Thread):
    """A business being fetched; ``outcome`` is there once it was joined. A daemon: it never holds up an exit."""

    outcome: Snapshot | SnapshotError

    def __init__(self, client: Client, business: Business) -> None:
        super().__init__(name="fetch", daemon=True)
        self.client, self.business = client, business
        self.start()

    @override
    def run(self) -> None:
        self.outcome = self.client.outcome(self.business)


def _read(response: requests.Response) -> bytearray:
    """Return the decoded body, held once (``response.content`` would hold it twice for a moment)."""
    body = bytearray()
    try:
        for chunk in response.raw.stream(CHUNK, decode_content=not unreadable_encoding(response)):
            body += chunk
            if not response.ok and len(body) > MAX_ERROR_BODY:
                break
    except (urllib3.exceptions.HTTPError, OSError):
        if response.ok:
            raise  # of an error response the status is enough
    return body
