"""Two warehouses that tests can load into and ask, by the same words."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import psycopg

from demo.project import ROOT
from tests.kit.checked import STREAMS

if TYPE_CHECKING:
    from collections.abc import Callable

Row = dict[str, Any]


@dataclass(frozen=True)
class Warehouse:
    """A loader, the settings that point it at a place of its own, and how to ask.

    ``query`` runs one or more statements, separated by semicolons, and gives the rows of the last.
    """

    loader: str
    settings: dict[str, str]
    schema: str
    query: Callable[[str], list[Row]]

    def tables(self) -> dict[str, list[Row]]:
        """Read every table whole."""
        return {stream: self.query(f"select * from {stream}") for stream in STREAMS}  # noqa: S608 - our own words

    def load(self, messages: str) -> None:
        """Load Singer messages with the loader alone, without Meltano."""
        prefix = self.loader.upper().replace("-", "_") + "_"
        settings = {name.removeprefix(prefix).lower(): value for name, value in self.settings.items()}
        loader = ROOT / ".meltano" / "loaders" / self.loader / "venv" / "bin" / self.loader
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder, "config.json")
            config.write_text(json.dumps({"default_target_schema": self.schema, **settings}), encoding="utf-8")
            done = subprocess.run(  # noqa: S603 - installed by the fixture
                [loader, "--config", config],
                input=messages,
                env=os.environ | {"PGTZ": "UTC"},
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=120,
                check=False,
            )
        assert done.returncode == 0, done.stderr

    def types(self) -> dict[tuple[str, str], str]:
        """Give (table, column) -> type, in the warehouse's own words."""
        columns = self.query(
            "select table_schema as s, table_name as t, column_name as c,"
            " data_type as kind from information_schema.columns"
        )
        return {
            (column["t"], column["c"]): str(column["kind"]).lower() for column in columns if column["s"] == self.schema
        }


def duckdb_in(folder: Path) -> Warehouse:
    """Load into a DuckDB file of its own."""
    database = str(folder / "warehouse.duckdb")

    def query(sql: str) -> list[Row]:
        with duckdb.connect(database) as connection:
            connection.execute("set TimeZone = 'UTC'")
            result = connection.execute(sql)
            names = [str(column[0]) for column in result.description or ()]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    settings = {"TARGET_DUCKDB_PATH": database}
    return Warehouse("target-duckdb", settings, "main", query)


def postgres_at(url: str) -> Warehouse:
    """Load into a schema of its own on the server at `url`."""
    schema = f"tap_instances_{uuid.uuid4().hex[:8]}"

    def query(sql: str) -> list[Row]:
        with psycopg.connect(
            url,
            options=f"-c search_path={schema} -c timezone=UTC",
            row_factory=psycopg.rows.dict_row,
        ) as connection:
            cursor = connection.execute(sql.encode())
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    _, _, address = url.partition("://")
    settings = {
        "TARGET_POSTGRES_SQLALCHEMY_URL": f"postgresql+psycopg://{address}",
        "TARGET_POSTGRES_DEFAULT_TARGET_SCHEMA": schema,
    }
    return Warehouse("target-postgres", settings, schema, query)


def drop(url: str, schema: str) -> None:
    """Remove what `postgres_at` has loaded: the server may be somebody's."""
    with psycopg.connect(url) as connection:
        name = psycopg.sql.Identifier(schema)
        connection.execute(psycopg.sql.SQL("drop schema if exists {} cascade").format(name))
