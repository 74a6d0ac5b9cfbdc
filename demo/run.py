"""The demo: a made-up CodeChat server, Meltano, DuckDB, and questions with their answers.

Two runs of the pipeline, an hour of the server's apart; then a few rows of each table, and the SQL for a few
questions. Everything it writes is under output/demo/, made anew each time. `make demo` installs what it needs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import unicodedata
from datetime import datetime
from typing import TYPE_CHECKING

import duckdb

from demo.answers import BuildFailed, answer
from demo.codechat import CodeChat, World
from demo.project import ROOT, Project

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import FrameType

SEED = 7
FOLDER = ROOT / "output" / "demo"
WIDEST_CELL = 50

# (table, the columns that fit a screen, which rows first)
TABLES = (
    ("businesses", "business_id, name, observed_at", "name"),
    ("instances", "name, whatsapp_remote_jid, whatsapp_push_name, connection, observed_at", "observed_at desc, name"),
    ("webhooks", "name, url, enabled, updated_at", "updated_at desc nulls last, url"),
    (
        "webhook_events",
        "webhook_id, messages_upsert, new_jwt, updated_at, additional_properties",
        "additional_properties is null, updated_at desc",
    ),
    (
        "connection_changes",
        "instance_id, change_type, previous_observed_at, observed_at",
        "observed_at desc, change_type, instance_id",
    ),
    (
        "observations",
        "business_id, previous_observed_at, observed_at, instances, webhooks",
        "business_id, observed_at",
    ),
)
ROWS = 3  # of each table

# The first is the one that the README shows.
QUESTIONS = (
    (
        "Which number dropped?",
        """
        select i.name as instance, b.name as business, i.whatsapp_remote_jid as number,
               c.previous_observed_at as last_seen, c.observed_at as gone_at
        from connection_changes c
        join instances i using (instance_id)
        join businesses b on b.business_id = c.business_id
        where c.change_type = 'disconnected'
        order by all
        """,
    ),
    (
        "Which webhooks did somebody delete?",
        """
        select i.name as instance, w.webhook_id, w.deleted_at as seen_gone_at
        from webhooks w join instances i using (instance_id)
        where w.deleted_at is not null
        order by all
        """,
    ),
)


class DemoFailure(Exception):  # noqa: N818 - reads as what it says
    """The pipeline did not do what the demo shows."""


def say(text: str = "") -> None:
    """Tell the person at the terminal, at once also where a pipe is in between; end if nobody reads it any more."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # such as `make demo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(128 + signal.SIGPIPE)


def main() -> int:
    """Show it; 1 when something failed, 130 on Ctrl-C."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        show()
    except KeyboardInterrupt:
        say("\nStopped; so are CodeChat and Meltano.")
        return 130
    except DemoFailure as problem:
        say(f"\n{problem}")
        return 1
    return 0


def _as_interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Take SIGTERM for Ctrl-C, so that what was started is stopped."""
    raise KeyboardInterrupt


def show() -> None:
    """Run the pipeline twice, then look at the tables."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    database = FOLDER / "tap_instances.duckdb"
    world = World.seeded(SEED)
    with CodeChat(world) as server:
        settings = world.settings(server.url)
        project = Project(
            FOLDER,
            {
                "TAP_INSTANCES_API_URL": settings["api_url"],
                "TAP_INSTANCES_BUSINESSES": json.dumps(settings["businesses"]),
                "TARGET_DUCKDB_PATH": str(database),
            },
        )
        heading("A CodeChat server, made up, with WhatsApp numbers that come and go")
        say(f"It listens on {server.url} until the demo ends. {_tell(world)}")
        heading("First run")
        run(project, server)
        world.step()
        heading("An hour passes at CodeChat: phones drop and come back, webhooks change")
        say(_tell(world))
        heading("Second run: only what changed of the webhooks, and who came and went")
        run(project, server)
    show_answers(database)
    say("Next: docs/tutorial.md reads this demo by hand, and README.md tells how to connect your own server.")


def show_answers(database: Path) -> None:
    """Show a few rows of each table, then questions with their answers: from the tables, and from dbt's models."""
    heading(f"The tables, in {database.relative_to(ROOT)}")
    with duckdb.connect(str(database), read_only=True) as connection:
        for table in TABLES:
            show_table(connection, *table)
        heading("Questions")
        for question, sql in QUESTIONS:
            ask(connection, question, sql)
    heading("dbt builds its models on these tables, and answers more")
    try:
        answer(database, ask)
    except BuildFailed as error:
        raise DemoFailure(str(error)) from error


def _tell(world: World) -> str:
    connected = [i for b in world.businesses.values() for i in b.connected]
    webhooks = sum(len(instance["Webhook"]) for instance in connected)
    return f"{len(world.businesses)} businesses, {len(connected)} connected instances, {webhooks} webhooks."


def run(project: Project, server: CodeChat) -> None:
    """Run the pipeline once and tell how it went."""
    command = ("run", "tap-instances", "target-duckdb")
    log = project.log.relative_to(ROOT)
    say(f"$ meltano {' '.join(command)}    (log: {log})")
    asked, began = len(server.requests), time.monotonic()
    result = project.meltano(*command)
    if result.returncode:
        end = "\n".join(result.stdout.splitlines()[-25:])
        message = f"{end}\n\nMeltano ended with {result.returncode}; all of it is in {log}."
        raise DemoFailure(message)
    took, asked = time.monotonic() - began, len(server.requests) - asked
    say(f"Done in {took:.0f} s, with {asked} requests to CodeChat.")


def heading(text: str) -> None:
    """Say what comes next."""
    say(f"\n== {text}")


def show_table(connection: duckdb.DuckDBPyConnection, table: str, columns: str, order: str) -> None:
    """Show a few rows of a table, and how many there are."""
    [(count,)] = connection.execute(f"select count(*) from {table}").fetchall()  # noqa: S608
    say(f"\n{table} ({count} rows)")
    show_rows(connection, f"select {columns} from {table} order by {order} limit {ROWS}")  # noqa: S608


def ask(connection: duckdb.DuckDBPyConnection, question: str, sql: str) -> None:
    """Show a question, its SQL, and the answer."""
    lines = sql.strip("\n").splitlines()
    say(f"\n-- {question}")
    say("\n".join(line.removeprefix(" " * 8) for line in lines).rstrip() + ";\n")
    show_rows(connection, sql)
    say()


def show_rows(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Print what a query gives as an aligned table."""
    result = connection.execute(sql)
    names = [str(column[0]) for column in result.description or ()]
    rows = [[_cell(value) for value in row] for row in result.fetchall()]
    widths = [max(map(_width, column)) for column in zip(names, *rows, strict=True)]
    for line in (names, ["-" * width for width in widths], *rows):
        say("  " + _line(line, widths))
    if not rows:
        say("  (none)")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(padded).rstrip()


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        value = value.replace(microsecond=0)
    text = "" if value is None else str(value)
    return text if len(text) <= WIDEST_CELL else text[: WIDEST_CELL - 1] + "…"


def _width(text: str) -> int:
    """Count the columns of a terminal: an emoji takes two."""
    return sum(2 if unicodedata.east_asian_width(c) == "W" else 1 for c in text)


if __name__ == "__main__":
    sys.exit(main())
