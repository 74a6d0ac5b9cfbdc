"""What is a secret, and how it is hidden: in rows, in URLs, in log lines. Pure functions and one log formatter."""

from __future__ import annotations

import json
import logging
import re
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_plus

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK = "***"
SECRET_WORDS = ("token", "jwt", "secret", "passw", "apikey", "authorization", "credential", "cookie")
SECRET_PARAMETERS = frozenset({"key", "auth", "sig", "signature", "code"})

# Not within a run of its own characters: each of many "-eyJ" would be followed to the run's end, and that is quadratic.
JWT = re.compile(r"(?<![\w-])eyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?")
_USERINFO = re.compile(r"^(\s*(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?/*[^/?#:@]*:)[^/?#]*@")
_USERINFO_IN_TEXT = re.compile(r"(://[^/?#:@\s]*:)[^/?#\s]*@")
_PARAMETER = re.compile(r"(?:^|;)([^=;]*)=")
_PARAMETER_IN_TEXT = re.compile(r"([?&;]([^\s?&;=#]+)=)[^\s&;#\"'<>]+")


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Tell whether a key of this name may hold a credential (ignoring case, ``-`` and ``_``)."""
    folded = name.lower().replace("-", "").replace("_", "")
    return any(word in folded for word in SECRET_WORDS)


def mask_url(url: str) -> str:
    """Hide a URL's password and the values of credential-like query parameters; leave the rest as it is."""
    if "@" in url:
        url = _USERINFO.sub(rf"\1{MASK}@", url)
    if "?" not in url:
        return url
    address, number_sign, fragment = url.partition("#")
    head, question, query = address.partition("?")
    return head + question + "&".join(map(_mask_parameter, query.split("&"))) + number_sign + fragment


def _mask_parameter(parameter: str) -> str:
    # ";" separates parameters on some servers: after a secret's name, all up to the next "&" is hidden.
    for match in _PARAMETER.finditer(parameter):
        if _is_secret_parameter(match[1]):
            return parameter[: match.end()] + MASK
    return parameter


def _is_secret_parameter(quoted: str) -> bool:
    name = unquote_plus(quoted)
    return is_secret_name(name) or name.strip().lower() in SECRET_PARAMETERS


def spellings(secrets: Iterable[str]) -> tuple[str, ...]:
    """Return the secrets in every way they may stand in a line: as they are, in a URL, in JSON; the longest first."""
    ways: set[str] = set()
    for secret in secrets:
        ways |= {secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1]}
    return tuple(sorted(ways, key=lambda way: (-len(way), way)))


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """Hide the given secrets, JWTs, URL passwords and credential-like query values in a line for people to read.

    ``secrets`` are :func:`spellings`. They are found in any case: a host name, for one, is written in lower case.
    """
    folded = text.lower()
    for secret in secrets:
        if secret.lower() in folded:  # seldom, and much quicker than the pattern
            # A very short token may be a part of many words: hide it where it stands alone.
            edges = (r"(?<![\w-])", r"(?![\w-])") if len(secret) < 8 else ("", "")  # noqa: PLR2004
            text = re.sub(edges[0] + re.escape(secret) + edges[1], MASK, text, flags=re.IGNORECASE)
    text = _PARAMETER_IN_TEXT.sub(lambda match: match[1] + MASK if _is_secret_parameter(match[2]) else match[0], text)
    return _USERINFO_IN_TEXT.sub(rf"\1{MASK}@", JWT.sub(MASK, text))


class ScrubbingFormatter(logging.Formatter):
    """Wraps a log handler's formatter: whatever is logged, by whomever, holds no secret of this run."""

    def __init__(self, inner: logging.Formatter, secrets: Iterable[str]) -> None:
        """Keep the formatter that lays the line out, and the secrets to hide in it."""
        super().__init__()
        self.inner = inner
        self.secrets = frozenset(secrets)
        self._spellings = spellings(self.secrets)

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return the line (a traceback included) without secrets."""
        return scrub(self.inner.format(record), self._spellings)


def scrub_logs(secrets: Iterable[str]) -> None:
    """Hide these secrets from now on in whatever is logged, by whichever handler there is."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for handler in {handler for logger in loggers for handler in getattr(logger, "handlers", ())}:
        inner, known = handler.formatter or logging.Formatter(), frozenset(secrets)
        if isinstance(inner, ScrubbingFormatter):
            known |= inner.secrets
            inner = inner.inner
        handler.setFormatter(ScrubbingFormatter(inner, known))
