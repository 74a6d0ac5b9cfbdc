"""The way to the server: request, authentication, redirects, retries, many businesses at a time.

With :mod:`tap_instances.answers`, the only module that knows HTTP. What leaves it is a :class:`Snapshot` of a complete
and valid body, or a :class:`SnapshotError` whose text tells a person what to do.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from concurrent.futures import Future
from datetime import datetime, timezone
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

import requests
import urllib3
from requests.auth import AuthBase
from typing_extensions import override

from tap_instances.answers import TryError, judge, network_failure, origin
from tap_instances.redact import MASK

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from tap_instances.answers import Snapshot

PATH: Final = "/api/v2/business/{business_id}/instance/connected"
MAX_BACKOFF: Final = 60.0  # seconds
MAX_ERROR_BODY: Final = 65536  # bytes of an error answer that are read
CHUNK: Final = 1 << 20

logger = logging.getLogger("tap-instances")


class Business(NamedTuple):
    """A configured business: its id and its bearer token."""

    id: str
    token: str

    @override
    def __repr__(self) -> str:
        return f"Business(id={self.id!r}, token='{MASK}')"


class SnapshotError(Exception):
    """Why a business could not be read, and what to do about it."""


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
        if origin(prepared_request.url) != origin(response.request.url):
            prepared_request.headers.pop("Authorization", None)


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
        for attempt in range(1, self.max_retries + 2):
            try:
                snapshot = self._try(business)
            except TryError as failure:
                if not failure.again or attempt > self.max_retries:
                    raise SnapshotError(failure.line(attempt, business.token)) from failure
                # 0 is what a time in the past comes to: no reason to hurry
                wait = failure.retry_after or min(2.0 ** (attempt - 1), MAX_BACKOFF) * random.uniform(0.5, 1)  # noqa: S311
                logger.warning("business %s: %s; try %d of %d in %.1f s", business.id, failure, attempt + 1,
                               self.max_retries + 1, wait)  # fmt: skip
            else:
                snapshot.seconds = time.monotonic() - started
                return snapshot
            time.sleep(wait)
        raise AssertionError  # the last try returned or raised

    def _try(self, business: Business) -> Snapshot:
        """Send the request once; what goes wrong is a :class:`TryError`."""
        url = self.api_url + PATH.format(business_id=quote(business.id, safe=""))
        if not hasattr(self._local, "session"):
            self._local.session = _Session(self.user_agent)  # requests' sessions are not for sharing by threads
        session: _Session = self._local.session
        urls: list[str] = []  # of each answer, and of the request that got none
        try:
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
                failure = network_failure(error, self.request_timeout, redirected=bool(urls))
                if failed := getattr(error, "request", None):
                    urls.append(failed.url)
                raise failure from error
            return judge(response, body, datetime.now(timezone.utc))
        except TryError as failure:
            failure.redirected(urls)
            raise


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
