"""The settings: their declaration, and the checks before the first request.

:data:`SETTINGS` is the only declaration. ``make docs`` writes the README's table, ``meltano.yml``, ``.env.example`` and
``hub/`` from it. It is a JSON Schema with one key of its own: ``x-error`` is the message for a value that breaks the
rules beside it. No error holds a setting's value, which may be a secret.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import sys
from configparser import ConfigParser
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import urlsplit

import fsspec  # type: ignore[import-untyped]
import msgspec
from dotenv import dotenv_values, load_dotenv
from singer_sdk.exceptions import ConfigValidationError
from singer_sdk.plugin_base import JSONSchemaValidator

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

logger = logging.getLogger("tap-instances")

PREFIX: Final = "TAP_INSTANCES_"  # of the settings' environment variables
TOKEN: Final = r"^[\x21-\x7e]+$"  # noqa: S105
# Without control characters, those that are not seen, and those that change the direction of writing.
BUSINESS_ID: Final = r"^(?!\.\.?$)[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]+$"
_HEADER_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # a token of RFC 9110
_REFUSED_HEADERS: Final = {
    "authorization": "use auth_token",
    "user-agent": "use user_agent",
    # Those that frame a message, or that would change what an answer is.
    r"host|content-length|transfer-encoding|connection|te|upgrade|expect|range|accept-encoding|"
    rf"(if|proxy)-({_HEADER_NAME})?": "the tap sets it itself, or could not read the answer",
}


def _setting(kind: str, title: str, description: str, rules: Mapping[str, object]) -> dict[str, Any]:
    return {"type": [kind, "null"], "title": title, "description": description, **rules}


def _object(required: Sequence[str], properties: Mapping[str, object]) -> dict[str, Any]:
    rules = {"type": "object", "required": required, "properties": properties, "additionalProperties": False}
    return {**rules, "x-error": f"may hold {', '.join(properties)}, and nothing else"}


_SECRET: Final = {"secret": True, "writeOnly": True}
_BARE: Final = "must be the bare token: no blank, no line break, no 'Bearer ', ASCII only"
_TOKEN: Final = _SECRET | {"pattern": TOKEN, "x-error": _BARE}
_ONE_BUSINESS: Final = {
    "business_id": _setting(
        "string", "Business ID", "The business to read. For several, use businesses, businesses_file or admin_token",
        {"pattern": BUSINESS_ID, "x-error": "must be an id: not '.' or '..', no line break"}),
    "auth_token": _setting("string", "Business token", "The bearer token of the business, without 'Bearer '", _TOKEN),
}  # fmt: skip
SETTINGS: Final[dict[str, Any]] = {  # the SDK adds its own
    "type": "object",
    "required": ["api_url"],
    "properties": {
        "api_url": _setting(
            "string", "API URL", "Base URL of the CodeChat server, with or without a trailing slash",
            {"examples": ["https://codechat.example.com"],
             "allOf": [
                 {"pattern": r"^(?![^/]*//[^/?#]*@)",
                  "x-error": "must not hold a user or a password: the token goes into auth_token"},
                 {"pattern": r"^[^?#]*$", "x-error": "must not hold '?' or '#': give the base URL only"},
                 {"pattern": r"^(?!.*/api/v2)",
                  "x-error": "must not hold /api/v2: give the base URL only, the tap adds the path"}]}),
        **_ONE_BUSINESS,
        "businesses": _setting(
            "array", "Businesses", "Several businesses of the server: a list of {business_id, auth_token}. "
            "In the environment: JSON",
            {**_SECRET, "examples": [[{"business_id": "…", "auth_token": "…"}]],
             "items": {"type": "object", "properties": _ONE_BUSINESS, "required": ["business_id"]},
             "minItems": 1, "x-error": "must list at least one {business_id, auth_token}"}),
        "businesses_file": _setting(
            "string", "File of businesses", "Path of a JSON file with the list of businesses, for secret mounts and "
            "for lists that are too long for an environment variable (128 KiB)",
            {"pattern": r"^(?![\"']?\s*[\[{])[^\n]+$",
             "x-error": "must be the path of a file; a list itself goes into businesses"}),
        "admin_token": _setting(
            "string", "Admin token", "The server's admin token: finds the token of each business that has none. With "
            "no business named, all that the server lists are read", _TOKEN),
        "headers": _setting(
            "object", "Headers", "More headers for every request, for a gateway in front of the server: "
            "an object of texts. In the environment: JSON",
            {**_SECRET, "examples": [{"apikey": "…"}],
             "patternProperties": {
                 **{rf"^(?i:{name})(?!\n)$": {"not": {}, "x-error": f"is not taken: {why}"}
                    for name, why in _REFUSED_HEADERS.items()},
                 rf"^{_HEADER_NAME}(?!\n)$": {
                     "type": "string", "pattern": r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?(?!\n)$",
                     "x-error": "must be printable ASCII without blanks at its ends"}},
             "additionalProperties": False, "x-error": "must have names that HTTP allows, such as apikey"}),
        "include_secrets": _setting(
            "boolean", "Include secrets", "Also emit auth_jwt, with which anybody can send messages as that number, "
            "and leave passwords in webhook URLs and unknown secret-like values as they are", {"default": False}),
        "concurrency": _setting(
            "integer", "Concurrency", "Requests under way at a time, ahead of the business being emitted",
            {"default": 4, "minimum": 1, "maximum": 100}),
        "request_timeout": _setting(
            "integer", "Request timeout", "Seconds without a byte before a request counts as failed",
            {"default": 60, "minimum": 1, "maximum": 86400}),
        "max_retries": _setting(
            "integer", "Retries", "Tries after the first, for failures that can pass",
            {"default": 5, "minimum": 0, "maximum": 100}),
        "user_agent": _setting(
            "string", "User agent", "The User-Agent header, tap-instances/<version> by default",
            {"pattern": r"^[\x20-\x7e]*$", "x-error": "must be plain ASCII text"}),
        "emit_activate_version_messages": _setting(
            "boolean", "Emit ACTIVATE_VERSION", "After a run in which everything succeeded, let the target delete from "
            "the FULL_TABLE streams what is no longer listed", {"default": False}),
    },
    "allOf": [{"properties": {  # more rules for the SDK's own
        "flattening_max_key_length": {"minimum": 26},  # a shorter one would rename columns
        "stream_maps": {"additionalProperties": {"additionalProperties": {
            "pattern": r"\S", "x-error": "must not be empty: give an expression, or null to remove it"}}},
        "batch_config": {"if": {"minProperties": 1}, "then": _object(["encoding", "storage"], {
            "batch_size": {"type": ["integer", "null"], "minimum": 1},
            "encoding": _object(["format"], {
                "format": {},
                "compression": {"const": "gzip", "x-error": "must be gzip: the SDK writes nothing else"}}),
            "storage": _object(["root"], {"root": {"type": "string"}, "prefix": {"type": ["string", "null"]}})})}}}],
}  # fmt: skip

# The ways to name businesses. With none of them, admin_token reads all.
WAYS: Final = ("businesses", "businesses_file", "business_id/auth_token")
# What the API calls a setting, where that is not alike.
API_NAMES: Final = {"businessToken": "auth_token"}
# Type -> how a variable becomes a setting, and what it must be. Those of other types are JSON.
PARSERS: Final[dict[str, tuple[Callable[[str], Any], str]]] = {
    "string": (str, "must be text"),
    "boolean": (lambda text: ConfigParser.BOOLEAN_STATES[text.lower()], "must be true or false"),
    "integer": (json.loads, "must be an integer"),
}
# Rule -> what a value must be. The validator's own messages would quote the value.
MESSAGES: Final = {
    "type": "must be of type",
    "enum": "must be one of",
    "minimum": "must be at least",
    "maximum": "must be at most",
}


def kind(schema: Mapping[str, Any]) -> str:
    """Return the JSON type of a schema, which may also be null."""
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return next(str(name) for name in types if name != "null")


# ------------------------------------------------------------------------------------------------- where they come from


def from_environment() -> dict[str, Any]:
    """Return the settings that are environment variables, or in ``.env`` in the working folder; refuse wrong ones."""
    for name in [name for name, text in os.environ.items() if name.startswith(PREFIX) and not text.strip()]:
        del os.environ[name]  # as if it were unset: .env may have it
    try:
        load_dotenv(".env", encoding="utf-8-sig")  # a variable that is set already stays
    except ValueError:
        refuse([".env must be text in UTF-8"])
    result, errors = {}, []
    for name, text in _variables(os.environ).items():
        schema = SETTINGS["properties"].get(name, {"type": "string"})  # what is not known is warned of later
        parse, must = PARSERS.get(kind(schema), (json.loads, "must be JSON"))
        try:
            result[name] = parse(text)
        except (KeyError, ValueError, RecursionError):
            errors.append(f"{PREFIX}{name.upper()} {must}")
    if errors:
        refuse(errors)
    return result


def _variables(environment: Mapping[str, str | None]) -> dict[str, str]:
    """Return setting -> text of the environment variables that are this tap's and not empty."""
    ours = re.compile(rf"{PREFIX}(?!_|LOGLEVEL\Z)")  # LOGLEVEL is the SDK's; Meltano's begin with two underscores
    return {
        name.removeprefix(PREFIX).lower(): text.strip()
        for name, text in environment.items()
        if ours.match(name) and name.isupper() and text and text.strip()
    }


