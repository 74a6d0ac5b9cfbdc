"""What the dbt package repeats of `schemas/`: the documentation of tables and columns, and the events of a webhook.

`make docs` writes the files that `files` returns; a test checks that they are up to date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT / "schemas"
PACKAGE = ROOT / "dbt"

# Written at every good run, so that their age tells when the last one was.
FRESH = ("businesses", "observations")

HEAD = """\
# Written by `make docs` from schemas/: change it there, or in tools/dbt_docs.py.
version: 2

sources:
  - name: codechat
    description: The tables that a loader makes of tap-instances.
    database: "{{ var('codechat_database', target.database) }}"
    # The environment variable is how Meltano gives the setting source_schema.
    schema: >-
      {{ var('codechat_schema', env_var(
        'DBT_' ~ target.type | upper ~ '_SOURCE_SCHEMA', 'main' if target.type == 'duckdb' else 'codechat')) }}
    tables:
"""

FRESHNESS = """\
        config:
          loaded_at_field: observed_at
          freshness:
            warn_after: {count: 3, period: hour}
            error_after: {count: 24, period: hour}
"""

EVENTS = """\
{#- Written by `make docs` from schemas/webhook_events.json: the events that a webhook can get. -#}
{% macro events() -%}
    {{- return(LIST) -}}
{%- endmacro %}
"""


def schemas() -> dict[str, dict[str, Any]]:
    """Return each stream's JSON Schema, parents first."""
    order = ("businesses", "instances", "webhooks", "webhook_events", "connection_changes", "observations")
    return {name: json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8")) for name in order}


def columns(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the columns that every warehouse has: those with secrets are not modelled."""
    return {name: column for name, column in schema["properties"].items() if not column.get("x-secret")}


def events() -> list[str]:
    """Return the columns of webhook_events that are flags."""
    flags = columns(schemas()["webhook_events"])
    return [name for name, column in flags.items() if "boolean" in column["type"]]


def models_file() -> str:
    """Return the properties of the sources and of the staging views."""
    sources, models = [HEAD], ["\nmodels:\n"]
    for table, schema in schemas().items():
        description = json.dumps(schema["description"], ensure_ascii=False)
        sources.append(f"      - name: {table}\n        description: {description}\n")
        sources.append(FRESHNESS if table in FRESH else "")
        sources.append(f"        columns: &{table}\n")
        for name, column in columns(schema).items():
            words = json.dumps(column["description"], ensure_ascii=False)
            sources.append(f"          - name: {name}\n            description: {words}\n")
        models.append(
            f"  - name: stg_codechat__{table}\n"
            f"    description: {description}\n"
            f"    columns: *{table}\n"
            "    data_tests:\n"
            f"      - codechat.key: {{arguments: {{columns: [{', '.join(schema['required'])}]}}}}\n"
        )
    return "".join(sources + models)


def events_file() -> str:
    """Return the macro that lists the events."""
    lines = "".join(f"        '{event}',\n" for event in events())
    return EVENTS.replace("LIST", f"[\n{lines}    ]")


def files() -> dict[Path, str]:
    """Return the text of each file that is written."""
    return {
        PACKAGE / "models" / "staging" / "codechat.yml": models_file(),
        PACKAGE / "macros" / "events.sql": events_file(),
    }


def main() -> None:
    """Write the files."""
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
