"""examples/dashboard/app.py shows what the models say, on both databases, and nothing of it comes from the internet.

`make dashboard-test` runs this in Streamlit's own environment, where the tap is not installed. The tables have the
names and columns of the models in dbt/.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("streamlit", reason="make dashboard-test runs it")

import duckdb
import psycopg
from streamlit.testing.v1 import AppTest

from tests.e2e import warehouse
from tests.e2e.browser import chromium
from tests.e2e.conftest import postgres_url as postgres_url  # noqa: PLC0414 - a fixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
APP = ROOT / "examples" / "dashboard" / "app.py"
NOW = datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0)
PASSWORD = "not-a-real-password"
MARKDOWN = "![x](https://evil.example.com/x.png) **<b>bold</b>** :red[é] $x$"

COLUMNS = {
    "stg_codechat__businesses": "business_id text, name text, observed_at timestamp",
    "stg_codechat__instances": "business_id text, instance_id text, name text",
    "codechat__stale_businesses": "business_id text",
    "codechat__connected_now": "business_id text, business_name text, instance_id text, instance_name text,"
    " whatsapp_remote_jid text, observed_at timestamp",
    "codechat__sessions": "business_id text, instance_id text, connected_at timestamp, disconnected_at timestamp,"
    " ended_by text",
    "codechat__daily_uptime": "instance_id text, day date, seconds_connected double precision,"
    " seconds_observed double precision",
    "codechat__live_webhooks": "business_id text, business_name text, instance_id text, instance_name text,"
    " webhook_id text, name text, url text, enabled boolean",
    "codechat__event_subscriptions": "webhook_id text, event text, enabled boolean",
}


def hours_ago(hours: float) -> datetime:
    """Return a time before these tests began."""
    return NOW - timedelta(hours=hours)


def day(days: int) -> str:
    """Return a date before today."""
    return (NOW.date() - timedelta(days=days)).isoformat()


# Two businesses. Of the first, `up` is connected, `down` dropped, `flap` dropped and is back. The second is stale.
ROWS: dict[str, list[tuple[Any, ...]]] = {
    "stg_codechat__businesses": [("b-1", "Acme", hours_ago(0.5)), ("b-2", MARKDOWN, hours_ago(50))],
    "stg_codechat__instances": [
        ("b-1", "up", "Sales"),
        ("b-1", "down", "Support"),
        ("b-1", "flap", MARKDOWN),
        ("b-2", "old", None),
    ],
    "codechat__stale_businesses": [("b-2",)],
    "codechat__connected_now": [
        ("b-1", "Acme", "up", "Sales", "5511999990001@s.whatsapp.net", hours_ago(0.5)),
        ("b-1", "Acme", "flap", MARKDOWN, None, hours_ago(0.5)),
        ("b-2", MARKDOWN, "old", None, None, hours_ago(50)),
    ],
    "codechat__sessions": [
        ("b-1", "up", hours_ago(2000), None, None),
        ("b-1", "down", hours_ago(2000), hours_ago(24 * 20), "disconnected"),
        ("b-1", "down", hours_ago(24 * 19), hours_ago(3), "disconnected"),
        ("b-1", "flap", hours_ago(100), hours_ago(30), "not listed"),
        ("b-1", "flap", hours_ago(20), None, None),
        ("b-2", "flap", hours_ago(900), hours_ago(100), "moved"),
        ("b-2", "old", hours_ago(900), None, None),
    ],
    "codechat__daily_uptime": [
        *[("up", day(days), 3600.0 * 24, 3600.0 * 24) for days in range(30)],
        ("down", day(1), 0.0, 3600.0 * 24),
        ("down", day(0), 1800.0, 3600.0),
        ("flap", day(0), 3599.9, 3600.0),
        ("flap", day(10), 0.0, 3600.0),
    ],
    "codechat__live_webhooks": [
        ("b-1", "Acme", "up", "Sales", "w-1", "CRM", "https://crm.example.com/in", True),
        ("b-1", "Acme", "up", "Sales", "w-2", None, "https://bot.example.com/in", False),
        ("b-2", MARKDOWN, "old", None, "w-3", "ERP", None, None),
    ],
    "codechat__event_subscriptions": [
        ("w-1", "messages_upsert", True),
        ("w-1", "new_jwt", True),
        ("w-1", "call_upsert", False),
        ("w-2", "new_jwt", True),
        ("w-3", "messages_upsert", None),
    ],
}


def literal(value: object) -> str:
    """Return a value as a literal of SQL."""
    if value is None:
        return "null"
    return str(value) if isinstance(value, bool | float) else "'" + str(value).replace("'", "''") + "'"


def fill(execute: Callable[[str], Any], prefix: str, rows: dict[str, list[tuple[Any, ...]]]) -> None:
    """Make the models' tables."""
    for table, columns in COLUMNS.items():
        execute(f"create table {prefix}{table} ({columns})")
        for row in rows.get(table, []):
            execute(f"insert into {prefix}{table} values ({', '.join(map(literal, row))})")  # noqa: S608


