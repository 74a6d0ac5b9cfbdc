"""The columns, as ``schemas/`` declares them: one JSON Schema a stream, and nowhere else.

``x-api`` names the API's key (by path from the stream's own object), ``type`` and ``format`` say what the column holds,
``x-secret`` that it leaves only with ``include_secrets``.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable


class Column(NamedTuple):
    """What a column holds: ``text``, ``flag`` (boolean) or ``time``, and whether it is a secret."""

    name: str
    kind: str
    secret: bool


@cache
def load_schema(stream: str) -> dict[str, Any]:
    """Return the JSON Schema of a stream from ``schemas/``: in a wheel inside the package, else beside it."""
    package = Path(__file__).parent
    folder = next(folder for folder in (package / "schemas", package.parent / "schemas") if folder.is_dir())
    schema: dict[str, Any] = json.loads((folder / f"{stream}.json").read_text(encoding="utf-8"))
    return schema


@cache
def api_columns(stream: str) -> dict[str, Column]:
    """Return API path -> column of a stream, in the schema's order."""
    columns = {}
    for name, spec in load_schema(stream)["properties"].items():
        if "x-api" in spec:
            kind = "flag" if "boolean" in spec["type"] else "time" if spec.get("format") == "date-time" else "text"
            columns[spec["x-api"]] = Column(name, kind, "x-secret" in spec)
    return columns


@cache
def column_names(stream: str, *, include_secrets: bool) -> tuple[str, ...]:
    """Return the columns that leave, in the schema's order."""
    properties = load_schema(stream)["properties"].items()
    return tuple(name for name, spec in properties if include_secrets or "x-secret" not in spec)


@cache
def row_type(stream: str, *, include_secrets: bool) -> Callable[..., Any]:
    """Return a struct of a stream's columns, which takes its values in the schema's order; they are null if missing."""
    names = column_names(stream, include_secrets=include_secrets)
    return msgspec.defstruct(stream, [(name, Any, None) for name in names], gc=False)
