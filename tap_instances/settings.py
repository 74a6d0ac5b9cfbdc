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
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import urlsplit

import fsspec  # type: ignore[import-untyped]
from dotenv import dotenv_values, load_dotenv
from singer_sdk.exceptions import ConfigValidationError
from singer_sdk.typing import DEFAULT_JSONSCHEMA_VALIDATOR, extend_validator_with_defaults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jsonschema import ValidationError

logger = logging.getLogger("tap-instances")

PREFIX: Final = "TAP_INSTANCES_"  # of the settings' environment variables
TOKEN: Final = r"^[\x21-\x7e]+$"  # noqa: S105
BUSINESS_ID: Final = r"^(?!\.\.?$)[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]+$"
# In Python "$" also matches before a line break at the end.
HEADER_NAME: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+(?!\n)$"  # a token of RFC 9110
HEADER_VALUE: Final = r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?(?!\n)$"


def _setting(kind: str, title: str, description: str, **rules: object) -> dict[str, Any]:
    return {"type": [kind, "null"], "title": title, "description": description, **rules}


def _secret(kind: str, title: str, description: str, **rules: object) -> dict[str, Any]:
    return _setting(kind, title, description, secret=True, writeOnly=True, **rules)


_TOKEN_RULE: Final = {"pattern": TOKEN, "x-error": "must be the bare token: no blank, no line break, no 'Bearer '"}
_ONE_BUSINESS: Final = {
    "business_id": _setting(
        "string", "Business ID", "The business to read. For several, use businesses, businesses_file or admin_token",
        pattern=BUSINESS_ID, **{"x-error": "must be an id: not '.' or '..', no line break"},
    ),
    "auth_token": _secret(
        "string", "Business token", "The bearer token of the business, without 'Bearer '", **_TOKEN_RULE
    ),
}  # fmt: skip
SETTINGS: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["api_url"],
    "properties": {
        "api_url": _setting(
            "string", "API URL", "Base URL of the CodeChat server, with or without a trailing slash",
            examples=["https://codechat.example.com"],
        ),
        **_ONE_BUSINESS,
        "businesses": _secret(
            "array", "Businesses", "Several businesses of the server: a list of {business_id, auth_token}. "
            "In the environment: JSON",
            items={"type": "object", "properties": _ONE_BUSINESS, "required": ["business_id"]},
            examples=[[{"business_id": "…", "auth_token": "…"}]],
            minItems=1, **{"x-error": "must list at least one {business_id, auth_token}"},
        ),
        "businesses_file": _setting(
            "string", "File of businesses", "Path of a JSON file with the list of businesses, for secret mounts and "
            "for lists that are too long for an environment variable (128 KiB)",
            pattern=r"^(?![\"']?\s*[\[{])[^\n]+$",
            **{"x-error": "must be the path of a file; a list itself goes into businesses"},
        ),
        "admin_token": _secret(
            "string", "Admin token", "The server's admin token: finds the token of each business that has none. With "
            "no business named, all that the server lists are read", **_TOKEN_RULE,
        ),
        "headers": _secret(
            "object", "Headers", "More headers for every request, for a gateway in front of the server: "
            "an object of texts. In the environment: JSON", examples=[{"apikey": "…"}],
            propertyNames={"pattern": HEADER_NAME, "x-error": "must have names that HTTP allows, such as apikey"},
            additionalProperties={"type": "string", "pattern": HEADER_VALUE,
                                  "x-error": "must be printable ASCII without blanks at its ends"},
        ),
        "include_secrets": _setting(
            "boolean", "Include secrets", "Also emit auth_jwt, with which anybody can send messages as that number, "
            "and leave passwords in webhook URLs and unknown secret-like values as they are",
            default=False,
        ),
        "concurrency": _setting(
            "integer", "Concurrency", "Requests under way at a time, ahead of the business being emitted",
            default=4, minimum=1, maximum=100,
        ),
        "request_timeout": _setting(
            "integer", "Request timeout", "Seconds without a byte before a request counts as failed",
            default=60, minimum=1, maximum=86400,
        ),
        "max_retries": _setting(
            "integer", "Retries", "Tries after the first, for failures that can pass",
            default=5, minimum=0, maximum=100,
        ),
        "user_agent": _setting(
            "string", "User agent", "The User-Agent header, tap-instances/<version> by default",
            pattern=r"^[\x20-\x7e]*$", **{"x-error": "must be plain ASCII text"},
        ),
        "emit_activate_version_messages": _setting(
            "boolean", "Emit ACTIVATE_VERSION", "After a run in which everything succeeded, let the target delete from "
            "the FULL_TABLE streams what is no longer listed",
            default=False,
        ),
    },
}  # fmt: skip