def duckdb_with(path: Path, rows: dict[str, list[tuple[Any, ...]]]) -> str:
    """Make a DuckDB file with the models' tables."""
    with duckdb.connect(str(path)) as connection:
        fill(connection.execute, "", rows)
    return str(path)


def opened(monkeypatch: pytest.MonkeyPatch, database: str, schema: str = "") -> AppTest:
    """Open the page, as a visitor who sees no error."""
    monkeypatch.setenv("DASHBOARD_DATABASE", database)
    monkeypatch.setenv("DASHBOARD_SCHEMA", schema)
    page = AppTest.from_file(str(APP), default_timeout=60).run()
    assert [each.message for each in page.exception] == []
    return page


@pytest.fixture(params=["duckdb", "postgres"])
def page(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    """Open the page on each database."""
    if request.param == "duckdb":
        yield opened(monkeypatch, duckdb_with(tmp_path / "main.duckdb", ROWS))
        return
    url = request.getfixturevalue("postgres_url")
    schema = warehouse.postgres_at(url).schema
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create schema {schema}")
        fill(connection.execute, f"{schema}.", ROWS)
    yield opened(monkeypatch, url, schema)
    warehouse.drop(url, schema)


def metrics(page: AppTest) -> dict[str, str]:
    """Return the page's numbers."""
    return {metric.label: metric.value for metric in page.metric}


def tables(page: AppTest) -> dict[str, list[dict[str, Any]]]:
    """Return the page's tables by their first two columns' names."""
    frames: list[pd.DataFrame] = [element.value for element in page.dataframe]
    return {", ".join(frame.columns[:2]): frame.to_dict("records") for frame in frames}


def minute(time: datetime) -> str:
    """Return a time as the page shows it."""
    return f"{time:%Y-%m-%d %H:%M}"


def test_the_page_shows_what_the_models_say(page: AppTest) -> None:
    assert metrics(page) == {"Connected now": "3", "Down now": "1", "Uptime, 7 days": "87 %", "Webhooks on": "1"}
    shown = tables(page)
    assert shown["Business, Last read"] == [{"Business": MARKDOWN, "Last read": minute(hours_ago(50))}]
    assert [(row["Number"], row["Now"], row["Gone since"], row["Back since"]) for row in shown["Number, Now"]] == [
        ("Support", "▼ down", minute(hours_ago(3)), ""),
        (MARKDOWN, "▲ back", minute(hours_ago(30)), minute(hours_ago(20))),
    ]
    assert {(row["Number"], row["WhatsApp"], row["Since"]) for row in shown["Number, WhatsApp"]} == {
        ("Sales", "5511999990001", minute(hours_ago(2000))),
        (MARKDOWN, "", minute(hours_ago(20))),
        ("old", "", minute(hours_ago(900))),
    }
    assert [(row["Webhook"], row["Is"], row["Events"]) for row in shown["Webhook, Number"]] == [
        ("ERP", "not known", ""),
        ("CRM", "on", "messages_upsert, new_jwt"),
        ("w-2", "off", "new_jwt"),
    ]
    assert [each.value for each in page.warning] == [
        "Not read for long: 1 of 2 businesses. What is shown of them is old; check their tokens and the tap's log."
    ]


def test_it_can_be_narrowed_to_a_business_and_to_days(page: AppTest) -> None:
    page.radio[0].set_value(30).run()
    assert len(tables(page)["Number, Now"]) == 3
    page.selectbox[0].set_value("b-2").run()
    assert [each.message for each in page.exception] == []
    assert metrics(page) == {"Connected now": "1", "Down now": "0", "Uptime, 30 days": "not known", "Webhooks on": "0"}
    assert [row["Number"] for row in tables(page)["Number, WhatsApp"]] == ["old"]
    page.selectbox[0].set_value("b-1").run()
    assert metrics(page)["Connected now"] == "2"
    assert [each.value for each in page.warning] == []


def test_it_says_who_gets_an_event(page: AppTest) -> None:
    events = page.selectbox[1]
    assert events.options == ["any event", "messages_upsert", "new_jwt"]
    events.set_value("new_jwt").run()
    assert [row["Webhook"] for row in tables(page)["Webhook, Number"]] == ["CRM"], "w-2 is switched off"


def test_a_name_is_never_taken_for_markdown(page: AppTest) -> None:
    said = [each.value for kind in ("markdown", "caption", "warning", "info", "title") for each in page.get(kind)]
    assert said
    assert [text for text in said if "evil" in text] == []


@pytest.mark.parametrize(
    "kept", [(), ("stg_codechat__businesses",), ("stg_codechat__businesses", "codechat__sessions")]
)
def test_empty_and_half_empty_models_look_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: tuple[str, ...]
) -> None:
    page = opened(monkeypatch, duckdb_with(tmp_path / "e.duckdb", {name: ROWS[name] for name in kept}))
    said = [each.value for each in page.info]
    if not kept:
        assert said == ["Nothing is loaded yet: run the tap, then `dbt build`."]
        return
    assert metrics(page) == {
        "Connected now": "0",
        "Down now": "1" if "codechat__sessions" in kept else "0",
        "Uptime, 7 days": "not known",
        "Webhooks on": "0",
    }
    assert said[-3:] == [
        "Nothing was watched in the last 7 days: uptime is not known.",
        "No number was connected when its business was last read.",
        "No connected number has a webhook.",
    ]
    assert ("No number has dropped in the last 7 days." in said) == ("codechat__sessions" not in kept)


