"""The queries of docs/queries.md answer right: in DuckDB as they stand, and as Snowflake reads them.

The real loaders and PostgreSQL are in tests/e2e/test_queries.py, and the upgrade's SQL in tests/e2e/test_upgrade.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
import sqlglot

from tests.kit.story import ANSWERS, asked, plain, queries, session, tell
from tests.kit.upgrade import sql_of_the_page

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SQL_TYPES = {"string": "text", "boolean": "boolean", "object": "json", "integer": "bigint", "timestamp": "timestamp"}


@pytest.fixture(scope="module")
def warehouse() -> Iterator[duckdb.DuckDBPyConnection]:
    """Load the story's messages, run after run, as a loader would."""
    with duckdb.connect() as connection:
        connection.execute(session("DuckDB"))
        for run in tell():
            load(connection, run.messages)
        yield connection


def load(connection: duckdb.DuckDBPyConnection, messages: Iterable[dict[str, Any]]) -> None:
    """Make tables from SCHEMA messages, and upsert RECORDs by key."""
    for message in messages:
        if message["type"] == "SCHEMA":
            columns = ", ".join(
                f"{name} {sql_type(schema)}" for name, schema in message["schema"]["properties"].items()
            )
            keys = ", ".join(message["key_properties"])
            connection.execute(f"create table if not exists {message['stream']} ({columns}, primary key ({keys}))")
        elif message["type"] == "RECORD":
            record = message["record"]
            values = [json.dumps(value) if isinstance(value, dict) else value for value in record.values()]
            marks = ", ".join("?" * len(values))
            insert = f"insert or replace into {message['stream']} ({', '.join(record)}) values ({marks})"  # noqa: S608
            connection.execute(insert, values)


def sql_type(schema: dict[str, Any]) -> str:
    """Give the SQL type of a column's JSON Schema."""
    if schema.get("format") == "date-time":
        return "timestamp"
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return next(SQL_TYPES[kind] for kind in kinds if kind != "null")


def test_every_query_of_the_page_has_a_known_answer() -> None:
    assert queries().keys() == ANSWERS.keys()


@pytest.mark.parametrize("question", ANSWERS)
def test_duckdb_answers_right(warehouse: duckdb.DuckDBPyConnection, question: str) -> None:
    assert plain(warehouse.execute(asked(question)).fetchall()) == ANSWERS[question]


@pytest.mark.parametrize("question", ANSWERS)
def test_snowflake_reads_the_query_the_same_way(warehouse: duckdb.DuckDBPyConnection, question: str) -> None:
    [translated] = sqlglot.transpile(
        asked(question), read="snowflake", write="duckdb", unsupported_level=sqlglot.ErrorLevel.RAISE
    )
    assert plain(warehouse.execute(translated).fetchall()) == ANSWERS[question]


def test_snowflake_reads_the_sql_of_the_upgrade() -> None:
    statements = sqlglot.parse(sql_of_the_page("Snowflake"), read="snowflake", error_level=sqlglot.ErrorLevel.RAISE)
    kinds = [type(statement).__name__ for statement in statements]
    assert kinds == ["Use", "Alter", "Alter", "Alter", "Alter", "Update"]
