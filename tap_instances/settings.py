"""The settings: their declaration, and what is refused before the first request, by name and with what to do."""

from __future__ import annotations

import difflib
import logging
import os
import re
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from singer_sdk import typing as th
from singer_sdk.configuration._dict_config import parse_environment_config
from singer_sdk.exceptions import ConfigValidationError
from singer_sdk.plugin_base import JSONSchemaValidator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jsonschema import ValidationError

logger = logging.getLogger("tap-instances")

SETTINGS = th.PropertiesList(
    th.Property(
        "api_url",
        th.StringType,
        required=True,
        title="API URL",
        description="Base URL of the CodeChat server, such as https://codechat.example.com",
    ),
    th.Property(
        "business_id",
        th.StringType,
        title="Business ID",
        description="The business to read; with auth_token, or use businesses",
    ),
    th.Property(
        "auth_token",
        th.StringType,
        secret=True,
        title="Auth token",
        description="The business's bearer token, without 'Bearer '",
    ),
    th.Property(
        "businesses",
        th.ArrayType(
            th.ObjectType(
                th.Property("business_id", th.StringType, required=True),
                th.Property("auth_token", th.StringType, required=True, secret=True),
            )
        ),
        secret=True,
        title="Businesses",
        description="Many businesses of one server: a list of {business_id, auth_token}, instead of the two settings "
        "above. In the environment: JSON",
    ),
    th.Property(
        "include_secrets",
        th.BooleanType,
        default=False,
        title="Include secrets",
        description="Emit what is withheld otherwise: auth_jwt, passwords in webhook URLs, credential-like keys",
    ),
    th.Property(
        "concurrency",
        th.IntegerType(minimum=1, maximum=100),
        default=4,
        title="Concurrency",
        description="Requests under way at a time, ahead of the business being emitted",
    ),
    th.Property(
        "request_timeout",
        th.IntegerType(minimum=1),
        default=60,
        title="Request timeout",
        description="Seconds without a byte before a request counts as failed",
    ),
    th.Property(
        "max_retries",
        th.IntegerType(minimum=0, maximum=100),
        default=5,
        title="Maximum retries",
        description="Tries after the first, for failures that can pass",
    ),
    th.Property(
        "user_agent",
        th.StringType,
        title="User agent",
        description="The User-Agent header; tap-instances/<version> by default",
    ),
    th.Property(
        "emit_activate_version_messages",
        th.BooleanType,
        default=False,
        title="Emit ACTIVATE_VERSION",
        description="After a run in which everything succeeded, let the target delete from the FULL_TABLE streams what "
        "is no longer listed",
    ),
).to_dict()

BOOLEANS = {"true", "1", "yes", "on", "false", "0", "no", "off"}


def from_environment(declared: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Read ``<prefix><NAME>`` of each declared setting, one at a time, so that a bad value is refused by its name."""
    result: dict[str, Any] = {}
    errors: list[str] = []
    for name, schema in declared.items():
        variable = f"{prefix}{name.upper()}"
        if os.environ.get(variable) == "":
            continue  # as if it were not set
        if "boolean" in schema["type"] and os.environ.get(variable, "true").lower() not in BOOLEANS:
            errors.append(f"{variable} must be true or false")
            continue
        try:
            result.update(parse_environment_config({"properties": {name: schema}}, prefix))
        except ValueError:
            errors.append(f"{variable} must be {'an integer' if 'integer' in schema['type'] else 'JSON'}")
    if errors:
        refuse(errors)
    return result


def wrong(config: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """Return what is wrong with the settings; fill in the defaults. Never a value: it may be a secret."""
    for name in [name for name, value in config.items() if value is None]:
        del config[name]  # as if it were not set
    return [_explain(error) for error in JSONSchemaValidator(schema).iter_errors(config)] or _check(config)


def refuse(errors: list[str]) -> NoReturn:
    """End before anything was done, with a line for each error."""
    raise ConfigValidationError("; ".join(errors), errors=errors)


def secrets(config: Mapping[str, Any]) -> set[str]:
    """Return the tokens in the settings, right or wrong as they may be."""
    many = config.get("businesses")
    entries = [config, *(many if isinstance(many, list) else ())]
    tokens = {entry.get("auth_token") for entry in entries if isinstance(entry, dict)}
    return {token for token in tokens if isinstance(token, str) and token}


def warn_of_unknown(config: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Name the settings that nobody reads: most are typing errors."""
    for name in config.keys() - schema["properties"].keys():
        close = difflib.get_close_matches(name, schema["properties"], n=1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        logger.warning("setting %r is not known and is ignored%s", name, hint)


def _explain(error: ValidationError) -> str:
    """Say which setting is wrong and what it must be; the validator's own message would quote the value."""
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
    rule: Any = error.validator_value
    if error.validator == "required":
        name = error.message.split("'")[1]  # one error a missing setting; its name stands in the message only
        return f"{where}.{name} is missing: set it" if where else f"{name} is missing: set it (README, Settings)"
    if error.validator == "type":
        kinds = " or ".join(kind for kind in ([rule] if isinstance(rule, str) else rule) if kind != "null")
        return f"{where} must be of type {kinds}"
    if error.validator in {"minimum", "maximum"}:
        return f"{where} must be at {'least' if error.validator == 'minimum' else 'most'} {rule}"
    return f"{where} is not of the shape that it must have: see --about"


def _check(config: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with settings of the right types."""
    errors = _check_api_url(config["api_url"].strip())
    many = config.get("businesses")
    if many is None:
        entries = [("", config)]
    else:
        if "business_id" in config or "auth_token" in config:
            errors.append("businesses and business_id/auth_token are both given: keep one of the two ways")
        if not many:
            errors.append("businesses is empty: list at least one {business_id, auth_token}")
        entries = [(f"businesses[{index}].", entry) for index, entry in enumerate(many)]
    first: dict[str, str] = {}
    for prefix, entry in entries:
        errors += _check_business(prefix, entry)
        if first.setdefault(entry.get("business_id") or prefix, prefix) != prefix:
            where = first[entry["business_id"]]
            errors.append(f"{prefix}business_id is the same as {where}business_id: list a business once")
    agent = config.get("user_agent", "")
    if not (agent.isascii() and agent.isprintable()):
        errors.append("user_agent must be plain ASCII text")
    encoding = (config.get("batch_config") or {}).get("encoding") or {}
    if encoding.get("compression", "gzip") != "gzip":
        errors.append("batch_config.encoding.compression must be gzip: the SDK writes nothing else")
    return errors


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


def _check_business(prefix: str, entry: Mapping[str, Any]) -> list[str]:
    business_id, token = entry.get("business_id") or "", entry.get("auth_token") or ""
    instead = "" if prefix else ", or use businesses"
    rules = (
        (not business_id, f"business_id is missing: set it{instead}"),
        (not token, f"auth_token is missing: set it{instead}"),
        (
            business_id in {".", ".."} or not business_id.isprintable(),
            "business_id must be an id: no '.', '..' or line break",
        ),
        (
            token and not re.fullmatch(r"[\x21-\x7e]+", token),
            "auth_token must be the bare token: no space, no line break, no 'Bearer '",
        ),
    )
    return [f"{prefix}{what}" for wrong, what in rules if wrong]
