"""Why a request failed, in words that a person can act on.

:class:`TryError` is the failure of one request; :func:`network_failure` translates a network exception into one.
"""

from __future__ import annotations

import ssl
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import requests
from urllib3 import exceptions

from tap_instances.redact import scrub, spellings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_MESSAGE: Final = 500  # characters of the API's own message in an error
CHECK_URL: Final = "check api_url: it must be CodeChat's base URL, without /api/v2"
REACH: Final = "see that the server is up and that this machine can reach it"
CHECK_HOST: Final = "check the host in api_url, and this machine's DNS"
MAYBE_HTTPS: Final = "if this port has TLS, change http to https in api_url"
MAYBE_HTTP: Final = "if this port has no TLS, change https to http in api_url"
# Network exceptions -> what they mean; the first that fits. Without words: the operating system's.
NETWORK_ERRORS: Final[dict[type[BaseException], str]] = {
    exceptions.NameResolutionError: "the host name has no address",
    exceptions.NewConnectionError: "",  # derives from ConnectTimeoutError without being one
    exceptions.ConnectTimeoutError: "no connection within {} s (request_timeout)",
    requests.ConnectTimeout: "no connection within {} s (request_timeout)",
    TimeoutError: "no byte for {} s (request_timeout)",
    requests.ReadTimeout: "no byte for {} s (request_timeout)",
    ssl.SSLError: "",
    exceptions.DecodeError: "the response's compression is broken",
    RemoteDisconnected: "the server closed the connection without a response",
    ConnectionError: "",
    IncompleteRead: "the response was cut short",
    HTTPException: "the response is not HTTP",
    exceptions.ProtocolError: "the response was cut short",
    Exception: "",
}
# How HTTP on a TLS port, or TLS on an HTTP port, can end.
WRONG_SCHEME: Final = (ssl.SSLError, RemoteDisconnected, ConnectionError, HTTPException)


class TryError(Exception):
    """Why one request failed, what to do about it, and the API's own message.

    ``transient`` if it can pass by itself; ``wait`` is the seconds after which the server asks to try again, or 0.
    """

    def __init__(
        self, reason: str, advice: str, message: str = "", *, transient: bool = False, wait: float = 0
    ) -> None:
        super().__init__(reason)
        self.reason, self.advice, self.message = reason, advice, message
        self.transient, self.wait = transient, wait

    def line(self, tries: int, urls: Sequence[str], secrets: Iterable[str]) -> str:
        """Return the failure as one line, without these secrets, which the server may have echoed.

        ``urls`` are those that were requested: the first is the configured server's, the last may be another's.
        """
        hidden = spellings(secrets)
        line = f"{self.reason} ({tries} {'try' if tries == 1 else 'tries'})" if self.transient else self.reason
        line += f": {self.advice}"
        if urls and (target := origin(urls[-1])) != origin(urls[0]):
            line += " (redirected to {}://{}:{}, which does not get the token: set api_url)".format(*target)
        message = scrub(self.message, hidden)  # before it is cut: half a token is half a secret
        message = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} …"
        return scrub(line, hidden) + (f". The API says: {message}" if message else "")


def origin(url: str | None) -> tuple[str, str | None, int | None]:
    """Return a URL's scheme, host and port."""
    parts = urlsplit(url or "")
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def network_failure(error: Exception, timeout: int, api_url: str, *, responded: bool) -> TryError:
    """Translate a network exception into a :class:`TryError`.

    ``timeout`` is in seconds; ``responded`` if a response's head had arrived, of a redirect perhaps.
    """
    causes: list[BaseException] = [error]  # the last is the first that was raised
    while cause := causes[-1].__context__:
        causes.append(cause)
    if isinstance(error, requests.TooManyRedirects):
        return TryError("redirected too often", CHECK_URL)
    if isinstance(error, (ValueError, TypeError)):
        if responded:
            return TryError("redirected to something other than http(s)", CHECK_URL)
        return TryError("not an http(s) address", "check api_url, HTTP_PROXY and HTTPS_PROXY")
    if failure := _tls_failure(error, causes):
        return failure
    kind = next(kind for kind in NETWORK_ERRORS if any(isinstance(cause, kind) for cause in causes))
    reason = NETWORK_ERRORS[kind].format(timeout) or f"the connection failed ({_system_words(causes[-1])})"
    advice = CHECK_HOST if kind is exceptions.NameResolutionError else REACH
    if isinstance(error, requests.exceptions.ProxyError):
        reason, advice = f"{reason}, at the proxy", "check HTTP_PROXY and HTTPS_PROXY, or name the server in NO_PROXY"
    elif not responded and (kind in WRONG_SCHEME or "handshake" in str(causes[-1])):
        advice += "; " + (MAYBE_HTTP if api_url.startswith("https:") else MAYBE_HTTPS)
    return TryError(reason, advice, transient=True)


def _tls_failure(error: Exception, causes: list[BaseException]) -> TryError | None:
    tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return TryError(
            f"the server's certificate does not verify ({tls.verify_message})",
            "name your own CA's file in REQUESTS_CA_BUNDLE (or SSL_CERT_FILE), or correct api_url",
        )
    if (tls and tls.library in {"X509", "PEM"}) or "TLS CA certificate bundle" in str(error):  # requests' words
        return TryError("no CA certificates", "let REQUESTS_CA_BUNDLE or SSL_CERT_FILE name an existing PEM file")
    if tls and tls.reason == "WRONG_VERSION_NUMBER" and not isinstance(error, requests.exceptions.ProxyError):
        return TryError("the server does not speak TLS on this port", "change https to http in api_url")
    return None


def _system_words(error: BaseException) -> str:
    words = error.strerror or str(error) if isinstance(error, OSError) else ""
    return one_line(words) or type(error).__name__


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
