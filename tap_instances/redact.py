"""What is a secret, and how it is hidden: in rows, in URLs, in log lines. Pure functions and one log formatter."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK = "***"
SECRET_WORDS = ("token", "jwt", "secret", "passw", "apikey", "authorization", "credential", "cookie")
SECRET_PARAMETERS = frozenset({"key", "auth", "sig", "signature", "code"})

JWT = re.compile(r"\beyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?")
_USERINFO = re.compile(r"^(\s*(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?(?://)?[^/?#:@]*:)[^/?#]*@")
_USERINFO_IN_TEXT = re.compile(r"(://[^/?#:@\s]*:)[^/?#\s]*@")
_PARAMETER = re.compile(r"(?:^|;)([^=;]*)=")


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Tell whether a key of this name may hold a credential (ignoring case, ``-`` and ``_``)."""
    folded = name.lower().replace("-", "").replace("_", "")
    return any(word in folded for word in SECRET_WORDS)


def mask_url(url: str) -> str:
    """Hide a URL's password and the values of credential-like query parameters; leave the rest as it is."""
    url = _USERINFO.sub(rf"\1{MASK}@", url)
    head, question, tail = url.partition("?")
    if not question:
        return url
    query, number_sign, fragment = tail.partition("#")
    return head + question + "&".join(map(_mask_parameter, query.split("&"))) + number_sign + fragment


def _mask_parameter(parameter: str) -> str:
    # ";" separates parameters on some servers: after a secret's name, all up to the next "&" is hidden.
    for match in _PARAMETER.finditer(parameter):
        name = unquote_plus(match[1])
        if is_secret_name(name) or name.strip().lower() in SECRET_PARAMETERS:
            return parameter[: match.end()] + MASK
    return parameter


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """Hide the given secrets, JWTs and URL passwords in a line for people to read."""
    for secret in secrets:
        # A very short token may be a part of many words: hide it where it stands alone.
        edge = (r"(?<![\w-])", r"(?![\w-])") if len(secret) < 8 else ("", "")  # noqa: PLR2004
        text = re.sub(edge[0] + re.escape(secret) + edge[1], MASK, text)
    return _USERINFO_IN_TEXT.sub(rf"\1{MASK}@", JWT.sub(MASK, text))


class ScrubbingFormatter(logging.Formatter):
    """Wraps a log handler's formatter: whatever is logged, by whomever, holds no secret of this run."""

    def __init__(self, inner: logging.Formatter, secrets: Iterable[str]) -> None:
        """Keep the formatter that lays the line out, and the secrets to hide in it."""
        super().__init__()
        self.inner = inner
        self.secrets = tuple(secrets)

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return the line (a traceback included) without secrets."""
        return scrub(self.inner.format(record), self.secrets)
