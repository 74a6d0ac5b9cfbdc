"""examples/alerts/alerts.py tells each drop once, loses none, floods nobody and gives no secret away.

Here on DuckDB, by a real HTTP and a real SMTP receiver; PostgreSQL is in tests/e2e/test_alerts.py.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socketserver
import ssl
import subprocess
import sys
import threading
from base64 import b64decode
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import pytest
import trustme

from demo.codechat import CodeChat, World
from tests.kit.support import sync
from tests.test_queries import load
from tools.docs import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SCRIPT = ROOT / "examples" / "alerts" / "alerts.py"
NOW = datetime.now(timezone.utc).replace(microsecond=123456)
PASSWORD = "not-a-real-password"
KEYS = {
    "businesses": ["business_id"],
    "instances": ["instance_id"],
    "connection_changes": ["business_id", "instance_id", "previous_observed_at", "change_type"],
}


def hours_ago(hours: float) -> datetime:
    """Return a time before these tests began."""
    return NOW - timedelta(hours=hours)


def literal(value: str | datetime | None) -> str:
    """Return a value as a literal of SQL."""
    return "null" if value is None else "'" + str(value).replace("'", "''") + "'"


class Tables:
    """The tables that the script reads, as a loader makes them, and a tap that fills them."""

    def __init__(self, execute: Callable[[str], Any], time: str = "timestamp", prefix: str = "") -> None:
        self.execute, self.prefix = execute, prefix
        self.listed: dict[str, tuple[datetime, set[str]]] = {}
        for table in (
            f"businesses (business_id text primary key, name text, observed_at {time})",
            f"instances (instance_id text primary key, business_id text, name text, observed_at {time})",
            f"connection_changes (business_id text, instance_id text, previous_observed_at {time}, change_type text,"
            f" observed_at {time}, primary key (business_id, instance_id, previous_observed_at, change_type))",
        ):
            execute(f"create table {prefix}{table}")

    def upsert(self, table: str, *values: str | datetime | None) -> str:
        """Return the SQL that inserts a row, or replaces the one with the same key."""
        row, keys = [literal(value) for value in values], KEYS[table]
        where = " and ".join(f"{name} = {value}" for name, value in zip(keys, row, strict=False))
        table = self.prefix + table
        return f"delete from {table} where {where}; insert into {table} values ({', '.join(row)});"  # noqa: S608

    def sync(self, at: datetime, business: str, *listed: str, name: str | None = "Acme") -> None:
        """Write what a run of the tap writes that finds these instances in a business."""
        before, known = self.listed.get(business, (at, set()))
        self.listed[business] = at, set(listed)
        rows = [self.upsert("businesses", business, name, at)]
        for instance in listed:
            rows.append(self.upsert("instances", instance, business, f"Name of {instance}", at))
            if instance not in known:
                rows.append(self.upsert("connection_changes", business, instance, before, "connected", at))
        rows += [
            self.upsert("connection_changes", business, instance, before, "disconnected", at)
            for instance in known - set(listed)
        ]
        self.execute("".join(rows))


class Done(NamedTuple):
    """What the script said."""

    stdout: str
    stderr: str


class Alerts:
    """The script, a database and a state file."""

    def __init__(self, database: str, folder: Path) -> None:
        self.database, self.folder, self.environment = database, folder, dict[str, str]()
        self.state = folder / "alerts.json"

    def run(self, *arguments: str, code: int = 0, environment: dict[str, str] | None = None) -> Done:
        """Run the script, from another time zone than UTC."""
        given = {name: value for name, value in os.environ.items() if not name.startswith("ALERTS_")}
        given |= {"TZ": "America/Sao_Paulo", "PGTZ": "America/Sao_Paulo"} | self.environment | (environment or {})
        with subprocess.Popen(  # noqa: S603
            [sys.executable, str(SCRIPT), self.database, "--state", str(self.state), *arguments],
            env=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        ) as self.process:
            done = Done(*self.process.communicate(timeout=60))
        assert self.process.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def told(self, *arguments: str) -> str:
        """Run the script and return what it prints for people."""
        return self.run(*arguments).stdout


@pytest.fixture
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Tables:
    """Give tables in a DuckDB file."""
    return duckdb_tables(tmp_path / "warehouse.duckdb", getattr(request, "param", "timestamp"))


def duckdb_tables(path: Path, time: str = "timestamp", prefix: str = "") -> Tables:
    """Make tables in a file that is open only while something is written."""

    def execute(sql: str) -> None:
        with duckdb.connect(str(path)) as connection:
            connection.execute("set time zone 'UTC'")
            connection.execute(sql)

    return Tables(execute, time, prefix)


@pytest.fixture
def alerts(tables: Tables, tmp_path: Path) -> Alerts:
    """Give the script, as after a first run on empty tables."""
    del tables
    script = Alerts(str(tmp_path / "warehouse.duckdb"), tmp_path)
    script.state.write_text(
        json.dumps({"last_run": hours_ago(0).isoformat(), "drops": [], "stale": {}}), encoding="utf-8"
    )
    return script


def minute(time: datetime) -> str:
    """Return a time as the script writes it."""
    return f"{time:%Y-%m-%d %H:%M} UTC"


# ----------------------------------------------------------------------------------------------------- what is told


# Loaders differ: some make columns with a zone, some without.
@pytest.mark.parametrize("tables", ["timestamp", "timestamptz"], indirect=True)
def test_a_drop_is_told_once_with_its_names_and_times(tables: Tables, alerts: Alerts) -> None:
    tables.sync(hours_ago(3), "b-1", "i-1", "i-2", name="Acme Ltda")
    tables.sync(hours_ago(2), "b-1", "i-1", name="Acme Ltda")
    assert alerts.told() == (
        "1 number dropped:\n"
        f"- Name of i-2 (Acme Ltda): last seen {minute(hours_ago(3))}, gone since {minute(hours_ago(2))}\n"
    )
    assert alerts.told() == ""
    tables.sync(hours_ago(1), "b-1", name="Acme Ltda")
    assert re.findall("Name of i-.", alerts.told()) == ["Name of i-1"]


def test_the_first_run_tells_nothing_of_the_past_and_says_so(tables: Tables, tmp_path: Path) -> None:
    tables.sync(hours_ago(50), "b-1", "i-1", "i-2")
    tables.sync(hours_ago(49), "b-1", "i-1")
    script = Alerts(str(tmp_path / "warehouse.duckdb"), tmp_path)
    first = script.run()
    assert first.stdout == ""
    assert "first run: 1 earlier drop and 1 business not read are taken as known" in first.stderr
    assert script.told() == ""


def test_after_a_full_refresh_nothing_old_is_told(tables: Tables, alerts: Alerts) -> None:
    tables.sync(hours_ago(5), "b-1", "i-1", "i-2")
    tables.sync(hours_ago(4), "b-1", "i-1")
    alerts.run()
    tables.listed.clear()  # the tap starts without its state
    tables.sync(hours_ago(3), "b-1", "i-1")
    assert alerts.told() == ""
    tables.sync(hours_ago(2), "b-1")
    assert "Name of i-1" in alerts.told()


def test_a_number_that_is_back_is_said_to_be_back(tables: Tables, alerts: Alerts) -> None:
    tables.sync(hours_ago(5), "b-1", "i-1", "i-2")
    tables.sync(hours_ago(4), "b-1")
    tables.sync(hours_ago(3), "b-1", "i-1")
    title, down, back = alerts.told().splitlines()
    assert title == "2 numbers dropped, 1 back since:"
    assert (down[:14], "back" in down) == ("- Name of i-2 ", False)
    assert back.startswith("- Name of i-1 ")
    assert back.endswith(f"back since {minute(hours_ago(3))}")


def test_a_number_that_flaps_is_one_line(tables: Tables, alerts: Alerts) -> None:
    for hour in range(20, 1, -1):
        tables.sync(hours_ago(hour), "b-1", *(["i-1"] if hour % 2 == 0 else []), "i-2")
    tables.sync(hours_ago(1), "b-1", "i-2")
    [_, line] = alerts.told().splitlines()
    assert f"last seen {minute(hours_ago(2))}, gone since {minute(hours_ago(1))}, dropped 10 times" in line
    assert "back" not in line


@pytest.mark.parametrize("order", [("b-1", "b-2"), ("b-2", "b-1")])
def test_a_number_that_moved_to_another_business_is_back(
    tables: Tables, alerts: Alerts, order: tuple[str, str]
) -> None:
    tables.sync(hours_ago(4), "b-1", "i-1")
    tables.sync(hours_ago(4), "b-2")
    for late, business in enumerate(order):
        tables.sync(hours_ago(3 - late / 60), business, *(["i-1"] if business == "b-2" else []))
    assert "1 number dropped, 1 back since" in alerts.told()
    tables.sync(hours_ago(2), "b-2")
    assert "1 number dropped:" in alerts.told()


def test_a_business_that_learns_late_of_a_move_does_not_say_that_a_number_is_back(
    tables: Tables, alerts: Alerts
) -> None:
    tables.sync(hours_ago(9), "b-1", "i-1")
    tables.sync(hours_ago(9), "b-2")
    tables.sync(hours_ago(8), "b-2", "i-1")
    tables.sync(hours_ago(7), "b-2")
    assert "1 number dropped:" in alerts.told()
    tables.sync(hours_ago(6), "b-1")
    assert alerts.told() == ""


def test_a_load_that_is_repeated_with_a_later_time_tells_nothing_twice(tables: Tables, alerts: Alerts) -> None:
    tables.sync(hours_ago(4), "b-1", "i-1", "i-2")
    kept = tables.listed["b-1"]
    tables.sync(hours_ago(3), "b-1", "i-1")
    assert "Name of i-2" in alerts.told()
    tables.listed["b-1"] = kept  # the loader failed at the end: the state is that of the run before
    tables.sync(hours_ago(2), "b-1", "i-1")
    assert alerts.told() == ""


def test_rows_that_are_loaded_late_are_told(tables: Tables, alerts: Alerts) -> None:
    tables.sync(hours_ago(3), "b-1", "i-1")
    tables.sync(hours_ago(2), "b-1")
    assert "Name of i-1" in alerts.told()
    tables.sync(hours_ago(60), "b-2", "i-2")  # a clock that was wrong, a batch that waited
    tables.sync(hours_ago(50), "b-2")
    assert "Name of i-2" in alerts.told("--stale-hours", "100")


def test_many_drops_are_cut_to_so_many_lines(tables: Tables, alerts: Alerts) -> None:
    tables.sync(hours_ago(3), "b-1", *(f"i-{number}" for number in range(9)))
    tables.sync(hours_ago(2), "b-1")
    lines = alerts.told("--lines", "2").splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("9 numbers dropped:", 4, "and 7 more")


def test_a_business_that_was_not_read_for_hours_is_told_once(tables: Tables, alerts: Alerts) -> None:
    tables.sync(hours_ago(30), "b-1", name="Beta")
    tables.sync(hours_ago(1), "b-2")
    assert alerts.told() == (
        f"1 business not read for 24 hours (see the tap's log):\n- Beta: last read {minute(hours_ago(30))}\n"
    )
    assert alerts.told() == ""
    tables.sync(hours_ago(25), "b-1", name="Beta")
    assert "- Beta" in alerts.told(), "it was read, and is late again"
    assert alerts.told("--stale-hours", "100") == ""


def test_rows_that_lost_their_names_are_told_by_their_ids(tables: Tables, alerts: Alerts) -> None:
    tables.sync(hours_ago(3), "b-1", "i-1")
    tables.sync(hours_ago(2), "b-1", name=None)
    tables.execute("delete from instances")  # as a loader with hard deletes does
    assert "- i-1 (b-1): last seen" in alerts.told()


ODD = "i'2\"; drop table businesses; -- 100% {0} \\n é 📱\n\u202e<!channel> @all &"


def test_odd_characters_stay_data_and_one_line(tables: Tables, alerts: Alerts) -> None:
    tables.sync(hours_ago(3), ODD, ODD, "x" * 500)
    tables.sync(hours_ago(2), ODD, name=f"B {ODD}")
    lines = alerts.told().splitlines()
    assert len(lines) == 3
    seen = ODD.replace("\n", " ").replace("\u202e", "")
    assert any(f"- Name of {seen} (B {seen}): last seen" in line for line in lines)
    assert max(map(len, lines)) < 300
    assert alerts.told() == ""


def test_the_state_forgets_drops_that_are_no_longer_looked_at(tables: Tables, alerts: Alerts) -> None:
    tables.sync(hours_ago(24 * 6), "b-1", "i-1")
    tables.sync(hours_ago(24 * 5), "b-1")
    assert "i-1" in alerts.told("--stale-hours", "999")
    state = json.loads(alerts.state.read_text(encoding="utf-8"))
    tables.execute("delete from businesses")
    alerts.run()
    assert len(state["drops"]) == 1
    tables.execute(f"update connection_changes set observed_at = observed_at - interval '{24 * 3} hours'")  # noqa: S608
    assert alerts.told() == ""
    assert json.loads(alerts.state.read_text(encoding="utf-8"))["drops"] == []


@pytest.mark.parametrize("last_run", [hours_ago(24 * 30), hours_ago(-24 * 30)], ids=["long ago", "a wrong clock's"])
def test_what_happened_since_a_last_run_long_ago_or_in_the_future_is_told(
    tables: Tables, alerts: Alerts, last_run: datetime
) -> None:
    state = json.loads(alerts.state.read_text(encoding="utf-8"))
    alerts.state.write_text(json.dumps(state | {"last_run": last_run.isoformat()}), encoding="utf-8")
    days = 20 if last_run < NOW else 1
    tables.sync(hours_ago(24 * days + 1), "b-1", "i-1")
    tables.sync(hours_ago(24 * days), "b-1")
    assert "Name of i-1" in alerts.told("--stale-hours", "999")


def test_what_the_tap_writes_is_told(tmp_path: Path) -> None:
    database = str(tmp_path / "warehouse.duckdb")
    script, state, told = Alerts(database, tmp_path), None, 0
    world = World.seeded(7)
    with CodeChat(world) as server:
        for run in range(4):
            before = {instance["instanceId"]: instance["name"] for instance in connected(world)}
            if run:
                world.step()
            now = {instance["instanceId"] for instance in connected(world)}
            synced = sync(world.settings(server.url), state=state)
            state = synced.state
            with duckdb.connect(database) as connection:
                load(connection, [message for message in synced.messages if message.get("stream") in KEYS])
            lines = script.told().splitlines()[1:]
            told += len(lines)
            assert sorted(line.partition(" (")[0] for line in lines) == sorted(
                f"- {name}" for instance, name in before.items() if instance not in now
            )
    assert told


def connected(world: World) -> list[dict[str, Any]]:
    """Return what is connected in a world."""
    return [instance for business in world.businesses.values() for instance in business.connected]


@pytest.mark.parametrize(("name", "schema"), [("main.duckdb", None), ("dev.duckdb", "dev"), ("it's.db", 'we "ird.x')])
def test_the_schema_can_be_named_and_the_file_can_have_any_name(tmp_path: Path, name: str, schema: str | None) -> None:
    prefix = ""
    if schema:
        # The file's name is a catalog's: it stands before a schema of the same name.
        prefix = '"{}"."{}".'.format(name.partition(".")[0], schema.replace('"', '""'))
        with duckdb.connect(str(tmp_path / name)) as connection:
            connection.execute(f"create schema {prefix[:-1]}")
    tables = duckdb_tables(tmp_path / name, prefix=prefix)
    script = Alerts(str(tmp_path / name), tmp_path)
    options = ["--schema", schema] if schema else []
    script.run(*options)
    tables.sync(hours_ago(3), "b-1", "i-1")
    tables.sync(hours_ago(2), "b-1")
    assert "Name of i-1" in script.told(*options)


# -------------------------------------------------------------------------------------------------------- by webhook


class Webhook:
    """A real HTTP receiver on loopback: answers with `status`, keeps what it got, and can do something first."""

    def __init__(self) -> None:
        self.status, self.got = 200, list[Any]()
        self.before_answer: Callable[[], None] = lambda: None
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.got.append((self.path, self.headers["Content-Type"], json.loads(body)))
                webhook.before_answer()
                self.send_response(webhook.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:  # noqa: ANN401
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/{PASSWORD}"


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Serve until the end of the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def webhook(alerts: Alerts) -> Iterator[Webhook]:
    """Give a receiver, whose URL the script has in its environment."""
    receiver = Webhook()
    alerts.environment = {"ALERTS_WEBHOOK_URL": receiver.url, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with serving(receiver.server):
        yield receiver


def test_a_webhook_gets_one_message_a_run(tables: Tables, alerts: Alerts, webhook: Webhook) -> None:
    tables.sync(hours_ago(4), "b-1", "i-1", "i-2")
    tables.sync(hours_ago(3), "b-1")
    tables.sync(hours_ago(30), "b-2", name="Beta")
    assert alerts.told("--to", "webhook") == ""
    [(path, kind, body)] = webhook.got
    assert (path, kind, list(body)) == (f"/services/{PASSWORD}", "application/json", ["text"])
    assert all(name in body["text"] for name in ("Name of i-1", "Name of i-2", "- Beta"))
    alerts.run("--to", "webhook")
    assert len(webhook.got) == 1


def test_a_name_cannot_call_everybody(tables: Tables, alerts: Alerts, webhook: Webhook) -> None:
    tables.sync(hours_ago(4), "b-1", ODD)
    tables.sync(hours_ago(3), "b-1")
    alerts.run("--to", "webhook")
    text = webhook.got[0][2]["text"]
    assert "&lt;!channel&gt; @\u200ball &amp;" in text
    assert not {"<", ">"} & set(text)


@pytest.mark.parametrize(("status", "words"), [(500, "500 Internal Server Error"), (404, "404"), (302, "302 Found")])
def test_what_a_webhook_did_not_take_is_told_at_the_next_run(
    tables: Tables, alerts: Alerts, webhook: Webhook, status: int, words: str
) -> None:
    tables.sync(hours_ago(4), "b-1", "i-1")
    tables.sync(hours_ago(3), "b-1")
    webhook.status = status
    failed = alerts.run("--to", "webhook", code=1)
    assert failed.stderr.startswith(f"alerts: the webhook answered {words}")
    assert (failed.stderr.count("\n"), PASSWORD in failed.stderr) == (1, False)
    assert [path.name for path in alerts.folder.glob("alerts.json*")] == ["alerts.json"], "no draft is left"
    webhook.status = 204
    alerts.run("--to", "webhook")
    assert [body["text"].count("Name of i-1") for _, _, body in webhook.got] == [1, 1]
    alerts.run("--to", "webhook")
    assert len(webhook.got) == 2


def test_a_script_that_is_killed_after_it_sent_repeats_and_loses_nothing(
    tables: Tables, alerts: Alerts, webhook: Webhook
) -> None:
    tables.sync(hours_ago(4), "b-1", "i-1")
    tables.sync(hours_ago(3), "b-1")
    before = alerts.state.read_bytes()

    webhook.before_answer = lambda: alerts.process.kill()  # noqa: PLW0108 - a process is yet to come
    alerts.run("--to", "webhook", code=-signal.SIGKILL)
    assert alerts.state.read_bytes() == before
    webhook.before_answer = lambda: None
    alerts.run("--to", "webhook")
    assert [body["text"].count("Name of i-1") for _, _, body in webhook.got] == [1, 1]


def test_nothing_is_sent_when_it_could_not_be_remembered(tables: Tables, alerts: Alerts, webhook: Webhook) -> None:
    tables.sync(hours_ago(4), "b-1", "i-1")
    tables.sync(hours_ago(3), "b-1")
    # A file that can be read, with a name so long that none can be written beside it.
    alerts.state = alerts.state.rename(alerts.folder / ("x" * 250))
    done = alerts.run("--to", "webhook", code=1)
    assert "cannot be written: File name too long" in done.stderr
    assert webhook.got == []
    alerts.state = alerts.state.rename(alerts.folder / "alerts.json")
    alerts.run("--to", "webhook")
    assert len(webhook.got) == 1


# --------------------------------------------------------------------------------------------------------- by e-mail


class MailServer(socketserver.ThreadingTCPServer):
    """A real SMTP server on loopback, as small as it can be: STARTTLS or TLS, AUTH PLAIN, one mail a connection."""

    daemon_threads = True

    def __init__(self, security: str, context: ssl.SSLContext, refused: str = "") -> None:
        self.security, self.context, self.refused = security, context, refused
        self.mails: list[tuple[list[str], bytes]] = []
        self.logins: list[tuple[bool, str]] = []
        super().__init__(("127.0.0.1", 0), MailHandler)


class MailHandler(socketserver.BaseRequestHandler):
    """One connection to the server above."""

    server: MailServer

    def handle(self) -> None:
        """Answer commands until QUIT."""
        server, recipients = self.server, list[str]()
        encrypted = server.security == "tls"
        connection = server.context.wrap_socket(self.request, server_side=True) if encrypted else self.request
        lines = connection.makefile("rb")
        connection.sendall(b"220 mail.example.com\r\n")
        while line := lines.readline().decode().strip():
            command, _, rest = line.partition(" ")
            answer = "250 ok"
            if command.upper() == "EHLO":
                offer = "" if encrypted or server.security == "none" else "250-STARTTLS\r\n"
                answer = f"250-mail.example.com\r\n{offer}250 AUTH PLAIN"
            elif command.upper() == "QUIT":
                answer = "221 bye"
            elif command == "STARTTLS":
                connection.sendall(b"220 go\r\n")
                connection, encrypted = server.context.wrap_socket(connection, server_side=True), True
                lines = connection.makefile("rb")
                continue
            elif command == "AUTH":
                _, user, password = b64decode(rest.split()[1]).decode().split("\0")
                server.logins.append((encrypted, user))
                answer = "235 ok" if password == PASSWORD else f"535 wrong: {password}"
            elif command.lower() == "rcpt":
                recipients.append(rest.partition("<")[2].partition(">")[0])
                answer = "550 no such user" if recipients[-1] == server.refused else "250 ok"
            elif command.lower() == "data":
                connection.sendall(b"354 go\r\n")
                server.mails.append((recipients, b"".join(iter(lines.readline, b".\r\n"))))
            connection.sendall(f"{answer}\r\n".encode())


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Give a certificate authority that the script is told to trust."""
    return trustme.CA()


