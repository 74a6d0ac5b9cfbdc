"""Two warehouses that tests can load into and ask, by the same words."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typing_extensions import LiteralString

Row = dict[str, Any]


@dataclass(frozen=True)
class Warehouse:
    """A loader, the settings that point it at a place of its own, and how to ask."""

    loader: str
    settings: dict[str, str]
    schema: str
    query: Callable[[LiteralString], list[Row]]

    def tables(self) -> dict[str, list[Row]]:
        """Read every table whole."""
        return {
            "businesses": self.query("select * from businesses"),
            "instances": self.query("select * from instances"),
            "webhooks": self.query("select * from webhooks"),
            "webhook_events": self.query("select * from webhook_events"),
            "connection_changes": self.query("select * from connection_changes"),
        }

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

    def query(sql: LiteralString) -> list[Row]:
        with duckdb.connect(database, read_only=True) as connection:
            connection.execute("set TimeZone = 'UTC'")
            result = connection.execute(sql)
            names = [str(column[0]) for column in result.description or ()]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    settings = {"TARGET_DUCKDB_PATH": database}
    return Warehouse("target-duckdb", settings, "main", query)


def postgres_at(url: str) -> Warehouse:
    """Load into a schema of its own on the server at `url`."""
    schema = f"tap_instances_{uuid.uuid4().hex[:8]}"

    def query(sql: LiteralString) -> list[Row]:
        with psycopg.connect(
            url,
            options=f"-c search_path={schema} -c timezone=UTC",
            row_factory=psycopg.rows.dict_row,
        ) as connection:
            return connection.execute(sql).fetchall()

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
