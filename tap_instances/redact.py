"""What is a secret, and how it is hidden: in rows, in URLs, in log lines. It knows the secrets of the settings."""

from __future__ import annotations

import json
import logging
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from unicodedata import normalize
from urllib.parse import quote, unquote_plus

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK: Final = "***"

# A name is a secret's if it contains one of these (ignoring case, "-" and "_"),
SECRET_PARTS: Final = (
    *("token", "jwt", "secret", "passw", "passcode", "pairingcode", "authorization", "credential", "cookie"),
    *("apikey", "privatekey", "signingkey", "accesskey", "encryptionkey"),
)
# or if one of its words is one of these, which are parts of harmless words too ("author", "compass", "design"),
SECRET_WORDS: Final = {
    *("pass", "pwd", "pw", "passphrase", "senha", "auth", "oauth", "authentication", "bearer", "cred", "creds"),
    *("signature", "sig", "hmac", "otp", "session"),
}
# or if its last word is one of these (custom headers hold credentials under any name).
SECRET_ENDINGS: Final = {"key", "keys", "header", "headers"}
# But not if its last word is one of these: "authMethod", "sessionStatus", "tokenType".
HARMLESS_ENDINGS: Final = {"method", "status", "type"}

_HIDDEN_CHARACTERS: Final = re.compile(r"[^\s!-~]+")
_CAMEL_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # "OTPCode" is "OTP" and "Code"

# The look-behind keeps the scan linear on text such as "-eyJ-eyJ-eyJ". After a prefix ("jwt_") the payload is found,
# which begins in the same way. It may be short, too: "{}" is "e30".
JWT: Final = re.compile(r"(?<![\w-])eyJ[\w-]{6,}\.(?:[\w-]{6,}|[\w-]*\.[\w-]{6,})(?:\.[\w-]*){0,3}")
_PRIVATE_KEY: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY")
_AUTHORIZATION: Final = re.compile(r"\s*(?:bearer\s+\S+|basic\s+(?=\S{8})[a-z0-9+/]+={0,2})\s*", re.IGNORECASE)
_DATE_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)? ?(?:[Zz]|[+-]\d\d(?::?\d\d)?)?", re.ASCII
)

# Up to the password; a user may hold "@", and a URL may hold another.
_USERINFO: Final = re.compile(r"((?:^\s*(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?/*|://)[^/?#:]*:)[^/?#]*@")
_USERINFO_IN_TEXT: Final = re.compile(r"(://[^/?#:\s]*:)[^/?#\s]*@")
# ";" separates parameters on some servers, and "?" begins them in a fragment such as "#/route?token=1": after the name
# of a secret, all up to the next "&" is hidden.
_PARAMETERS: Final = re.compile(r"[?#&][^&]*")
_PARAMETERS_IN_TEXT: Final = re.compile(r"[?#&;][^\s?#&;=]*=[^\s&#\"'<>]*")
_PARAMETER_NAME: Final = re.compile(r"[?#&;]([^?#&;=]*)=")


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """True if a key, a dotted path or a URL parameter of this name may hold a credential.

    Accents, full-width letters and invisible characters are ignored: they change no word for people.
    """
    # One character at a time: to put a long run of accents in order takes the square of its length.
    plain = _HIDDEN_CHARACTERS.sub("", "".join(normalize("NFKD", character) for character in name))
    camel_words = [word.lower() for word in _CAMEL_WORD.findall(plain)]
    words = _CAMEL_WORD.findall(plain.lower())  # "HMac" and "PaSs" too are one word
    if not words or camel_words[-1] in HARMLESS_ENDINGS:
        return False
    squeezed = plain.lower().replace("-", "").replace("_", "")
    if any(part in squeezed for part in SECRET_PARTS) or not SECRET_WORDS.isdisjoint(camel_words + words):
        return True
    is_public_key = camel_words[-2:-1] == ["public"] and camel_words[-1] in ("key", "keys")
    return not is_public_key and not SECRET_ENDINGS.isdisjoint((camel_words[-1], words[-1]))


def is_secret(name: str, value: object) -> bool:
    """True if an unknown key with this name and JSON value is withheld.

    A boolean, a null and a date-time are harmless under any name, unless that name is a secret itself (a JWT, say).
    """
    if _is_secret_key(name):
        return True
    if isinstance(value, str):
        return is_secret_text(value) or (is_secret_name(name) and not _DATE_TIME.fullmatch(value))
    return is_secret_name(name) and not (value is None or isinstance(value, bool))


def is_secret_text(text: str) -> bool:
    """True if a text is a token of this run, holds a JWT or a PEM key, or is the value of ``Authorization``."""
    return bool(
        text in _tokens
        or ("eyJ" in text and JWT.search(text))  # the first half is much quicker
        or ("PRIVATE KEY" in text and _PRIVATE_KEY.search(text))
        or (text.lstrip()[:2].lower() in {"be", "ba"} and _AUTHORIZATION.fullmatch(text))
    )