@contextmanager
def mail_server(alerts: Alerts, authority: trustme.CA, security: str, refused: str = "") -> Iterator[MailServer]:
    """Start a mail server, and put its settings into the script's environment."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    certificates = alerts.folder / "authority.pem"
    authority.cert_pem.write_to_path(str(certificates))
    server = MailServer(security, context, refused)
    alerts.environment = {
        "SSL_CERT_FILE": str(certificates),
        "ALERTS_SMTP_HOST": "localhost",
        "ALERTS_SMTP_PORT": str(server.server_address[1]),
        "ALERTS_SMTP_SECURITY": security,
        "ALERTS_MAIL_FROM": "alerts@example.com",
        "ALERTS_MAIL_TO": "ana@example.com, rui@example.com",
    }
    with serving(server):
        yield server


@pytest.mark.parametrize("security", ["starttls", "tls", "none"])
def test_a_mail_reaches_everybody(tables: Tables, alerts: Alerts, authority: trustme.CA, security: str) -> None:
    tables.sync(hours_ago(4), "b-1", ODD)
    tables.sync(hours_ago(3), "b-1")
    login = {} if security == "none" else {"ALERTS_SMTP_USER": "loader", "ALERTS_SMTP_PASSWORD": PASSWORD}
    with mail_server(alerts, authority, security) as server:
        alerts.run("--to", "email", environment=login)
        alerts.run("--to", "email", environment=login)
    [(recipients, data)] = server.mails
    assert recipients == ["ana@example.com", "rui@example.com"]
    assert server.logins == [] if security == "none" else [(True, "loader")]
    mail = message_from_bytes(data, policy=policy.default)
    assert (mail["Subject"], mail["From"]) == ("CodeChat: 1 number dropped", "alerts@example.com")
    assert f"- Name of {ODD[:10]}" in mail.get_body().get_content()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ALERTS_SMTP_PASSWORD": f"wrong-{PASSWORD}"}, "the mail server refused the user or the password (535)"),
        ({"ALERTS_SMTP_HOST": "127.0.0.1"}, "certificate verify failed"),
        ({"ALERTS_SMTP_SECURITY": "none", "ALERTS_SMTP_PORT": "1"}, "the mail was not sent: [Errno 111] Connection"),
        ({"ALERTS_SMTP_SECURITY": "ssl"}, "ALERTS_SMTP_SECURITY is starttls, tls or none"),
        ({"ALERTS_SMTP_PORT": "mail"}, "a setting of the mail is wrong"),
        ({"ALERTS_MAIL_TO": ""}, "ALERTS_MAIL_TO is not set"),
        ({"ALERTS_MAIL_TO": "ana@example.com\nBcc: eve@example.com"}, "a setting of the mail is wrong"),
        ({"ALERTS_SMTP_PASSWORD": f"é-{PASSWORD}"}, "a setting of the mail is wrong: UnicodeEncodeError"),
    ],
)
def test_a_mail_that_fails_is_one_line_without_a_secret_and_is_sent_later(
    tables: Tables, alerts: Alerts, authority: trustme.CA, change: dict[str, str], words: str
) -> None:
    tables.sync(hours_ago(4), "b-1", "i-1")
    tables.sync(hours_ago(3), "b-1")
    login = {"ALERTS_SMTP_USER": "loader", "ALERTS_SMTP_PASSWORD": PASSWORD}
    with mail_server(alerts, authority, "starttls") as server:
        failed = alerts.run("--to", "email", code=1, environment=login | change)
        assert words in failed.stderr
        assert (failed.stderr.count("\n"), PASSWORD in failed.stderr, server.mails) == (1, False, [])
        alerts.run("--to", "email", environment=login)
    assert len(server.mails) == 1


def test_a_password_is_not_sent_without_encryption_to_a_server_that_does_not_offer_it(
    tables: Tables, alerts: Alerts, authority: trustme.CA
) -> None:
    tables.sync(hours_ago(4), "b-1", "i-1")
    tables.sync(hours_ago(3), "b-1")
    with mail_server(alerts, authority, "none") as server:
        login = {"ALERTS_SMTP_USER": "loader", "ALERTS_SMTP_PASSWORD": PASSWORD, "ALERTS_SMTP_SECURITY": "starttls"}
        assert "STARTTLS" in alerts.run("--to", "email", code=1, environment=login).stderr
    assert (server.logins, server.mails) == ([], [])


def test_one_refused_recipient_is_named_and_the_others_have_their_mail(
    tables: Tables, alerts: Alerts, authority: trustme.CA
) -> None:
    tables.sync(hours_ago(4), "b-1", "i-1")
    tables.sync(hours_ago(3), "b-1")
    with mail_server(alerts, authority, "none", refused="rui@example.com") as server:
        assert "refused rui@example.com" in alerts.run("--to", "email").stderr
        alerts.run("--to", "email")
    assert len(server.mails) == 1


# ------------------------------------------------------------------------------------------------------------ errors


def test_a_damaged_state_file_is_an_error_and_no_first_run(tables: Tables, alerts: Alerts) -> None:
    tables.sync(hours_ago(4), "b-1", "i-1")
    tables.sync(hours_ago(3), "b-1")
    good = alerts.state.read_text(encoding="utf-8")
    for text in (
        good[:20],
        "[]",
        "{}",
        good.replace("2026", "x"),
        '{"last_run": "2026-01-01", "drops": 1, "stale": {}}',
        "",
    ):
        alerts.state.write_text(text, encoding="utf-8")
        failed = alerts.run(code=1)
        assert "alerts.json is damaged: remove it" in failed.stderr
        assert (failed.stdout, alerts.state.read_text(encoding="utf-8")) == ("", text)
    alerts.state.write_text(good, encoding="utf-8")
    assert "Name of i-1" in alerts.told()


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["no such.duckdb"], {}, "neither a DuckDB file that exists nor a postgresql:// URL"),
        ([f"host=db password={PASSWORD}"], {}, "neither a DuckDB file that exists nor a postgresql:// URL"),
        ([str(SCRIPT)], {}, "the tables could not be read: "),
        ([], {"ALERTS_DATABASE": ""}, "no database: give a DuckDB file"),
        ([], {"ALERTS_DATABASE": "empty.duckdb"}, "connection_changes does not exist"),
        (["empty.duckdb", "--schema", "none"], {}, "connection_changes does not exist"),
        ([f"postgresql://u:{PASSWORD}@127.0.0.1:1/d"], {}, "the tables could not be read: connection failed"),
        ([f"postgresql://u:a/{PASSWORD}@127.0.0.1:1/d"], {}, "the tables could not be read: "),
        ([f"postgresql://u:a@{PASSWORD}@127.0.0.1:1/d"], {}, "the tables could not be read: "),
        (["w.duckdb", "--to", "webhook"], {}, "ALERTS_WEBHOOK_URL is not set"),
        (["w.duckdb", "--to", "webhook"], {"ALERTS_WEBHOOK_URL": f"ftp://{PASSWORD}"}, "is not an http(s) URL"),
        (["w.duckdb", "--to", "webhook"], {"ALERTS_WEBHOOK_URL": f"http://a/ {PASSWORD}"}, "is it the right URL?"),
        (["w.duckdb", "--to", "webhook"], {"ALERTS_WEBHOOK_URL": f"http://[{PASSWORD}"}, "is it the right URL?"),
        (["w.duckdb", "--to", "webhook"], {"ALERTS_WEBHOOK_URL": f"http://127.0.0.1:1/{PASSWORD}"}, "be reached: "),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], words: str
) -> None:
    duckdb.connect(str(tmp_path / "empty.duckdb")).close()
    tables = duckdb_tables(tmp_path / "w.duckdb")
    Alerts(str(tmp_path / "w.duckdb"), tmp_path).run()
    tables.sync(hours_ago(4), "b-1", "i-1")
    tables.sync(hours_ago(3), "b-1")
    done = subprocess.run(  # noqa: S603
        [sys.executable, str(SCRIPT), *arguments],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert (done.stderr.count("\n"), PASSWORD in done.stderr) == (1, False), done.stderr


def test_a_missing_driver_is_named(tmp_path: Path) -> None:
    (tmp_path / "w.duckdb").touch()
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-S", "-I", str(SCRIPT), "w.duckdb"],  # without installed packages
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "alerts: duckdb is missing: pip install duckdb\n")


def test_standard_output_that_is_closed_loses_nothing(tables: Tables, alerts: Alerts) -> None:
    tables.sync(hours_ago(4), "b-1", "i-1")
    tables.sync(hours_ago(3), "b-1")
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123
        done = subprocess.run(  # noqa: S603
            [sys.executable, str(SCRIPT), alerts.database, "--state", str(alerts.state)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, "No space left" in done.stderr) == (1, True)
    assert "Name of i-1" in alerts.told()
