"""PyAirbyte, in an environment of its own: reads what it is told to, one JSON command a line, and answers in JSON.

``check``, ``read`` and ``query`` are what a user would do; the process is kept, for PyAirbyte takes long to import.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# PyAirbyte and its connectors print to stdout now and then: only answers go there.
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

# By name: type checkers would take the folder airbyte/ of this project for it.
ab: Any = import_module("airbyte")
DuckDBCache: Any = import_module("airbyte.caches").DuckDBCache

NAME = "source-codechat-instances"


def source(config: dict[str, Any], executable: str) -> Any:  # noqa: ANN401
    """Return the source as installed; nothing is installed or looked up."""
    return ab.get_source(NAME, local_executable=executable, config=config, install_if_missing=False)


def check(config: dict[str, Any], executable: str) -> dict[str, Any]:
    """Check the settings; a failure is raised."""
    source(config, executable).check()
    return {"ok": True}


def read(config: dict[str, Any], executable: str, database: str) -> dict[str, Any]:
    """Read every stream into a DuckDB cache; return how many records came of each."""
    reader = source(config, executable)
    reader.select_all_streams()
    result = reader.read(cache=DuckDBCache(db_path=database))
    return {"records": result.processed_records, "streams": sorted(result.streams)}


def query(database: str, sql: str) -> dict[str, Any]:
    """Ask the cache."""
    with DuckDBCache(db_path=database).get_sql_engine().connect() as connection:
        rows = [list(row) for row in connection.exec_driver_sql(sql).fetchall()]
    return {"rows": rows}


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {"check": check, "read": read, "query": query}

for line in sys.stdin:
    command = json.loads(line)
    try:
        answer = COMMANDS[command.pop("do")](**command)
    except Exception as error:  # noqa: BLE001 - what a user would see
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer, default=str), file=answers, flush=True)