def is_plain_text(text: str) -> bool:
    """True if nothing in a text is hidden, whatever its key is: a quick test."""
    return "/" not in text and not is_secret_text(text)


_is_secret_key: Final = lru_cache(maxsize=1024)(is_secret_text)


def shown_name(name: str) -> str:
    """Return a key without its secrets: it may be one itself, or a URL that holds one."""
    return MASK if _is_secret_key(name) else mask_text(name)


def mask_text(text: str) -> str:
    """Hide what :func:`mask_url` hides, if this is a URL, with a scheme or without, or holds one."""
    return mask_url(text) if "/" in text and ("://" in text or " " not in text) else text


def mask_url(url: str) -> str:
    """Hide a URL's password and the values of its secret query and fragment parameters; leave the rest as it is."""
    if "@" in url:
        url = _USERINFO.sub(rf"\1{MASK}@", url)
    # Most URLs end here: text methods are quicker than a pattern.
    parameters = url.replace("#", "?").partition("?")[2].replace("?", "&").replace(";", "&")
    for parameter in parameters.split("&"):
        if _is_secret_parameter(parameter.partition("=")[0]):
            break
    else:
        return url
    address, number_sign, fragment = url.partition("#")
    path, question_mark, query = address.partition("?")
    parts = (question_mark + query, number_sign + fragment)
    return path + "".join(_PARAMETERS.sub(_mask_parameter, part) for part in parts)


def _mask_parameter(match: re.Match[str]) -> str:
    for parameter in _PARAMETER_NAME.finditer(match[0]):
        if _is_secret_parameter(parameter[1]):
            return match[0][: parameter.end()] + MASK
    return match[0]


@lru_cache(maxsize=1024)
def _is_secret_parameter(quoted: str) -> bool:
    name = unquote_plus(quoted)
    return is_secret_name(name) or name.strip().lower() == "code"


_LONG: Final = 8  # characters: a shorter secret may be a part of a harmless word
# This process's secrets: the length of a beginning -> the beginning in lower case -> those that begin so.
_hidden: dict[int, dict[str, set[str]]] = {}
_tokens: set[str] = set()  # the long ones, as they are


def scrub(text: str) -> str:
    """Hide secrets in a line for people: all known ones, JWTs, passwords and secret parameters in URLs.

    They are found in any case: a host name, for one, is written in lower case.
    """
    folded, found = text.lower(), []
    # Not one secret after the other: with thousands of tokens there are thousands of lines.
    for length, secrets in _hidden.items():
        beginnings = {folded[start : start + length] for start in range(len(folded))}
        for beginning in beginnings & secrets.keys():
            found += [secret for secret in secrets[beginning] if secret.lower() in folded]
    for secret in sorted(found, key=len, reverse=True):
        # A short one is hidden where it stands alone.
        pattern = re.escape(secret) if len(secret) >= _LONG else rf"(?<![\w-]){re.escape(secret)}(?![\w-])"
        text = re.sub(pattern, MASK, text, flags=re.IGNORECASE)
    text = _PARAMETERS_IN_TEXT.sub(_mask_parameter, text)
    return _USERINFO_IN_TEXT.sub(rf"\1{MASK}@", JWT.sub(MASK, text))


class ScrubbingFormatter(logging.Formatter):
    """Wraps a log handler's formatter: whatever is logged, by whomever, is scrubbed, a traceback included."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self.inner = inner or logging.Formatter()

    @override
    def format(self, record: logging.LogRecord) -> str:
        return scrub(self.inner.format(record))


def scrub_logs(tokens: Iterable[str], others: Iterable[str] = ()) -> None:
    """Hide these secrets, and those of earlier calls, from now on: in :func:`scrub` and in the present log handlers.

    Tokens are secrets in rows, too; ``others`` may be harmless there.
    """
    tokens = set(filter(None, tokens))
    _tokens.update(token for token in tokens if len(token) >= _LONG)
    for secret in tokens.union(others):  # as it is, in a URL, in JSON
        quoted = [quote(secret, safe, errors="replace") for safe in ("/", "")]
        for spelling in (secret, *quoted, json.dumps(secret)[1:-1]):
            beginning = spelling.lower()[:_LONG]
            _hidden.setdefault(len(beginning), {}).setdefault(beginning, set()).add(spelling)
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    # The last resort writes the warnings of a program whose loggers have no handler.
    for handler in filter(None, {*handlers, logging.lastResort}):
        if not isinstance(handler.formatter, ScrubbingFormatter):
            handler.setFormatter(ScrubbingFormatter(handler.formatter))