def read_json(
    name: str, path: str, problem: str, take: Callable[[Any], Any] = lambda value: msgspec.convert(value, dict)
) -> Any:  # noqa: ANN401
    """Return what ``take`` makes of a file's JSON: UTF-8, or UTF-16 with its byte order mark. No line quotes it."""
    try:
        raw = sys.stdin.buffer.read() if path == "-" else Path(path).expanduser().read_bytes()
        return take(json.loads(raw))
    except OSError as error:
        refuse([f"{name} {path} cannot be read: {error.strerror}"])
    except Exception as error:  # noqa: BLE001 (whatever shape a file may have)
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        refuse([f"{name} {path} {problem}{where}"])


# ----------------------------------------------------------------------------------------------------------- the checks


def checked(given: dict[str, Any], *, read_file: bool) -> tuple[dict[str, Any], list[str]]:
    """Return the settings ready for use, and a line for each that is wrong.

    Ready means: without blanks around texts, defaults filled in, and the businesses as ``businesses``, each with its
    ``auth_token`` or, where there is an ``admin_token``, without.
    """
    config: dict[str, Any] = _tidy(given)
    errors = _errors(config)
    if "business_id" in config and not errors:
        config["businesses"] = [{name: config.pop(name) for name in _ONE_BUSINESS if name in config}]
    if "businesses_file" in config and read_file and not errors:
        path = config.pop("businesses_file")
        problem = "is not a JSON list of {business_id, auth_token}"
        many = read_json("businesses_file", path, problem, lambda value: msgspec.convert(value, list))
        config["businesses"] = _tidy(many)
        errors = [f"businesses_file {path}: {line}" for line in _errors(config)]
    return config, errors


