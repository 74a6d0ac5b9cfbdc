"""Let dbt build the models in a Snowflake in memory; a program of its own.

Run by test_dbt.py in an environment that has dbt-snowflake and fakesnow, in the folder of the package. Reads one JSON
object: the SQL that makes the tables, dbt's arguments, and queries. Writes another: how each node of
the build ended, and each query's rows.
"""

from __future__ import annotations

import contextlib
import json
import sys

import fakesnow
import snowflake.connector
from dbt.cli.main import dbtRunner  # type: ignore[import-untyped]


def main() -> None:
    """Make the tables, build the models, ask the queries."""
    asked = json.load(sys.stdin)
    with fakesnow.patch():
        connection = snowflake.connector.connect(database="ANALYTICS", schema="CODECHAT")
        cursor = connection.cursor()
        for statement, values in asked["statements"]:
            cursor.execute(statement, values)
        with contextlib.redirect_stdout(sys.stderr):
            done = dbtRunner().invoke(asked["arguments"])
        results = [str(result.status) for result in getattr(done.result, "results", [])]
        found = {"success": done.success, "results": results, "rows": {}}
        cursor.execute("use schema codechat_models")
        for query in asked["queries"]:
            cursor.execute(query)
            names = [column.name.lower() for column in cursor.description]
            found["rows"][query] = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    print(json.dumps(found, default=str))  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