def test_of_many_numbers_those_with_the_lowest_uptime_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = ROWS | {"codechat__daily_uptime": [(f"i-{n}", day(0), 60.0 * n, 3600.0) for n in range(45)]}
    page = opened(monkeypatch, duckdb_with(tmp_path / "many.duckdb", many))
    assert [each.value for each in page.caption if "5 more numbers with a higher uptime are not shown." in each.value]


def test_numbers_of_the_same_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [("b-1", "i-1", "Sales"), ("b-1", "i-2", "Sales"), ("b-2", "i-3", "Sales"), ("b-1", "i-4", "Support")]
    same = ROWS | {
        "stg_codechat__instances": numbers,
        "codechat__daily_uptime": [(key, day(0), 3600.0, 3600.0) for _, key, _ in numbers],
    }
    [chart] = opened(monkeypatch, duckdb_with(tmp_path / "same.duckdb", same)).get("vega_lite_chart")
    [labels] = {tuple(layer["encoding"]["y"]["sort"]) for layer in json.loads(chart.proto.spec)["layer"]}
    assert set(labels) == {
        f"100 % · {name}" for name in ("Sales, Acme, i-1", "Sales, Acme, i-2", f"Sales, {MARKDOWN}", "Support")
    }


def test_rows_without_names_are_shown_by_their_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = {
        **ROWS,
        "stg_codechat__businesses": [("b-1", None, hours_ago(1))],
        "stg_codechat__instances": [],
        "codechat__connected_now": [("b-1", None, "up", None, None, hours_ago(1))],
        "codechat__live_webhooks": [("b-1", None, "up", None, "w-1", None, None, None)],
    }
    page = opened(monkeypatch, duckdb_with(tmp_path / "bare.duckdb", bare))
    shown = tables(page)
    assert shown["Number, WhatsApp"][0]["Number"] == "up"
    assert shown["Number, Now"][0]["Business"] == "b-1"
    assert shown["Webhook, Number"][0]["Webhook"] == "w-1"


