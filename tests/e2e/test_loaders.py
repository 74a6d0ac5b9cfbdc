"""docs/loaders.md is true: each loader it recommends loads two runs of a changing world, and every value of them.

`tap | target`, without Meltano. The second run goes on from the state that the loader printed. Streams, keys and
columns are those of the discovered catalog.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import socket
import subprocess
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import duckdb
import psycopg
import pytest
import requests

from demo.codechat import CodeChat, World
from demo.project import FOREIGN, ROOT
from tests.kit.pages import blocks, loader_settings
from tests.kit.support import discover, sync

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.kit.support import Run

pytestmark = pytest.mark.e2e

Row = dict[str, Any]

STREAMS: dict[str, dict[str, Any]] = {entry["tap_stream_id"]: entry for entry in discover()["streams"]}
LOADERS = ROOT / ".venv-loaders"
MELTANO_LOADERS = ROOT / ".meltano" / "loaders"
BUCKET = "lake"
# On the tap: a loader does not flatten batch files, and target-s3's own flattening loses the column.
FLATTEN = {"flattening_enabled": True, "flattening_max_depth": 1}
ACTIVATE = {"emit_activate_version_messages": True}
# What loaders are known to stumble over: quotes, commas, line ends, COPY's own \N, U+2028, and letters of four bytes.
ODD_TEXT = "a \"quoted\", b;\nline\r\ntab\t\\ \\N 'x' \u2028 🥖"
ODD_OBJECT = {"a": [1, None, 2.5, 'x"y\n'], "b": True, "c": {}}


class Target:
    """A loader, its settings, where its rows are found, and which values it is known to change."""

    program: ClassVar[Path]
    settings: ClassVar[dict[str, Any]] = {}
    tap: ClassVar[dict[str, Any]] = ACTIVATE  # settings that the tap needs for it
    server: ClassVar[str | None] = None  # the fixture that gives the address it loads into
    upserts: ClassVar[bool] = False  # else it keeps every row that was sent

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address

    def config(self) -> dict[str, Any]:
        """Return its settings for a place of its own."""
        return self.settings

    def text(self, value: str) -> str | None:
        """Return what it stores of a text."""
        return value

    def moment(self, value: datetime) -> datetime:
        """Return what it stores of a time."""
        return value

    def rows(self, stream: str) -> list[Row]:
        """Read what it has loaded."""
        raise NotImplementedError

    def load(self, run: Run) -> subprocess.CompletedProcess[bytes]:
        """Give it the messages of a run."""
        config = self.folder / "target.json"
        config.write_text(json.dumps(self.config()), encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith((*FOREIGN, "AWS_"))}
        return subprocess.run(  # noqa: S603 - no shell, and our own words
            [self.program, "--config", config],
            input=run.stdout.encode(),
            env=environment | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
            cwd=self.folder,
            capture_output=True,
            check=False,
            timeout=120,
        )


class Csv(Target):
    """CSV, a file per run and stream; an empty text is what a null is."""

    program = LOADERS / "csv" / "bin" / "target-csv"
    settings: ClassVar = {
        "file_naming_scheme": "{stream_name}-{timestamp}.csv",
        "timestamp_format": "%Y%m%dT%H%M%S.%f",
    }
    tap: ClassVar = ACTIVATE | FLATTEN

    def text(self, value: str) -> str | None:
        """An empty cell is null."""
        return value or None

    def rows(self, stream: str) -> list[Row]:
        """Read the files of all runs."""
        found: list[Row] = []
        for path in sorted(self.folder.glob(f"{stream}-*.csv")):
            with path.open(encoding="utf-8", newline="") as lines:
                found += ({name: cell or None for name, cell in row.items()} for row in csv.DictReader(lines))
        return found


class Jsonl(Target):
    """JSON lines, one file a stream."""

    program = LOADERS / "jsonl" / "bin" / "target-jsonl"
    settings: ClassVar = {"do_timestamp_file": False}

    def rows(self, stream: str) -> list[Row]:
        """Read the file, to which each run appends."""
        return json_lines((self.folder / f"{stream}.jsonl").read_bytes())


class SingerJsonl(Target):
    """Singer messages, gzipped, a file per run and stream; it takes no ACTIVATE_VERSION."""

    program = LOADERS / "singer-jsonl" / "bin" / "target-singer-jsonl"
    tap: ClassVar = {}
    runs = 0

    def config(self) -> dict[str, Any]:
        """Load each run into a folder of its own: file names have seconds only."""
        self.runs += 1
        folder = str(self.folder / f"run-{self.runs}")
        return {"destination": "local", "local": {"folder": folder}, "add_record_metadata": False}

    def rows(self, stream: str) -> list[Row]:
        """Read the records of all runs."""
        files = sorted(self.folder.glob(f"run-*/{stream}/*.gz"))
        messages = [message for path in files for message in json_lines(gzip.decompress(path.read_bytes()))]
        return [message["record"] for message in messages if message["type"] == "RECORD"]


class S3Jsonl(Target):
    """JSON lines in S3, gzipped, an object per run and stream."""

    program = LOADERS / "s3" / "bin" / "target-s3"
    settings: ClassVar = {"format": {"format_type": "jsonl"}}
    server = "s3_url"
    bucket = BUCKET

    def config(self) -> dict[str, Any]:
        """Load below a prefix of its own."""
        aws = {
            "aws_access_key_id": "not-a-real-key-id",
            "aws_secret_access_key": "not-a-real-secret",
            "aws_region": "us-east-1",
            "aws_bucket": self.bucket,
            "aws_endpoint_override": self.address,
        }
        cloud = {"cloud_provider_type": "aws", "aws": aws}
        naming = {"prefix": type(self).__name__, "append_date_to_filename_grain": "second"}
        return {"cloud_provider": cloud, **naming, **self.settings}

    def objects(self, stream: str) -> list[bytes]:
        """Get the objects of all runs."""
        prefix = {"list-type": "2", "prefix": f"{type(self).__name__}/{stream}/"}
        keys = re.findall("<Key>([^<]*)</Key>", s3("GET", f"{self.address}/{BUCKET}", prefix).decode())
        return [s3("GET", f"{self.address}/{BUCKET}/{key}") for key in keys]

    def rows(self, stream: str) -> list[Row]:
        """Read the objects of all runs."""
        return [row for content in self.objects(stream) for row in json_lines(gzip.decompress(content))]


class S3Parquet(S3Jsonl):
    """Parquet in S3, an object per run and stream, typed by what is in it."""

    settings: ClassVar = {"format": {"format_type": "parquet", "format_parquet": {"get_schema_from_tap": False}}}
    tap: ClassVar = ACTIVATE | FLATTEN

    def rows(self, stream: str) -> list[Row]:
        """Read the objects of all runs together, as a query would."""
        for number, content in enumerate(self.objects(stream)):
            (self.folder / f"{stream}~{number}.parquet").write_bytes(content)
        files = f"{self.folder}/{stream}~*.parquet"
        return query(duckdb.connect(), f"read_parquet('{files}', union_by_name = true)")


class S3TypedParquet(S3Parquet):
    """Parquet typed by the tap's schema, as is the loader's default: times lose what is below a second."""

    settings: ClassVar = {"format": {"format_type": "parquet"}}

    def moment(self, value: datetime) -> datetime:
        """Times are in whole seconds."""
        return value.replace(microsecond=0)


class PostgresTables(Target):
    """Tables in a schema of its own, one row a key."""

    server = "postgres_url"
    upserts = True

    @property
    def schema(self) -> str:
        """Its schema; the server may be somebody's, so it is dropped at the end."""
        return f"tap_instances_{type(self).__name__.lower()}_{os.getpid()}"

    def rows(self, stream: str) -> list[Row]:
        """Read the table."""
        with psycopg.connect(self.address, row_factory=psycopg.rows.dict_row) as connection:
            table = psycopg.sql.Identifier(self.schema, stream)
            rows: list[Row] = connection.execute(psycopg.sql.SQL("select * from {}").format(table)).fetchall()
        return rows