def refuse(errors: list[str]) -> NoReturn:
    """End before anything was done, with a line for each error."""
    raise ConfigValidationError("; ".join(errors), errors=errors)


def secrets(config: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return what must be scrubbed from logs, of wrong settings too: tokens; headers' values, and their long words."""
    tokens = _leaves([config.get(name) for name in ("businesses", "auth_token", "admin_token")])
    words = [word for value in _leaves(config.get("headers")) for word in (value, *value.split())]
    return tokens, [word for word in words if len(word) >= 8]  # noqa: PLR2004


def warn_of_unknown(before: str, given: Iterable[str], known: Collection[str], after: str) -> None:
    """Log a warning for each name that does not exist, with the one that may be meant: most are misspelled."""
    for name, meant in _misspelled(given, known).items():
        logger.warning("%s %r%s%s", before, name, after, f": did you mean {meant!r}?" if meant else "")


def _misspelled(given: Iterable[str], known: Collection[str]) -> dict[str, str]:
    """Return unknown name -> the known one that may be meant, or an empty text."""
    meanings = {name: name for name in known} | {name: meant for name, meant in API_NAMES.items() if meant in known}
    closest = {name: difflib.get_close_matches(name, meanings, n=1) for name in given if name not in known}
    return {name: meanings[close[0]] if close else "" for name, close in closest.items()}


def _leaves(value: Any) -> list[str]:  # noqa: ANN401
    """Return the texts and numbers in a JSON value; of a business with a token, that alone."""
    if isinstance(value, dict):
        names = {"auth_token"} if value.keys() >= {*_ONE_BUSINESS} else value.keys() - {"business_id"}
        value = [value[name] for name in names]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [] if value in (None, "", True, False) else [str(value)]


def _tidy(value: Any) -> Any:  # noqa: ANN401
    """Return a value without blanks around texts, without settings that are null or empty, and with 4 for 4.0.

    An object within an object (stream maps, headers) stays as it is.
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if isinstance(value, dict):
        tidy = {name: item if isinstance(item, dict) else _tidy(item) for name, item in value.items()}
        return {name: item for name, item in tidy.items() if item not in (None, "")}
    return value


def _errors(config: dict[str, Any]) -> list[str]:
    """Fill in the defaults; return a line for each rule that is broken."""
    try:
        errors = [line for error in JSONSchemaValidator(SETTINGS).iter_errors(config) for line in _lines(error)]
    except AttributeError:  # the SDK's own rule for __else__ is not a JSON Schema
        errors = ["stream_maps is not of the right shape: see --about"]
    ways = [way for way in WAYS if config.keys() & {*way.split("/")}]
    if len(ways) > 1:
        errors.append(f"{' and '.join(ways)} are both given: keep one of them")
    return list(dict.fromkeys(errors)) or [
        *_url_errors(config["api_url"]),
        *_business_errors(config),
        *_header_errors(config.get("headers", {})),
        *(_batch_errors(batch) if (batch := config.get("batch_config")) else ()),
    ]


def _lines(error: Any) -> list[str]:  # noqa: ANN401 (jsonschema's types are too wide)
    """Return what a setting must be, or which ones are missing."""
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
    rule, given = error.validator_value, error.instance
    if error.validator == "required":
        return [_missing(f"{where}.{name}".lstrip("."), given) for name in rule if name not in given]
    if must := MESSAGES.get(error.validator):
        words = rule if isinstance(rule, list) else [rule]
        return [f"{where} {must} {', '.join(str(word) for word in words if word != 'null')}"]
    return [f"{where} {error.schema.get('x-error', 'is not of the right shape: see --about')}"]


def _missing(where: str, given: Mapping[str, Any], others: str = "") -> str:
    """Return the line about a missing setting: what may be meant for it, or where it stands without being read."""
    name = where.rpartition(".")[2]
    for unknown, meant in _misspelled(given, SETTINGS["properties"]).items():
        if meant == name:
            return f"{where} is missing, but {unknown!r} is set: did you mean {name!r}?"
    line = f"{where} is missing: set it{others}"
    dotenv = dotenv_values(".env", encoding="latin-1")  # an encoding that cannot fail
    for place, environment in (("the environment", dict(os.environ)), (".env", dotenv)):
        variables, known = _variables(environment), SETTINGS["properties"]
        for unknown, meant in _misspelled(variables, known).items():
            if meant == where:
                variable, right = f"{PREFIX}{unknown.upper()}", f"{PREFIX}{where.upper()}"
                return f"{where} is missing, but {variable} is in {place}: did you mean {right}?"
        if where == name and known.keys() & variables.keys() - given.keys():
            return f"{line} ({PREFIX}… are in {place}, which --config=ENV reads)"
    return line


def _url_errors(url: str) -> list[str]:
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and not re.search(r"[\s\\]", url):
            return []
    return ["api_url must be a web address such as https://codechat.example.com"]


def _business_errors(config: Mapping[str, Any]) -> Iterator[str]:
    settings = ("businesses", "businesses_file", "business_id", "auth_token", "admin_token")
    others = ", with auth_token, or use businesses, businesses_file or admin_token"
    if not config.keys() & {*settings[:3]} and ("auth_token" in config or "admin_token" not in config):
        meant = _misspelled(config, SETTINGS["properties"]).values()
        names = [name for name in settings if name in meant and name not in config]
        yield from (_missing(name, config, others) for name in names or ["business_id"])
    first: dict[str | None, str] = {}
    for index, entry in enumerate(config.get("businesses", [config] if "business_id" in config else [])):
        prefix = "" if entry is config else f"businesses[{index}]."
        if (where := first.setdefault(entry.get("business_id"), prefix)) != prefix:
            yield f"{prefix}business_id is the same as {where}business_id: list a business once"
        if "auth_token" not in entry and "admin_token" not in config:
            yield _missing(f"{prefix}auth_token", entry, ", or admin_token, which finds it")


def _header_errors(headers: Mapping[str, str]) -> list[str]:
    folded = [name.lower() for name in headers]
    twice = [name for name in headers if folded.count(name.lower()) > 1]
    return [f"headers.{name} is given twice, in upper and lower case: keep one" for name in twice]


def _batch_errors(batch: Mapping[str, Any]) -> Iterator[str]:
    try:
        if batch["encoding"]["format"] == "parquet":
            import_module("pyarrow")
        fsspec.get_filesystem_class(urlsplit(batch["storage"]["root"]).scheme or "file")
    except (ImportError, ValueError) as error:
        yield f"batch_config needs a library beside the tap: {error}"
