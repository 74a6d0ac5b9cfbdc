"""The tables in the docs that repeat a declaration: `make docs` writes them, a test holds them to it.

Each stands between `<!-- NAME -->` and `<!-- /NAME -->` in its page. The settings come from the tap's declaration, the
streams from its classes, the columns from `schemas/`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tap_instances.columns import load_schema
from tap_instances.tap import TapInstances

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from singer_sdk import Stream

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/streams.md")


def declared() -> dict[str, Any]:
    """Return every setting of the tap, the SDK's own included: name -> JSON Schema."""
    TapInstances.append_builtin_config(TapInstances.config_jsonschema)
    settings: dict[str, Any] = TapInstances.config_jsonschema["properties"]
    return settings


def builtin() -> set[str]:
    """Return the names of the settings that every tap on this SDK has."""
    empty: dict[str, Any] = {"type": "object", "properties": {}}
    TapInstances.append_builtin_config(empty)
    return set(empty["properties"]) | {"emit_activate_version_messages"}


def streams() -> list[Stream]:
    """Return the tap's streams, in their order."""
    tap = TapInstances(config={}, validate_config=False)
    return list(tap.discover_streams())


def kind(schema: dict[str, Any]) -> str:
    """Name a schema's type as a reader of a table wants it."""
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    [name] = [each for each in types if each != "null"]
    return "timestamp" if schema.get("format") == "date-time" else str(name)


def settings_table() -> str:
    """Return the tap's own settings as a table."""
    rows = [
        (
            f"`{name}`",
            kind(schema) + (", secret" if schema.get("secret") else ""),
            "**required**" if name in TapInstances.config_jsonschema["required"] else _default(schema),
            schema["description"],
        )
        for name, schema in declared().items()
        if name not in builtin()
    ]
    return _table(("setting", "type", "default", "what it is"), rows)


def streams_table() -> str:
    """Return the streams as a table."""
    rows = [
        (
            f"[`{stream.name}`](docs/streams.md#{stream.name})",
            ", ".join(f"`{key}`" for key in stream.primary_keys),
            stream.replication_method,
            load_schema(stream.name)["description"],
        )
        for stream in streams()
    ]
    return _table(("stream", "key", "replication", "rows"), rows)


def columns_tables() -> str:
    """Return each stream's columns, under a heading of its own."""
    return "\n\n".join(_columns(stream) for stream in streams())


def _columns(stream: Stream) -> str:
    schema = load_schema(stream.name)
    keys = ", ".join(f"`{key}`" for key in stream.primary_keys)
    method = stream.replication_method + (f" on `{stream.replication_key}`" if stream.replication_key else "")
    above = cast("Any", stream.parent_stream_type)
    parent = f" Below `{above.name}`." if above else ""
    rows = [
        (f"`{name}`", kind(spec) + ("" if "null" in spec["type"] else ", not null"), spec["description"])
        for name, spec in schema["properties"].items()
    ]
    head = f"## {stream.name}\n\n{schema['description']}\n\nKey: {keys}. Replication: {method}.{parent}"
    return f"{head}\n\n{_table(('column', 'type', 'what it is'), rows)}"


def _default(schema: dict[str, Any]) -> str:
    return f"`{json.dumps(schema['default'])}`" if "default" in schema else ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


BLOCKS: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "streams": streams_table,
    "columns": columns_tables,
}


def render(page: str) -> str:
    """Return a page's text with its tables as the declaration has them."""
    for name, block in BLOCKS.items():
        head, found, rest = page.partition(f"<!-- {name} -->\n")
        if found:
            _, end, tail = rest.partition(f"<!-- /{name} -->")
            page = f"{head}{found}{block()}\n{end}{tail}"
    return page


def main() -> None:
    """Write the tables."""
    for name in PAGES:
        path = ROOT / name
        path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
