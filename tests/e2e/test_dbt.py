"""The dbt models tell what was: built on DuckDB and PostgreSQL, and compared with a story's truth."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import duckdb
import psycopg
import pytest
import yaml

from demo import answers
from demo.codechat import CodeChat, World
from demo.project import ROOT, Project, install
from tests.e2e import warehouse
from tests.e2e.dbt_world import BUSINESSES, HOURS, Story, replay, tell
from tools.dbt_docs import PACKAGE, columns, events, schemas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.e2e.warehouse import Warehouse

pytestmark = pytest.mark.e2e

DBT = ROOT / ".venv-dbt" / "bin" / "dbt"
TYPES = {"string": "text", "boolean": "boolean", "integer": "bigint", "object": "json"}
QUICK = ("--exclude-resource-type", "unit_test")
# What a loader's columns of times are, what else it adds, and how to build on it.
LOADED_COLUMNS = {
    "postgres": ("timestamp", ", _sdc_extracted_at timestamp, _sdc_deleted_at timestamp, _sdc_sequence bigint"),
    "airbyte": ("timestamptz", ", _airbyte_raw_id text, _ab_observed_at timestamptz", *QUICK),
}
# What a loader leaves after ACTIVATE_VERSION: rows that are marked, of instances that were listed before, of webhooks,
# and of a business that is not read any more.
MARKED = """
update instances set _sdc_deleted_at = now()
where (business_id, observed_at) not in (select business_id, observed_at from businesses);
insert into webhooks (webhook_id, instance_id, enabled, _sdc_deleted_at)
select 'gone-' || webhook_id, instance_id, enabled, now() from webhooks where deleted_at is null;
insert into webhook_events (webhook_id, instance_id, new_jwt, _sdc_deleted_at)
select 'gone-' || webhook_id, instance_id, new_jwt, now() from webhook_events where deleted_at is null;
insert into businesses (business_id, observed_at, _sdc_deleted_at) values ('gone', '2026-01-01', now());
insert into instances (instance_id, business_id, observed_at, _sdc_deleted_at)
values ('gone', 'gone', '2026-01-01', now());
"""
MARTS = (
    "codechat__connected_now",
    "codechat__live_webhooks",
    "codechat__event_subscriptions",
    "codechat__sessions",
    "codechat__daily_uptime",
    "codechat__stale_businesses",
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Built:
    """A story, the models that were built on its tables, and what dbt said."""

    story: Story
    said: str
    query: Callable[[str], list[Row]]

    def rows(self, model: str) -> list[Row]:
        """Return a model's rows, with times in UTC."""
        return self.rows_of(f"select * from {model}")  # noqa: S608 - our own words

    def rows_of(self, query: str) -> list[Row]:
        """Return a query's rows, with times in UTC."""
        return [
            {
                name: value.replace(tzinfo=timezone.utc) if isinstance(value, datetime) else value
                for name, value in row.items()
            }
            for row in self.query(query)
        ]


def statements(story: Story, *, time: str, more: str) -> Iterable[tuple[str, list[Any]]]:
    """Give the SQL that makes the tables as a loader does: `time` is the type of times, `more` the loader's columns."""
    for table, schema in schemas().items():
        kinds = {name: sql_type(column, time) for name, column in columns(schema).items()}
        if table == "connection_changes":
            kinds["change"] = "text"  # of version 1
        declared = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        yield f"create table {table} ({declared}{more})", []
        for row in story.tables[table].values():
            marks = ", ".join(["?"] * len(row))
            values = [as_column(value, time) for value in row.values()]
            yield f"insert into {table} ({', '.join(row)}) values ({marks})", values  # noqa: S608 - our own words


def sql_type(column: Row, time: str) -> str:
    """Return a column's type."""
    types = [column["type"]] if isinstance(column["type"], str) else column["type"]
    return time if column.get("format") == "date-time" else next(TYPES[kind] for kind in types if kind != "null")


def as_column(value: object, time: str) -> object:
    """Return a value as its column holds it: without a zone, where the column has none."""
    return value.replace(tzinfo=None) if isinstance(value, datetime) and time == "timestamp" else value