# The ways to name businesses. With none of them, admin_token reads all.
WAYS: Final = {"businesses": "businesses", "businesses_file": "businesses_file",
               "business_id": "business_id/auth_token", "auth_token": "business_id/auth_token"}  # fmt: skip
REFUSED_HEADERS: Final = {"authorization": "use auth_token", "user-agent": "use user_agent"}
# Those that frame a message, or that would change what an answer is.
RESERVED_HEADER: Final = re.compile(
    r"host|content-length|transfer-encoding|connection|te|upgrade|expect|range|accept-encoding|if-.*|proxy-.*"
)
_BOOLEANS: Final = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)
# How a variable becomes a setting of this type; of all others it is JSON.
PARSERS: Final[dict[str, Callable[[str], Any]]] = {"string": str, "boolean": lambda text: _BOOLEANS[text.lower()]}
_Validator: Final = extend_validator_with_defaults(DEFAULT_JSONSCHEMA_VALIDATOR)


def kind(schema: Mapping[str, Any]) -> str:
    """Return the JSON type of a setting, which may also be null."""
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return next(str(name) for name in types if name != "null")


def businesses(config: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the businesses that the settings name, as ``{business_id, auth_token}``; with only admin_token, none.

    ``auth_token`` may be missing where there is an admin_token.
    """
    one = {name: config[name] for name in _ONE_BUSINESS if name in config}
    return config.get("businesses") or ([one] if one else [])


# ------------------------------------------------------------------------------------------------- where they come from


def from_environment(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the declared settings that are environment variables, or in ``.env`` in the working folder.

    Raises:
        ConfigValidationError: With a line for each variable that cannot be parsed.
    """
    try:
        load_dotenv(".env", encoding="utf-8-sig")  # a variable that is set already stays
    except ValueError:
        refuse([".env must be text in UTF-8"])
    result, errors = {}, []
    for name, schema in declared.items():
        variable, type_ = f"{PREFIX}{name.upper()}", kind(schema)
        text = os.environ.get(variable, "").strip()
        if not text:
            continue
        try:
            result[name] = PARSERS.get(type_, json.loads)(text)
        except (KeyError, ValueError, RecursionError):
            words = {"boolean": "must be true or false", "integer": "must be an integer"}
            errors.append(f"{variable} {words.get(type_, 'must be JSON')}")
    if errors:
        refuse(errors)
    return result


def read_json(name: str, path: str, must: type, problem: str) -> Any:  # noqa: ANN401
    """Return the JSON of a file (UTF-8, or UTF-16 with its byte order mark).

    Raises:
        ConfigValidationError: Naming the file, what it must hold, and the place of a mistake, never what is in it.
    """
    try:
        value = json.loads(Path(path).expanduser().read_bytes())
    except OSError as error:
        refuse([f"{name} {path} cannot be read: {error.strerror}"])
    except (ValueError, RuntimeError) as error:
        refuse([not_json(name, path, problem, error)])
    if not isinstance(value, must):
        refuse([not_json(name, path, problem)])
    return value


def not_json(name: str, path: str, problem: str, error: Exception | None = None) -> str:
    """Return the line about a file that is not what it must be, with the place of the mistake if it is known."""
    where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
    return f"{name} {path} {problem}{where}"


# ----------------------------------------------------------------------------------------------------------- the checks


def checked(given: dict[str, Any], schema: dict[str, Any], *, read_file: bool) -> tuple[dict[str, Any], list[str]]:
    """Return the settings ready for use, and a line for each that is wrong.

    Ready means: without blanks around texts, defaults filled in, and the list of ``businesses_file`` as ``businesses``.
    """
    config: dict[str, Any] = _tidy(given, schema)
    errors = [*_check_ways(config), *_schema_errors(config, schema)]
    path = config.get("businesses_file")
    if path and read_file and not errors:
        del config["businesses_file"]
        many = read_json("businesses_file", path, list, "is not a JSON list of {business_id, auth_token}")
        config = _tidy({**config, "businesses": many}, schema)
        errors = [*_schema_errors(config, schema)]
    if not errors:
        errors = [*_check_api_url(config["api_url"]), *_check_businesses(config), *_check_headers(config),
                  *_check_batches(config)]  # fmt: skip
    if path and "businesses_file" not in config:
        errors = [f"businesses_file {path}: {line}" if line.startswith("businesses") else line for line in errors]
    return config, list(dict.fromkeys(errors))


def refuse(errors: list[str]) -> NoReturn:
    """End before anything was done, with a line for each error."""
    raise ConfigValidationError("; ".join(errors), errors=errors)


def secrets(config: Mapping[str, Any]) -> set[str]:
    """Return the secret values in the settings, also in wrong ones: they must be scrubbed from logs.

    Of headers, values of 8 characters and more, and their words (``Basic …``).
    """
    headers = config.get("headers")
    values = {part for value in _leaves(headers) for part in (value, *value.split()) if len(part) >= 8}  # noqa: PLR2004
    tokens = [value for name in ("auth_token", "admin_token") for value in _leaves(config.get(name))]
    many = config.get("businesses")
    for entry in many if isinstance(many, list) else [many]:
        tokens += _leaves(entry["auth_token"] if isinstance(entry, dict) and "auth_token" in entry else entry)
    return values | set(tokens)


def warn_of_unknown(config: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Log a warning for each setting that does not exist: most are misspelled."""
    meant = {name: setting for setting, name in _misspelled(config).items()}
    for name in config.keys() - schema["properties"].keys():
        hint = f": did you mean {meant[name]!r}?" if name in meant else ""
        logger.warning("setting %r is not known and is ignored%s", name, hint)


def _misspelled(given: Mapping[str, Any]) -> dict[str, str]:
    """Return setting -> the unknown name that may mean it."""
    unknown = [name for name in given if name not in SETTINGS["properties"]]
    close = {name: difflib.get_close_matches(name, SETTINGS["properties"], n=1) for name in unknown}
    return {settings[0]: name for name, settings in close.items() if settings}


def _leaves(value: Any) -> list[str]:  # noqa: ANN401
    """Return the texts and numbers in a JSON value, but the ids of businesses, which are not secret."""
    if isinstance(value, dict):
        return [leaf for name, item in value.items() if name != "business_id" for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [] if value in (None, "") or isinstance(value, bool) else [str(value)]


def _tidy(value: Any, schema: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return a value without blanks around texts, without settings that are null or empty, and with 4 for 4.0.

    Objects of any keys (stream maps, headers) stay as they are.
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and "integer" in schema.get("type", ()) and value.is_integer():
        return int(value)
    if isinstance(value, list) and "items" in schema:
        return [_tidy(item, schema["items"]) for item in value]
    if isinstance(value, dict) and "properties" in schema and "additionalProperties" not in schema:
        declared = schema["properties"]
        tidy = {name: _tidy(item, declared[name]) if name in declared else item for name, item in value.items()}
        return {name: item for name, item in tidy.items() if name not in declared or item not in (None, "")}
    return value


def _schema_errors(config: dict[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    try:
        errors = list(_Validator(schema).iter_errors(config))
    except AttributeError:  # the SDK's own rule for __else__ is not a JSON Schema
        yield "stream_maps is not of the right shape: see --about"
        return
    for error in errors:
        where = _where(error)
        if error.validator == "required":
            missing = [name for name in error.validator_value if name not in error.instance]
            yield from (_missing(f"{where}.{name}".lstrip("."), error.instance) for name in missing)
        else:
            yield f"{where} {_message(error)}"


def _where(error: ValidationError) -> str:
    """Return the path of a setting; of a header's name, only one that can stand in a line."""
    where = ""
    for part in error.absolute_path:
        where += f"[{part}]" if isinstance(part, int) else f".{part if re.search(HEADER_NAME, part) else '…'}"
    return where.lstrip(".")


def _message(error: ValidationError) -> str:
    """Return what a value must be. The validator's own message would quote the value."""
    rule: Any = error.validator_value
    if error.validator == "type":
        return f"must be of type {kind({'type': rule})}"
    if error.validator in {"minimum", "maximum"}:
        return f"must be at {'least' if error.validator == 'minimum' else 'most'} {rule}"
    if error.validator == "enum":
        return f"must be one of {', '.join(rule)}"
    schema: Any = error.schema
    return str(schema.get("x-error", "is not of the right shape: see --about"))


def _missing(where: str, given: Mapping[str, Any], others: str = "") -> str:
    """Return the line about a missing setting, with the misspelled one that may be meant."""
    name = where.rpartition(".")[2]
    if unknown := _misspelled(given).get(name):
        return f"{where} is missing, but {unknown!r} is set: did you mean {name!r}?"
    ignored = [f"{PREFIX}{key.upper()}" for key in SETTINGS["properties"] if key not in given]
    places = {"the environment": os.environ, ".env": _dotenv()} if where == name else {}
    found = [place for place, values in places.items() if any((values.get(key) or "").strip() for key in ignored)]
    hint = f" ({PREFIX}… are in {found[0]}, which --config=ENV reads)" if found else ""
    return f"{where} is missing: set it{others}{hint}"


def _dotenv() -> Mapping[str, str | None]:
    """Return the variables in ``.env`` in the working folder, as far as it can be read."""
    try:
        return dotenv_values(".env", encoding="utf-8-sig")
    except (OSError, ValueError):
        return {}


def _check_ways(config: Mapping[str, Any]) -> Iterator[str]:
    given = list(dict.fromkeys(way for name, way in WAYS.items() if name in config))
    if len(given) > 1:
        yield f"{' and '.join(given)} are both given: keep one of them"


def _check_api_url(url: str) -> list[str]:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or re.search(r"[\s\\]", url):
        return ["api_url must be a web address such as https://codechat.example.com"]
    rules = (
        (parts.username or parts.password, "a user or a password: the token goes into auth_token"),
        (parts.query or parts.fragment or "?" in url or "#" in url, "'?' or '#': give the base URL only"),
        ("/api/v2" in parts.path, "/api/v2: give the base URL only, the tap adds the path"),
    )
    return [f"api_url must not hold {what}" for wrong, what in rules if wrong]


def _check_businesses(config: Mapping[str, Any]) -> Iterator[str]:
    others = "or use businesses, businesses_file or admin_token"
    if not config.keys() & {*WAYS, "admin_token"}:
        missing = [name for name in (*WAYS, "admin_token") if name in _misspelled(config)] or ["business_id"]
        yield from (_missing(name, config, f", with auth_token, {others}") for name in missing)
    first: dict[str, str] = {}
    for index, entry in enumerate(businesses(config)):
        prefix = f"businesses[{index}]." if "businesses" in config else ""
        if "business_id" not in entry:  # so it is not in a list
            yield _missing("business_id", config, f", {others}")
        elif (where := first.setdefault(entry["business_id"], prefix)) != prefix:
            yield f"{prefix}business_id is the same as {where}business_id: list a business once"
        if "auth_token" not in entry and "admin_token" not in config:
            yield _missing(f"{prefix}auth_token", entry if prefix else config, ", or admin_token, which finds it")


def _check_headers(config: Mapping[str, Any]) -> Iterator[str]:
    headers: dict[str, str] = config.get("headers", {})
    spellings = Counter(name.lower() for name in headers)
    for name in headers:
        folded = name.lower()
        if folded in REFUSED_HEADERS:
            yield f"headers.{name} is not taken: {REFUSED_HEADERS[folded]}"
        elif RESERVED_HEADER.fullmatch(folded):
            yield f"headers.{name} is not taken: the tap sets it itself, or could not read the answer"
        elif spellings[folded] > 1:
            yield f"headers.{name} is given twice, in upper and lower case: keep one"


def _check_batches(config: Mapping[str, Any]) -> Iterator[str]:
    if not (batch := config.get("batch_config")):
        return
    encoding, storage = batch.get("encoding") or {}, batch.get("storage") or {}
    for where, missing in (("encoding.format", "format" not in encoding), ("storage.root", "root" not in storage)):
        if missing:
            yield f"batch_config.{where} is missing: set it"
    if encoding.get("compression", "gzip") != "gzip":
        yield "batch_config.encoding.compression must be gzip: the SDK writes nothing else"
    if encoding.get("format") == "parquet" and not find_spec("pyarrow"):
        yield "batch_config.encoding.format is parquet, which needs pyarrow: install pyarrow beside the tap"
    try:
        fsspec.get_filesystem_class(urlsplit(storage.get("root", "")).scheme or "file")
    except (ImportError, ValueError) as error:
        yield f"batch_config.storage.root needs a library beside the tap: {error}"