def test_a_database_that_cannot_be_read_is_one_message_without_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    duckdb.connect(str(tmp_path / "empty.duckdb")).close()
    for database, words in (
        ("", "neither a DuckDB file that exists"),
        (f"host=db password={PASSWORD}", "neither a DuckDB file that exists"),
        (str(tmp_path / "empty.duckdb"), "Was `dbt build` run"),
        (f"postgresql://u:{PASSWORD}@127.0.0.1:1/d", "The models cannot be read."),
        (f"postgresql://u:a/{PASSWORD}@127.0.0.1:1/d", "The models cannot be read."),
    ):
        [error] = opened(monkeypatch, database).error
        assert words in error.value
        assert PASSWORD not in error.value
    assert PASSWORD not in "".join(capfd.readouterr())


def test_the_columns_are_those_that_the_models_have() -> None:
    models = ROOT / "dbt" / "models"
    if not models.is_dir():
        pytest.skip("the models are not here")
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(models.rglob("*.yml")))
    for table, columns in COLUMNS.items():
        if table.startswith("codechat__"):
            described = text.partition(f"- name: {table}\n")[2].partition("\n  - name: ")[0]
            names = {column.split()[0] for column in columns.split(", ")}
            assert {name for name in names if f"- name: {name}\n" not in described} == set(), table


# ---------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Start the page as `make dashboard` does, and give its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "DASHBOARD_DATABASE": duckdb_with(tmp_path / "main.duckdb", ROWS),
        "DASHBOARD_SCHEMA": "",
    }
    command = [sys.executable, "-m", "streamlit", "run", APP.name, "--server.port", str(port)]
    with subprocess.Popen(command, cwd=APP.parent, env=environment, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.kill()  # asked to end, it waits for its visitors to leave


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_draws_the_whole_page_and_asks_nobody_else_for_anything(
    address: str, tmp_path: Path, width: int
) -> None:
    if not shutil.which("chromium"):
        pytest.skip("no chromium here (Debian: apt-get install chromium)")
    drawn = (
        "document.querySelectorAll('[data-testid=stDataFrame] canvas').length >= 8"
        " && document.querySelector('[data-testid=stVegaLiteChart] :is(canvas, svg)') !== null"
    )
    with chromium(tmp_path) as page:
        page.open(address, width, until=drawn)
        page.picture(ROOT / "output" / f"dashboard-{width}.png")
        assert page.ask("document.scrollingElement.scrollWidth") <= width, "nothing is wider than the screen"
        chart = page.ask(
            "[...document.querySelectorAll('[data-testid=stVegaLiteChart] svg text')].map(text => text.textContent)"
        )
        # `up`, `flap` and `down`: the percentage of the days, and of each day; a day that was not watched has none.
        numbers = [text.partition("(")[0] for text in chart if "%" in text]  # a long one is cut
        assert numbers == ["2 % · Support", "99 % · ![x]", "100 % · Sales"]
        assert [chart.count(text) for text in ("100", "99", "50", "0", "?")] == [7, 1, 1, 1, 11]
        assert [url for url in page.requested if "127.0.0.1" not in url and not url.startswith("data:")] == []
        assert len(page.requested) > 3