class PipelinewisePostgres(PostgresTables):
    """PipelineWise's: an empty text becomes null, and a line end or tab within a text two characters."""

    program = LOADERS / "pipelinewise-postgres" / "bin" / "target-postgres"

    def text(self, value: str) -> str | None:
        """Texts go through COPY as JSON, and are not decoded whole."""
        return value.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") or None

    def config(self) -> dict[str, Any]:
        """Load into its schema."""
        server = psycopg.conninfo.conninfo_to_dict(self.address)
        login = {name: str(server.get(name, "none")) for name in ("host", "user", "password", "dbname")}
        return {**login, "port": int(server.get("port") or 5432), "default_target_schema": self.schema}


class MeltanoPostgres(PostgresTables):
    """MeltanoLabs', with the settings that meltano.yml gives it."""

    program = MELTANO_LOADERS / "target-postgres" / "venv" / "bin" / "target-postgres"

    def config(self) -> dict[str, Any]:
        """Load into its schema."""
        _, _, server = self.address.partition("://")
        place = {"sqlalchemy_url": f"postgresql+psycopg://{server}", "default_target_schema": self.schema}
        return loader_settings("target-postgres") | place


class DuckDB(Target):
    """A DuckDB file; an empty text becomes null."""

    program = MELTANO_LOADERS / "target-duckdb" / "venv" / "bin" / "target-duckdb"
    upserts = True

    def text(self, value: str) -> str | None:
        """An empty text becomes null."""
        return value or None

    def config(self) -> dict[str, Any]:
        """Load into a file of its own."""
        return {"path": str(self.folder / "codechat.duckdb"), "default_target_schema": "main"}

    def rows(self, stream: str) -> list[Row]:
        """Read the table."""
        return query(duckdb.connect(str(self.folder / "codechat.duckdb"), read_only=True), stream)


