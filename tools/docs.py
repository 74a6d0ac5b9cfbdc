"""The parts of files that repeat a declaration: `make docs` writes them, a test checks that they are up to date.

Each part is between a line with `<!-- NAME -->` and one with `<!-- /NAME -->`; the rest of the file is written by hand.
The settings come from the tap's declaration, the streams from its classes, the columns from `schemas/`.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from tap_instances import settings
from tap_instances.columns import load_schema
from tap_instances.tap import TapInstances
from tools import dbt_docs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from singer_sdk import Stream

ROOT = Path(__file__).resolve().parent.parent


def declared() -> dict[str, Any]:
    """Return every setting of the tap, the SDK's own included: name -> JSON Schema."""
    TapInstances.append_builtin_config(TapInstances.config_jsonschema)
    properties: dict[str, Any] = TapInstances.config_jsonschema["properties"]
    return properties


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
    """Return a schema's type, in the words of a table."""
    return "timestamp" if schema.get("format") == "date-time" else settings.kind(schema)


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


def settings_yaml(indent: str = "", *, passwords: bool = False) -> str:
    """Return all settings, the SDK's too, as Meltano's definition of a plugin has them.

    With ``passwords``, a text that is secret is of the kind `password`, as the Hub has it.
    """
    definitions = []
    for name, schema in declared().items():
        secret = bool(schema.get("secret"))
        definition = {
            "name": name,
            "kind": "password" if secret and passwords and kind(schema) == "string" else kind(schema),
            "sensitive": secret or None,
            "label": schema["title"],
            "description": schema["description"].strip().rstrip(".") + ".",
            "placeholder": _example(schema) or None,
        }
        definitions.append({key: value for key, value in definition.items() if value is not None})
    return textwrap.indent(yaml.safe_dump(definitions, sort_keys=False, allow_unicode=True, width=100).rstrip(), indent)


def environment() -> str:
    """Return the tap's own settings as lines of a `.env` file; only the required ones are set."""
    lines = []
    for name, schema in settings.SETTINGS["properties"].items():
        if name in builtin() - {"emit_activate_version_messages"}:
            continue
        value = json.dumps(schema["default"]) if "default" in schema else _example(schema)
        value = f"'{value}'" if kind(schema) in {"array", "object"} else value
        comment = "" if name in settings.SETTINGS["required"] else "# "
        lines += textwrap.wrap(schema["description"], 100, initial_indent="# ", subsequent_indent="# ")
        lines += [f"{comment}{settings.PREFIX}{name.upper()}={value}", ""]
    return "\n".join(lines).rstrip()


def _example(schema: dict[str, Any]) -> str:
    example = schema.get("examples", [""])[0]
    return example if isinstance(example, str) else json.dumps(example, ensure_ascii=False)


# File -> the parts that are written in it.
PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"settings": settings_table, "streams": streams_table},
    "docs/streams.md": {"columns": columns_tables},
    "meltano.yml": {"settings": lambda: settings_yaml("    ")},
    "hub/tap-instances.yml": {"settings": lambda: settings_yaml(passwords=True)},
    ".env.example": {"settings": environment},
}


def render(name: str, text: str) -> str:
    """Return a file's text with its written parts as the declarations have them now."""
    for part, write in PARTS[name].items():
        marks = rf"(^[^\n]*<!-- {part} -->[^\n]*\n).*?(^[^\n]*<!-- /{part} -->)"
        head, begin, end, tail = re.split(marks, text, flags=re.DOTALL | re.MULTILINE)
        text = f"{head}{begin}{write()}\n{end}{tail}"
    return text


def main() -> None:
    """Write the parts."""
    for name in PARTS:
        path = ROOT / name
        path.write_text(render(name, path.read_text(encoding="utf-8")), encoding="utf-8")
    dbt_docs.main()


if __name__ == "__main__":
    main()