def missing(reason: str) -> NoReturn:
    """Skip what cannot run here, but fail where nothing may be skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def dbt(*arguments: str, folder: Path, **settings: str) -> str:
    """Run dbt on the package, with no warning allowed."""
    if not DBT.exists():
        missing("dbt is not installed: run `make dbt` once")
    done = subprocess.run(  # noqa: S603 - no shell, and our own words
        [str(DBT), "--warn-error", *arguments, "--target-path", str(folder), "--log-path", str(folder)],
        cwd=PACKAGE,
        env={name: value for name, value in os.environ.items() if not name.startswith("DBT_")} | settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def duckdb_of(story: Story, folder: Path) -> str:
    """Make the tables in a DuckDB file."""
    database = str(folder / "codechat.duckdb")
    with duckdb.connect(database) as connection:
        for sql, values in statements(story, time="timestamp", more=""):
            connection.execute(sql, values)
    return database


def on_duckdb(story: Story, folder: Path, *arguments: str) -> Built:
    """Build on a DuckDB file."""
    database = duckdb_of(story, folder)

    def query(sql: str) -> list[Row]:
        with duckdb.connect(database, read_only=True) as connection:
            result = connection.execute(sql)
            names = [str(column[0]) for column in result.description or ()]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    return Built(story, dbt("build", *arguments, folder=folder / "target", DBT_DUCKDB_PATH=database), query)


def postgres_settings(url: str, schema: str) -> dict[str, str]:
    """Return the environment of a build in the schema of the tables, from a session that is not in UTC."""
    server = urlsplit(url)
    return {
        "DBT_TARGET": "postgres",
        "DBT_POSTGRES_HOST": server.hostname or "",
        "DBT_POSTGRES_PORT": str(server.port or 5432),
        "DBT_POSTGRES_USER": server.username or "",
        "DBT_POSTGRES_PASSWORD": server.password or "",
        "DBT_POSTGRES_DBNAME": server.path.lstrip("/"),
        "DBT_POSTGRES_SCHEMA": schema,
        "DBT_POSTGRES_SOURCE_SCHEMA": schema,
        "PGTZ": "Asia/Kathmandu",
    }


def on_postgres(kind: str, place: Warehouse, folder: Path, url: str) -> Built:
    """Build on a PostgreSQL, in a schema of its own: `kind` says who has loaded."""
    settings = postgres_settings(url, place.schema)
    if kind == "target-postgres":
        return by_the_tap(place, folder, **settings)
    story = tell()
    time, more, *options = LOADED_COLUMNS[kind]
    with psycopg.connect(url, options=f"-c search_path={place.schema} -c timezone=Asia/Kathmandu") as connection:
        connection.execute(f"create schema {place.schema}")
        for sql, values in statements(story, time=time, more=more):
            connection.execute(sql.replace("?", "%s"), values)
        if "_sdc_deleted_at" in more:
            connection.execute(MARKED)
    return Built(story, dbt("build", *options, folder=folder / "target", **settings), place.query)


def questions() -> list[str]:
    """Return the queries of docs/models.md, one a model."""
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    found = re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(found) == len(MARTS)
    return found


def on_snowflake(story: Story, folder: Path) -> Built:
    """Build on a Snowflake in memory, which reads Snowflake's SQL: there is no other to be had here."""
    python = ROOT / ".venv-snowflake" / "bin" / "python"
    if not python.exists():
        missing("the Snowflake environment is not installed: run `make test` once")
    asked = {
        "statements": [
            (
                sql.replace("?", "%s").replace(" json", " variant").replace(" timestamp", " timestamp_ntz"),
                [value.isoformat(" ") if isinstance(value, datetime) else value for value in values],
            )
            for sql, values in statements(story, time="timestamp", more="")
        ],
        "arguments": [
            *("--warn-error", "build", *QUICK),
            *("--target-path", str(folder), "--log-path", str(folder)),
        ],
        "queries": [*(f"select * from {model}" for model in MARTS), *questions()],  # noqa: S608 - our own words
    }
    settings = {
        "DBT_TARGET": "snowflake",
        "DBT_SNOWFLAKE_ACCOUNT": "acme-eu",
        "DBT_SNOWFLAKE_USER": "modeller",
        "DBT_SNOWFLAKE_DATABASE": "ANALYTICS",
        "DBT_SNOWFLAKE_WAREHOUSE": "MODELLING",
    }
    done = subprocess.run(  # noqa: S603 - no shell, and our own words
        # -I: dbt takes every module on the path whose name begins with dbt_ for a plugin, dbt_world too.
        [str(python), "-I", str(Path(__file__).with_name("snowflake_models.py"))],
        input=json.dumps(asked),
        cwd=PACKAGE,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["success"], done.stderr
    assert set(found["results"]) <= {"success", "pass", "no-op"}, done.stderr

    def query(sql: str) -> list[Row]:
        return [{name: from_text(name, value) for name, value in row.items()} for row in found["rows"][sql]]

    return Built(story, done.stderr, query)


def from_text(name: str, value: Any) -> Any:  # noqa: ANN401 - of any column
    """Return a value that came as JSON: times and days are text."""
    if value is not None and name.endswith("_at"):
        return datetime.fromisoformat(value)
    return date.fromisoformat(value) if name == "day" else value


def by_the_tap(place: Warehouse, folder: Path, **settings: str) -> Built:
    """Build on what the tap and a loader have made of the story."""
    story, messages = replay(tell(version_2_from=0))
    load(place, messages, folder)
    where = {"DBT_DUCKDB_PATH": place.settings.get("TARGET_DUCKDB_PATH", "")}
    return Built(story, dbt("build", *QUICK, folder=folder / "target", **where, **settings), place.query)


def load(place: Warehouse, messages: str, folder: Path) -> None:
    """Load the tap's messages by the real loader."""
    prefix = place.loader.upper().replace("-", "_") + "_"
    settings = {name.removeprefix(prefix).lower(): value for name, value in place.settings.items()}
    config = folder / "config.json"
    config.write_text(json.dumps({"default_target_schema": place.schema, **settings}), encoding="utf-8")
    loader = ROOT / ".meltano" / "loaders" / place.loader / "venv" / "bin" / place.loader
    done = subprocess.run(  # noqa: S603 - no shell, and our own words
        [str(loader), "--config", str(config)],
        input=messages,
        env=os.environ | {"PGTZ": "UTC"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


BUILDS = ("duckdb", "postgres", "airbyte", "snowflake", "the first runs", "target-duckdb", "target-postgres")


@pytest.fixture(scope="module", params=BUILDS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """Build on each kind of tables in turn."""
    folder = tmp_path_factory.mktemp("dbt")
    if request.param.startswith("target-"):
        request.getfixturevalue("plugins")
    match request.param:
        case "duckdb":
            yield on_duckdb(tell(), folder)
        case "the first runs":
            yield on_duckdb(tell(runs=12), folder, *QUICK)
        case "target-duckdb":
            yield by_the_tap(warehouse.duckdb_in(folder), folder)
        case "snowflake":
            yield on_snowflake(tell(), folder)
        case kind:
            url = request.getfixturevalue("postgres_url")
            place = warehouse.postgres_at(url)
            yield on_postgres(kind, place, folder, url)
            warehouse.drop(url, place.schema)


def test_the_build_has_no_warning_and_skips_nothing(built: Built) -> None:
    assert "WARN=0 ERROR=0 SKIP=0" in built.said


def test_connected_now_is_what_the_last_good_runs_listed(built: Built) -> None:
    last = built.story.last_reads()
    expected = {
        (instance, business, BUSINESSES[business], last[business].at)
        for instance, business in built.story.connected_now().items()
    }
    rows = built.rows("codechat__connected_now")
    found = {(row["instance_id"], row["business_id"], row["business_name"], row["observed_at"]) for row in rows}
    assert found == expected
    assert len(rows) == len(expected) > 0


def test_the_age_of_a_run_is_told_by_the_clock(built: Built) -> None:
    now = datetime.now(timezone.utc)
    for row in built.rows("codechat__connected_now"):
        assert 0 <= (now - row["observed_at"]).total_seconds() - row["age_s"] + 60 < 120


def test_live_webhooks_are_what_the_server_lists(built: Built) -> None:
    expected = built.story.live_webhooks()
    found = {row["webhook_id"]: row for row in built.rows("codechat__live_webhooks")}
    assert found.keys() == expected.keys()
    for webhook_id, hook in expected.items():
        row = found[webhook_id]
        for column in ("name", "enabled", "instance_id", "business_id"):
            assert row[column] == hook[column]


def test_each_live_webhook_has_each_event_as_it_is_switched(built: Built) -> None:
    expected = {
        (webhook_id, event): (hook["flags"][event], hook["enabled"])
        for webhook_id, hook in built.story.live_webhooks().items()
        for event in events()
    }
    rows = built.rows("codechat__event_subscriptions")
    assert {(row["webhook_id"], row["event"]): (row["enabled"], row["webhook_enabled"]) for row in rows} == expected
    assert len(rows) == len(expected) > 0


def test_sessions_are_when_each_instance_was_connected(built: Built) -> None:
    last = built.story.last_reads()
    expected = sorted(
        (
            session.instance_id,
            session.connected_at,
            session.business_id,
            session.disconnected_at,
            session.ended_by,
            ((session.disconnected_at or last[session.business_id].at) - session.connected_at).total_seconds(),
        )
        for session in built.story.sessions()
    )
    found = sorted(
        (
            row["instance_id"],
            row["connected_at"],
            row["business_id"],
            row["disconnected_at"],
            row["ended_by"],
            row["duration_s"],
        )
        for row in built.rows("codechat__sessions")
    )
    assert found == expected


def test_uptime_is_what_was_connected_of_what_was_watched(built: Built) -> None:
    expected = built.story.uptime()
    rows = {(row["instance_id"], row["day"]): row for row in built.rows("codechat__daily_uptime")}
    assert rows.keys() == expected.keys()
    for key, (connected, observed) in expected.items():
        row = rows[key]
        assert row["seconds_connected"] == pytest.approx(connected, abs=1e-6)
        assert row["seconds_observed"] == pytest.approx(observed, abs=1e-6)
        assert row["share"] == pytest.approx(connected / observed)


def test_a_business_that_is_not_read_for_a_day_is_stale(built: Built) -> None:
    connected = list(built.story.connected_now().values())
    expected = {business: connected.count(business) for business in built.story.stale()}
    found = {row["business_id"]: row["instances"] for row in built.rows("codechat__stale_businesses")}
    assert found == expected
    assert "b-3" in found


def test_every_column_of_a_model_is_described(built: Built) -> None:
    page = yaml.safe_load((PACKAGE / "models" / "marts" / "codechat.yml").read_text(encoding="utf-8"))
    for model in page["models"]:
        described = [column["name"] for column in model["columns"] if column["description"]]
        assert list(built.rows(model["name"])[0]) == described


def test_every_question_of_the_page_has_an_answer(built: Built) -> None:
    for query in questions():
        assert built.rows_of(query)


def test_every_test_of_the_package_holds_with_other_variables(tmp_path: Path) -> None:
    variables = {"codechat_gap_hours": 5, "codechat_stale_hours": 100, "codechat_timezone": "America/Sao_Paulo"}
    assert variables.keys() == yaml.safe_load((PACKAGE / "dbt_project.yml").read_text(encoding="utf-8"))["vars"].keys()
    built = on_duckdb(tell(), tmp_path, "--vars", json.dumps(variables))
    assert "WARN=0 ERROR=0 SKIP=0" in built.said


def test_the_story_has_every_turn_that_the_models_must_follow() -> None:
    story = tell()
    sessions = story.sessions()
    assert {session.ended_by for session in sessions} == {None, "disconnected", "moved", "not listed"}
    untold = [session for session in sessions if session.ended_by == "not listed"]
    back = [session for session in untold if session.disconnected_at != session.last_seen_at]
    assert 0 < len(back) < len(untold), "of those whose end was not told, some are back and some are not"
    assert len(HOURS) > 10
    assert any(row.get("change") for row in story.tables["connection_changes"].values())
    assert any("deleted_at" in row for row in story.tables["webhooks"].values())
    assert len({day for _, day in story.uptime()}) >= 2
    last = story.last_reads()
    ended = [session for session in sessions if session.disconnected_at]
    assert any(each.disconnected_at > last[each.business_id].at for each in ended if each.disconnected_at)


def test_the_demo_answers_from_the_models(tmp_path: Path) -> None:
    story = tell()
    database = duckdb_of(story, tmp_path)
    asked: dict[str, list[tuple[Any, ...]]] = {}

    def ask(connection: duckdb.DuckDBPyConnection, question: str, sql: str) -> None:
        asked[question] = connection.execute(sql).fetchall()

    answers.answer(Path(database), ask)
    dropped, uptime, new_jwt = asked.values()
    hooks = story.live_webhooks().values()
    assert len(new_jwt) == len([hook for hook in hooks if hook["enabled"] and hook["flags"]["new_jwt"]]) > 0
    assert len(uptime) > 0
    last = story.last_reads()
    hour = timedelta(hours=1)
    ended = [s for s in story.sessions() if s.disconnected_at and s.ended_by != "moved"]
    ended = [s for s in ended if s.disconnected_at and s.disconnected_at > last[s.business_id].at - hour]
    assert len(dropped) == len(ended) > 0


def test_the_schedule_of_meltano_loads_and_models(plugins: None, tmp_path: Path) -> None:
    del plugins  # only has to be there
    install_dbt("dbt-duckdb")
    place, world = warehouse.duckdb_in(tmp_path), World.seeded(7)
    with CodeChat(world) as server:
        settings = {
            "TAP_INSTANCES_API_URL": server.url,
            "TAP_INSTANCES_BUSINESSES": json.dumps(world.settings(server.url)["businesses"]),
            "DBT_DUCKDB_PATH": place.settings["TARGET_DUCKDB_PATH"],
        }
        done = Project(tmp_path / "project", settings | place.settings).meltano(
            "schedule", "run", "codechat-to-duckdb-models-hourly"
        )
    assert done.returncode == 0, done.stdout
    connected = {i["instanceId"] for business in world.businesses.values() for i in business.connected}
    assert {row["instance_id"] for row in place.query("select * from codechat__connected_now")} == connected
    assert {row["instance_id"] for row in place.query("select * from codechat__sessions")} == connected


def test_meltano_models_the_schema_of_its_environment(postgres_url: str, plugins: None, tmp_path: Path) -> None:
    del plugins  # only has to be there
    install_dbt("dbt-postgres")
    with psycopg.connect(postgres_url, options="-c search_path=codechat_dev") as connection:
        connection.execute("create schema codechat_dev")
        for sql, values in statements(tell(runs=3, version_2_from=0), time="timestamp", more=""):
            connection.execute(sql.replace("?", "%s"), values)
    try:
        done = Project(tmp_path, meltano_settings(postgres_url)).meltano("run", "dbt-postgres:build")
        assert done.returncode == 0, done.stdout
        with psycopg.connect(postgres_url) as connection:
            rows = connection.execute("select * from codechat_dev_models.codechat__sessions").fetchall()
        assert len(rows) > 0
    finally:
        for schema in ("codechat_dev", "codechat_dev_models"):
            warehouse.drop(postgres_url, schema)


def meltano_settings(url: str) -> dict[str, str]:
    """Return where the server is: schemas are the project's own matter."""
    named = ("HOST", "PORT", "USER", "PASSWORD", "DBNAME")
    return {f"DBT_POSTGRES_{name}": postgres_settings(url, "")[f"DBT_POSTGRES_{name}"] for name in named}


def install_dbt(plugin: str) -> None:
    """See to it that one of Meltano's dbt is installed in the clone."""
    if not (ROOT / ".meltano" / "utilities" / plugin / "venv" / "bin" / "dbt").exists():
        install(plugin)