def json_lines(text: bytes) -> list[Row]:
    """Read JSON lines."""
    return [json.loads(line) for line in text.split(b"\n") if line]


def query(connection: duckdb.DuckDBPyConnection, table: str) -> list[Row]:
    """Read a table as texts, with times in UTC."""
    with connection:
        connection.execute("set TimeZone = 'UTC'")
        result = connection.execute(f"select columns(*)::text from {table}")  # noqa: S608 - our own words
        names = [str(column[0]) for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def s3(method: str, url: str, params: dict[str, str] | None = None) -> bytes:
    """Ask the S3 server."""
    with requests.Session() as session:
        session.trust_env = False
        response = session.request(method, url, params=params, timeout=20)
    response.raise_for_status()
    return response.content


def missing(reason: str) -> None:
    """Skip a test for want of a loader, except in CI."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@pytest.fixture(scope="module")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run moto's S3 on a free port, with an empty bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = LOADERS / "s3" / "bin" / "moto_server"
    with (
        (tmp_path_factory.mktemp("moto") / "log").open("w", encoding="utf-8") as log,
        subprocess.Popen(  # noqa: S603 - no shell, and our own words
            [program, "--host", "127.0.0.1", "--port", port], stdout=log, stderr=log
        ) as server,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(200):
                with suppress(requests.ConnectionError):
                    s3("PUT", f"{url}/{BUCKET}")
                    break
                assert server.poll() is None, Path(log.name).read_text(encoding="utf-8")
                time.sleep(0.1)
            yield url
        finally:
            server.terminate()


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """Give the loader that the test is about, and an empty place to load into."""
    kind: type[Target] = request.param
    if MELTANO_LOADERS in kind.program.parents:
        request.getfixturevalue("plugins")
    if not kind.program.exists():
        missing(f"{kind.program} is not installed: run `make loaders` once")
    address = request.getfixturevalue(kind.server) if kind.server else ""
    made = kind(tmp_path, address)
    yield made
    if isinstance(made, PostgresTables):
        with psycopg.connect(address) as connection:
            name = psycopg.sql.Identifier(made.schema)
            connection.execute(psycopg.sql.SQL("drop schema if exists {} cascade").format(name))


def changing_world() -> World:
    """Make two businesses up, with values that loaders stumble over."""
    world = World.seeded(7, businesses=3)
    instances = next(iter(world.businesses.values())).connected
    instances[0]["name"] = ""
    instances[0]["createdAt"] = "2025-03-04T05:06:07.123456Z"
    instances[0]["WhatsApp"] |= {"pushName": ODD_TEXT, "newThing": ODD_OBJECT}
    for instance in instances:
        for webhook in instance["Webhook"]:
            webhook |= {"newKey": [ODD_OBJECT, ODD_TEXT]}
    return world


def load_two_runs(target: Target, **more: Any) -> list[Run]:  # noqa: ANN401
    """Load the world, let an hour pass in it, and load it again from the state that the loader printed."""
    world, runs, state = changing_world(), [], None
    with CodeChat(world) as server:
        for _ in range(2):
            run = sync({**world.settings(server.url), **target.tap, **more}, state=state)
            assert run.returncode == 0, run.stderr
            done = target.load(run)
            assert done.returncode == 0, done.stderr.decode()
            state = json.loads(done.stdout.splitlines()[-1])
            assert state == run.state
            runs.append(run)
            world.step()
    return runs


def comparable(rows: Iterable[Row], stream: str, target: Target | None = None) -> list[Row]:
    """Return rows as the catalog's columns have them, in an order of their own.

    With a target: rows that were sent, with the changes that it is known to make.
    """
    columns = STREAMS[stream]["schema"]["properties"]
    keys = STREAMS[stream]["key_properties"]

    def value(column: dict[str, Any], raw: Any) -> Any:  # noqa: ANN401
        if raw is None:
            return None
        if column.get("format") == "date-time":
            moment = read_time(raw)
            return target.moment(moment) if target else moment
        if "boolean" in column["type"] or "integer" in column["type"]:
            return json.loads(raw.lower()) if isinstance(raw, str) else raw
        if "object" in column["type"]:
            return json.loads(raw) if isinstance(raw, str) else raw
        return target.text(raw) if target else raw

    found = [{name: value(column, row.get(name)) for name, column in columns.items()} for row in rows]
    if target and target.upserts:
        found = list({tuple(row[key] for key in keys): row for row in found}.values())
    return sorted(found, key=repr)


def read_time(raw: str | datetime) -> datetime:
    """Read a time in any of the loaders' forms; one without a zone is in UTC."""
    if isinstance(raw, str):
        # Python 3.10 wants three or six digits of a fraction, and minutes of an offset.
        text, _, fraction = re.sub(r"(Z|\+00|\+00:00)$", "", raw).partition(".")
        raw = datetime.fromisoformat(f"{text}.{fraction.ljust(6, '0')}")
    return raw.astimezone(timezone.utc) if raw.tzinfo else raw.replace(tzinfo=timezone.utc)


def assert_loaded(target: Target, runs: list[Run]) -> None:
    """Compare every value of every stream with what was sent."""
    for stream in STREAMS:
        sent = [row for run in runs for row in rows_of(run, stream)]
        assert sent
        assert comparable(target.rows(stream), stream) == comparable(sent, stream, target), stream


def rows_of(run: Run, stream: str) -> list[Row]:
    """Return what a run sent of a stream, as records or in batch files."""
    files = [file for message in run.of("BATCH", stream) for file in message["manifest"]]
    batches = [json_lines(gzip.decompress(Path(file.removeprefix("file://")).read_bytes())) for file in files]
    return [*run.records(stream), *(row for batch in batches for row in batch)]


EVERY = (Csv, Jsonl, SingerJsonl, S3Jsonl, S3Parquet, S3TypedParquet, PipelinewisePostgres, MeltanoPostgres, DuckDB)


@pytest.mark.parametrize("target", EVERY, indirect=True)
def test_every_value_of_two_runs_is_loaded(target: Target) -> None:
    first, second = load_two_runs(target)
    # What the two runs have to tell: rows that changed, rows that are gone, and versions where the loader takes them.
    assert any(row["deleted_at"] for row in second.records("webhooks"))
    assert len(second.records("webhooks")) < len(first.records("webhooks"))
    assert bool(second.of("ACTIVATE_VERSION")) is (target.tap.items() >= ACTIVATE.items())
    assert_loaded(target, [first, second])


@pytest.mark.parametrize("target", [Csv, MeltanoPostgres], indirect=True)
def test_every_value_of_two_runs_is_loaded_from_batch_files(target: Target, tmp_path: Path) -> None:
    storage = (tmp_path / "batches").as_uri()
    batches = {"encoding": {"format": "jsonl", "compression": "gzip"}, "storage": {"root": storage}, "batch_size": 10}
    runs = load_two_runs(target, batch_config=batches)
    assert all(run.of("BATCH") and not run.of("RECORD") for run in runs)
    assert_loaded(target, runs)


@pytest.mark.parametrize("target", [Csv], indirect=True)
def test_the_query_of_the_page_finds_the_live_webhooks_in_files(target: Target) -> None:
    runs = load_two_runs(target)
    newest = {row["webhook_id"]: row for run in runs for row in run.records("webhooks")}
    live = {webhook_id for webhook_id, row in newest.items() if not row["deleted_at"]}
    assert len(live) < len(newest)
    [query_of_the_page] = [block.text for block in blocks("sql") if block.page == "docs/loaders.md"]
    with duckdb.connect() as connection:
        found = connection.execute(query_of_the_page.replace("'output/", f"'{target.folder}/")).fetchall()
    assert {webhook_id for webhook_id, _, _ in found} == live
    assert len(found) == len(live)


@pytest.mark.parametrize("target", [S3Jsonl, S3Parquet], indirect=True)
def test_a_failed_upload_is_a_failure_and_prints_no_state(target: S3Jsonl) -> None:
    world = changing_world()
    target.bucket = "missing"
    with CodeChat(world) as server:
        done = target.load(sync(world.settings(server.url) | target.tap))
    assert done.returncode != 0
    assert not done.stdout


@pytest.mark.parametrize("target", [SingerJsonl], indirect=True)
def test_singer_jsonl_refuses_activate_version(target: Target) -> None:
    world = changing_world()
    with CodeChat(world) as server:
        done = target.load(sync(world.settings(server.url) | ACTIVATE))
    assert done.returncode == 1
    assert b"ACTIVATE_VERSION" in done.stderr


def test_the_page_has_every_loader_in_the_version_that_is_tested() -> None:
    page = (ROOT / "docs" / "loaders.md").read_text(encoding="utf-8")
    sources = [(ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "meltano.yml")]
    pins = {pin for source in sources for pin in re.findall(r"[a-z0-9-]*target-[a-z0-9-]*==[0-9.]+", source)}
    assert len(pins) > 6
    assert {pin for pin in pins if pin.replace("==", " ") not in page} == set()
