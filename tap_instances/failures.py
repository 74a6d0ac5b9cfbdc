"""Why a request failed, in words that a person can act on.

:class:`SnapshotError` is a failure; :func:`network_failure` translates a network exception into one.
"""

from __future__ import annotations

import re
import ssl
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies, select_proxy
from urllib3 import exceptions

from tap_instances.redact import scrub

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_MESSAGE: Final = 500  # characters of the API's own message in an error
CHECK_URL: Final = "check api_url: it must be CodeChat's base URL, without /api/v2"
REACH: Final = "see that the server is up and that this machine can reach it"
PROXY: Final = "check HTTP_PROXY and HTTPS_PROXY, or name the server in NO_PROXY"
MAYBE_HTTPS: Final = "if this port has TLS, change http to https in api_url"
MAYBE_HTTP: Final = "if this port has no TLS, change https to http in api_url"
# Network exceptions -> what they mean: the first in this order that any cause is. Without words: the system's.
NETWORK_ERRORS: Final[dict[type[BaseException], str]] = {
    exceptions.NameResolutionError: "the host name has no address",
    exceptions.NewConnectionError: "",  # derives from ConnectTimeoutError without being one
    exceptions.ConnectTimeoutError: "no connection within {} s (request_timeout)",
    TimeoutError: "no byte for {} s (request_timeout)",
    ssl.SSLError: "",
    exceptions.DecodeError: "the response's compression is broken",
    RemoteDisconnected: "the server closed the connection without a response",
    ConnectionError: "",
    IncompleteRead: "the response was cut short",
    HTTPException: "the response is not HTTP",
    exceptions.InvalidHeader: "the response is not HTTP",
    exceptions.ProtocolError: "the response was cut short",
    Exception: "",
}
# How HTTP on a TLS port, or TLS on an HTTP port, can end.
WRONG_SCHEME: Final = (ssl.SSLError, RemoteDisconnected, ConnectionError, HTTPException)


class SnapshotError(Exception):
    """Why something could not be read, what to do about it, and the API's own message.

    ``transient`` if it can pass by itself; ``wait`` is the seconds after which the server asks to try again, or 0.
    """

    def __init__(
        self, reason: str, advice: str = "", message: str = "", *, transient: bool = False, wait: float = 0
    ) -> None:
        super().__init__(reason)
        self.advice, self.message = advice, message
        self.transient, self.wait = transient, wait

    def final(self, tries: int, urls: Sequence[str]) -> SnapshotError:
        """Return the failure that says all this in one line, without secrets, and that holds no response.

        ``urls`` are those that were requested: the first is the configured server's, the last may be another's.
        """
        line = f"{self} ({tries} {'try' if tries == 1 else 'tries'})" if self.transient else str(self)
        line += f": {self.advice}"
        if urls and (target := origin(urls[-1])) != origin(urls[0]):
            line += f" (redirected to {target}, which does not get the token: set api_url)"
        if message := scrub(self.message):  # before it is cut: half a token is half a secret
            line += f". The API says: {message[:MAX_MESSAGE]}{' …' if len(message) > MAX_MESSAGE else ''}"
        return SnapshotError(scrub(line), transient=self.transient)


def origin(url: str | None) -> str:
    """Return a URL's scheme, host and port, as a URL."""
    parts = urlsplit(url or "")
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def network_failure(error: Exception, timeout: int, api_url: str, *, responded: bool) -> SnapshotError:
    """Translate a network exception into a :class:`SnapshotError`.

    ``timeout`` is in seconds; ``responded`` if a response's head had arrived, of a redirect perhaps.
    """
    causes: list[BaseException] = [error]  # the last is the first that was raised
    while cause := causes[-1].__context__:
        causes.append(cause)
    if isinstance(error, requests.TooManyRedirects):
        return SnapshotError("redirected too often", CHECK_URL)
    if isinstance(error, (ValueError, TypeError)) and not isinstance(error, requests.exceptions.InvalidHeader):
        if responded:
            return SnapshotError("redirected to something other than http(s)", CHECK_URL)
        return SnapshotError("not an http(s) address", "check api_url, HTTP_PROXY and HTTPS_PROXY")
    at_proxy = isinstance(error, requests.exceptions.ProxyError)
    if failure := _tls_failure(causes, at_proxy=at_proxy):
        return failure
    kind = next(kind for kind in NETWORK_ERRORS if any(isinstance(cause, kind) for cause in causes))
    words = one_line(getattr(causes[-1], "strerror", "") or str(causes[-1])) or type(causes[-1]).__name__
    reason = NETWORK_ERRORS[kind].format(timeout) or f"the connection failed ({words})"
    advice = "check the host in api_url, and this machine's DNS" if kind is exceptions.NameResolutionError else REACH
    if at_proxy:
        reason, advice = f"{reason}, at the proxy", PROXY
    elif not responded and (kind in WRONG_SCHEME or "handshake" in str(causes[-1])):
        has_proxy = select_proxy(api_url, get_environ_proxies(api_url))
        advice += "; " + (PROXY if has_proxy else MAYBE_HTTP if api_url.startswith("https:") else MAYBE_HTTPS)
    is_refused = re.search("Tunnel connection failed: 4(?!08|29)", words)  # by a proxy: these two can pass
    return SnapshotError(reason, advice, transient=not is_refused)


def _tls_failure(causes: Sequence[BaseException], *, at_proxy: bool) -> SnapshotError | None:
    tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return SnapshotError(
            f"the server's certificate does not verify ({tls.verify_message})",
            "name your own CA's file in REQUESTS_CA_BUNDLE (or SSL_CERT_FILE), or correct api_url",
        )
    if (tls and tls.library in {"X509", "PEM"}) or "TLS CA certificate bundle" in str(causes[0]):  # requests' words
        return SnapshotError("no CA certificates", "let REQUESTS_CA_BUNDLE or SSL_CERT_FILE name an existing PEM file")
    if tls and tls.reason == "WRONG_VERSION_NUMBER" and not at_proxy:
        return SnapshotError("the server does not speak TLS on this port", "change https to http in api_url")
    return None


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
