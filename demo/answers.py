"""Three answers from the dbt models, for the end of the demo.

dbt has an environment of its own, which `make dbt` makes, with a newer DuckDB than the loader's: they take turns with
the file.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import duckdb

from demo.project import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PACKAGE = ROOT / "dbt"
DBT = ROOT / ".venv-dbt" / "bin" / "dbt"
LONGEST_BUILD = 300  # seconds

# Each question with its SQL.
ANSWERS = (
    (
        "Which numbers dropped in the last hour, and are they back?",
        """
        select b.name as business, i.name as instance, i.whatsapp_remote_jid, s.disconnected_at,
               n.instance_id is not null as back_now
        from codechat__sessions s
        join stg_codechat__businesses b on b.business_id = s.business_id
        left join stg_codechat__instances i on i.instance_id = s.instance_id
        left join codechat__connected_now n on n.instance_id = s.instance_id
        where s.disconnected_at > b.observed_at - interval '1 hour'
          and s.ended_by <> 'moved'
        order by 4, 1, 2
        """,
    ),
    (
        "What is each number's uptime?",
        """
        select i.name as instance, i.whatsapp_remote_jid, u.day,
               round(100 * u.share, 1) as percent, round(u.seconds_observed, 0) as seconds_watched
        from codechat__daily_uptime u
        join stg_codechat__instances i on i.instance_id = u.instance_id
        order by u.share, 1, 2
        limit 6
        """,
    ),
    (
        "Who still gets new_jwt, and with it a number's live credential?",
        """
        select w.business_name as business, w.instance_name as instance, w.name as webhook, w.url
        from codechat__event_subscriptions e
        join codechat__live_webhooks w on w.webhook_id = e.webhook_id
        where e.event = 'new_jwt' and e.enabled and e.webhook_enabled
        order by 1, 2, 3
        """,
    ),
)


class BuildFailed(Exception):  # noqa: N818 - reads as what it says
    """The models could not be built."""


def build(database: Path) -> None:
    """Build the models on a DuckDB file.

    Raises:
        BuildFailed: with what dbt said.
    """
    if not DBT.exists():
        raise BuildFailed("dbt is not installed: run `make demo` or `make dbt` once.")
    done = subprocess.run(  # noqa: S603 - no shell, and our own words
        [str(DBT), "--quiet", "build", "--exclude-resource-type", "unit_test", "--profiles-dir", str(PACKAGE)],
        cwd=PACKAGE,
        env={name: value for name, value in os.environ.items() if not name.startswith("DBT_")}
        | {"DBT_DUCKDB_PATH": str(database.resolve())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST_BUILD,
        check=False,
    )
    if done.returncode:
        raise BuildFailed(done.stdout)


def answer(database: Path, ask: Callable[[duckdb.DuckDBPyConnection, str, str], None]) -> None:
    """Build the models on a DuckDB file, then give each question and its SQL to `ask`.

    Raises:
        BuildFailed: with what dbt said.
    """
    build(database)
    with duckdb.connect(str(database), read_only=True) as connection:
        for question, sql in ANSWERS:
            ask(connection, question, sql)
