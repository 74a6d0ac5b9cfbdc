"""Why a request failed, in words that a person can act on.

:class:`TryError` is the failure of one request; :func:`network_failure` translates a network exception into one.
"""

from __future__ import annotations

import ssl
from collections import deque
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import requests
import urllib3

from tap_instances.redact import scrub, spellings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_RETRY_AFTER: Final = 300.0  # seconds; a longer wait is the scheduler's business
MAX_MESSAGE: Final = 500  # characters of the API's own message in an error
CHECK_URL: Final = "check api_url: it must be CodeChat's base URL, without /api/v2"
REACH: Final = "see that the server is up and that this machine can reach it"
CHECK_HOST: Final = "check the host in api_url, and this machine's DNS"
MAYBE_HTTPS: Final = "if this port has TLS, change http to https in api_url"
MAYBE_HTTP: Final = "if this port has no TLS, change https to http in api_url"
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
        reason = f"the connection failed ({one_line(reasons[-1]) if reasons else type(chain[-1]).__name__})"
    unknown = any(isinstance(cause, urllib3.exceptions.NameResolutionError) for cause in chain)
    advice = CHECK_HOST if unknown else REACH
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


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
