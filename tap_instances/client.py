"""HTTP client for one CodeChat server: requests, authentication, redirects, retries, several businesses at a time.

What it gives of a business is a :class:`Snapshot` of a complete and valid response, or a :class:`SnapshotError` whose
text tells a person what to do.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy
from itertools import count, islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import requests
import urllib3
from requests.adapters import HTTPAdapter
from typing_extensions import override

from tap_instances.body import CHUNK, Body
from tap_instances.failures import SnapshotError, network_failure, origin
from tap_instances.redact import scrub_logs
from tap_instances.responses import MAX_RETRY_AFTER, Snapshot, read_connected, read_listed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from tap_instances.businesses import Business

    T = TypeVar("T")
    ResponseParser = Callable[[requests.Response, Body], T]

# The second is known from public clients of the API, not from its documentation.
CONNECTED_PATH: Final = "/api/v2/business/{business_id}/instance/connected"
BUSINESSES_PATH: Final = "/api/v2/admin/business"
MAX_BACKOFF: Final = 60.0  # seconds

logger = logging.getLogger("tap-instances")


class _Session(requests.Session):
    """A session that sends the token and the configured headers to one scheme, host and port only."""

    def __init__(self, config: Mapping[str, Any], default_user_agent: str) -> None:
        super().__init__()
        self.configured: dict[str, str] = config.get("headers", {})
        user_agent = config.get("user_agent", default_user_agent)
        self.headers.update({"User-Agent": user_agent, "Accept": "application/json"} | self.configured)
        self.auth = lambda request: request  # else requests replaces a token by what a ~/.netrc says
        # requests reads the first and the last of these, but never SSL_CERT_FILE.
        bundles = map(os.environ.get, ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"))
        self.verify = next(filter(None, bundles), True)
        # Without cookies, which one business's would serve another, threads can share a session.
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        for scheme in ("http://", "https://"):
            self.mount(scheme, HTTPAdapter(pool_maxsize=config["concurrency"]))

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

    def __init__(self, config: Mapping[str, Any], default_user_agent: str) -> None:
        """Take the settings, and the User-Agent for when none is set."""
        self.api_url: str = config["api_url"].rstrip("/")
        self.concurrency: int = config["concurrency"]
        self.request_timeout: int = config["request_timeout"]  # seconds without a byte
        self.max_retries: int = config["max_retries"]
        self._session = _Session(config, default_user_agent)

    def snapshots(self, businesses: Sequence[Business]) -> Generator[Snapshot | SnapshotError, None, None]:
        """Yield each business's outcome in the given order, while the next ones are being fetched.

        At most ``concurrency`` fetches are running or waiting to be yielded. So at most ``concurrency`` + 1 bodies are
        in memory, if the caller drops each outcome before it asks for the next.
        """
        remaining = iter(businesses)
        started = deque(map(self._start, islice(remaining, self.concurrency)))
        while started:
            outcome = started.popleft().get()
            started.extend(map(self._start, islice(remaining, 1)))
            yield outcome
            del outcome  # its body

    def _start(self, business: Business) -> SimpleQueue[Snapshot | SnapshotError]:
        """Fetch a business in a thread of its own, which never holds up an exit; return where its outcome will be."""
        outcome: SimpleQueue[Snapshot | SnapshotError] = SimpleQueue()
        threading.Thread(target=lambda: outcome.put(self.fetch(business)), name="fetch", daemon=True).start()
        return outcome

    def fetch(self, business: Business) -> Snapshot | SnapshotError:
        """Return the business's snapshot, or why there is none."""
        if business.problem:
            return SnapshotError(business.problem)
        started = time.monotonic()
        try:
            path = CONNECTED_PATH.format(business_id=quote(business.id, safe=""))
            snapshot = self._get(path, business.token, read_connected, f"business {business.id}")
        except SnapshotError as failure:
            return failure.with_traceback(None)
        except Exception as error:  # noqa: BLE001 (a bug that one business meets must not stop the others)
            logger.debug("business %s", business.id, exc_info=True)
            return SnapshotError(f"unexpected {type(error).__name__}: please report it")
        snapshot.seconds = time.monotonic() - started
        return snapshot

    def list_businesses(self, admin_token: str) -> list[dict[str, Any]]:
        """Return the items of the server's list of businesses, whose tokens logs now hide, or raise a SnapshotError."""
        listed = self._get(BUSINESSES_PATH, admin_token, read_listed, "the list of businesses")
        scrub_logs({item["businessToken"] for item in listed if isinstance(item.get("businessToken"), str)})
        return listed

    def _get(self, path: str, token: str, parse: ResponseParser[T], subject: str) -> T:
        """Return what ``parse`` makes of the response, after up to ``max_retries`` retries.

        Raises:
            SnapshotError: it cannot be had, or ``parse`` raised one.
        """
        for attempt in count(1):
            urls: list[str] = []  # of the responses, and of a request that got none: _request fills it
            try:
                return parse(*self._request(path, token, urls))
            except SnapshotError as failure:
                if not failure.transient or attempt > self.max_retries or failure.wait > MAX_RETRY_AFTER:
                    final = failure.final(attempt, urls)
                    break
                # `Retry-After: 0` or a past date: use our own backoff
                wait = failure.wait or min(2.0 ** (attempt - 1), MAX_BACKOFF) * random.uniform(0.5, 1)  # noqa: S311
                logger.warning("%s: %s; try %d of %d in %.1f s", subject, failure, attempt + 1,
                               self.max_retries + 1, wait)  # fmt: skip
            time.sleep(wait)
        raise final  # here, where no traceback holds the response

    def _request(self, path: str, token: str, urls: list[str]) -> tuple[requests.Response, Body]:
        """Send the request once, and note the URLs to which it leads; return the response and its body."""
        try:
            with self._session.get(
                self.api_url + path,
                headers={"Authorization": f"Bearer {token}"},
                hooks={"response": lambda response, **_: urls.append(response.url)},
                stream=True,
                timeout=self.request_timeout,
                verify=self._session.verify,  # or requests would ask the environment
            ) as response:
                return response, _read(response)
        # ValueError and TypeError: requests and urllib3 raise them for some invalid URLs.
        except (urllib3.exceptions.HTTPError, OSError, ValueError, TypeError) as error:
            failure = network_failure(error, self.request_timeout, self.api_url, responded=bool(urls))
            if request := getattr(error, "request", None):
                urls.append(request.url)
            raise failure from error


def _read(response: requests.Response) -> Body:
    """Return the decoded body; of an error response, what can be had of its beginning."""
    if response.ok:
        try:
            return Body(response.raw.stream(CHUNK, decode_content=True))
        except ValueError as error:  # such as a negative size of a chunk
            raise urllib3.exceptions.ProtocolError from error
    with suppress(urllib3.exceptions.HTTPError, ValueError):
        return Body([response.raw.read(CHUNK, decode_content=True)])
    return Body([])
