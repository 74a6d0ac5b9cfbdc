"""examples/alerts/alerts.py on a real PostgreSQL: the same drops, whatever the columns' type and the server's zone."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.e2e import warehouse
from tests.test_alerts import ODD, PASSWORD, Alerts, Tables, hours_ago, minute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e


@pytest.fixture(params=["timestamp", "timestamptz"])
def tables(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[tuple[Tables, str]]:
    """Give tables in a schema of their own, and the schema."""
    schema = warehouse.postgres_at(postgres_url).schema
    with psycopg.connect(postgres_url, autocommit=True, options="-c timezone=UTC") as connection:
        connection.execute(f"create schema {schema}")
        yield Tables(connection.execute, request.param, f"{schema}."), schema
    warehouse.drop(postgres_url, schema)


def test_postgresql_tells_each_drop_once(tables: tuple[Tables, str], postgres_url: str, tmp_path: Path) -> None:
    made, schema = tables
    script = Alerts(postgres_url, tmp_path)
    assert "first run" in script.run("--schema", schema).stderr
    made.sync(hours_ago(3), "b-1", "i-1", "i-2", ODD)
    made.sync(hours_ago(2), "b-1", "i-1", "i-2")
    made.sync(hours_ago(1), "b-1", "i-1")
    made.sync(hours_ago(30), "b-2", name="Beta")
    seen = ODD.replace("\n", " ").replace("\u202e", "")
    assert script.told("--schema", schema) == (
        "2 numbers dropped:\n"
        f"- Name of {seen} (Acme): last seen {minute(hours_ago(3))}, gone since {minute(hours_ago(2))}\n"
        f"- Name of i-2 (Acme): last seen {minute(hours_ago(2))}, gone since {minute(hours_ago(1))}\n"
        "1 business not read for 24 hours (see the tap's log):\n"
        f"- Beta: last read {minute(hours_ago(30))}\n"
    )
    assert script.told("--schema", schema) == ""
    made.sync(hours_ago(0.5), "b-1")
    made.sync(hours_ago(0.2), "b-1", "i-1")
    assert f"back since {minute(hours_ago(0.2))}" in script.told("--schema", schema)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": "/none"}, 'database "none" does not exist'),
        ({"path": "/postgres"}, 'relation "no schema.connection_changes" does not exist'),
    ],
)
def test_what_postgresql_refuses_is_one_line_without_the_password(
    postgres_url: str, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    parts = urlsplit(postgres_url)
    password = parts.password or PASSWORD
    address = f"{parts.username}:{password}@{parts.hostname}:{parts.port}"
    url = parts._replace(netloc=address, **change).geturl()
    done = Alerts(url, tmp_path).run("--schema", "no schema", code=1)
    assert words in done.stderr
    assert (done.stderr.count("\n"), password in done.stderr) == (1, False)
