"""Run the DAG for real, without a scheduler: `make airflow`.

A made-up CodeChat, a throwaway PostgreSQL and a throwaway Airflow; then four hours, each by `airflow dags test`: all is
new; one task fails once and is tried again; one business fails for good; it recovers. After each hour the rows that are
loaded must be those that CodeChat listed, and no token may be in any text of Airflow's.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg

from demo.codechat import ADMIN_TOKEN, Answer, CodeChat, World
from demo.project import FOREIGN, ROOT
from tests.e2e import postgres

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import LiteralString

    from demo.codechat import Business, Request

AIRFLOW = ROOT / ".venv-airflow" / "bin" / "airflow"
COMMANDS = (ROOT / ".venv" / "bin", ROOT / ".meltano" / "loaders" / "target-postgres" / "venv" / "bin")
PASSWORD = "not-a-real-password"  # noqa: S105 (it opens nothing: who connects is trusted)
LONGEST = 600  # seconds


class Check:
    """The world, the warehouse, and an Airflow that is thrown away."""

    def __init__(self, server: CodeChat, url: str, home: Path) -> None:
        """Make Airflow's home; `url` is the PostgreSQL server's."""
        self.server, self.url, self.home = server, url, home
        self.businesses = list(server.world.businesses.values())
        self.seen: dict[str, set[str]] = {}  # table -> every id that was ever listed
        self.said = ""
        self.hour = 0
        self.wrong: Business | None = None
        parts = urlsplit(url)
        address = f"{parts.username}:{parts.password or PASSWORD}@{parts.hostname}:{parts.port or 5432}"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith((*FOREIGN, "AIRFLOW"))}
        self.environment |= {
            "PATH": os.pathsep.join([*map(str, COMMANDS), os.environ["PATH"]]),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).parent / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
            "AIRFLOW_VAR_CODECHAT_API_URL": server.url,
            "AIRFLOW_VAR_CODECHAT_ADMIN_TOKEN": ADMIN_TOKEN,
            "AIRFLOW_VAR_CODECHAT_STATE": f"file://{home / 'state'}",
            "AIRFLOW_CONN_WAREHOUSE": f"postgres://{address}{parts.path}",
        }
        self.airflow("db", "migrate")
        self.airflow("pools", "set", "codechat", "4", "businesses that are read at a time")

    def airflow(self, *arguments: str, **environment: str) -> int:
        """Run Airflow and wait; keep what it says."""
        done = subprocess.run(  # noqa: S603 (our own words)
            [str(AIRFLOW), *arguments],
            cwd=self.home,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        self.said = done.stdout
        if done.returncode and arguments[0] != "dags":
            raise SystemExit(done.stdout)
        return done.returncode

    def run(self, what: str, *, wrong: Business | None = None, tries: Mapping[str, int] | None = None) -> None:
        """Let the DAG run for an hour; `wrong` is refused, `tries` says how many requests a business gets."""
        self.wrong = wrong
        self.server.requests.clear()
        began = time.monotonic()
        code = self.airflow(
            "dags",
            "test",
            "tap_instances",
            f"2026-01-01T{self.hour:02}:00:00",
        )
        self.hour += 1
        self.same("the DAG run failed", bool(code), bool(wrong))
        asked = {b.id: sum(b.id in request.path for request in self.server.requests) for b in self.businesses}
        self.same("requests a business", asked, {b.id: 1 for b in self.businesses} | dict(tries or {}))
        self.rows([b for b in self.businesses if b is not wrong])
        self.secrets()
        print(f"{what}: as it should be ({time.monotonic() - began:.0f} s)", flush=True)

    def rows(self, read: list[Business]) -> None:
        """Compare the tables with what CodeChat listed for the businesses that could be read."""
        for business in read:
            instances = business.connected
            hooks = {hook["webhookId"] for item in instances for hook in item["Webhook"]}
            ids = {item["instanceId"] for item in instances}
            connected = (
                "select i.instance_id from instances i join businesses b using (business_id)"
                " where b.business_id = %s and i.observed_at = b.observed_at"
            )
            live = (
                "select w.webhook_id from webhooks w join instances i using (instance_id)"
                " join businesses b using (business_id)"
                " where b.business_id = %s and i.observed_at = b.observed_at and w.deleted_at is null"
            )
            self.same(f"connected now of {business.name}", self.ask(connected, business.id), ids)
            self.same(f"live webhooks of {business.name}", self.ask(live, business.id), hooks)
            self.seen.setdefault("businesses", set()).add(business.id)
            self.seen.setdefault("instances", set()).update(ids)
            self.seen.setdefault("webhooks", set()).update(hooks)
        self.same("businesses", self.ask("select business_id from businesses"), self.seen["businesses"])
        self.same("instances", self.ask("select instance_id from instances"), self.seen["instances"])
        self.same("webhooks", self.ask("select webhook_id from webhooks"), self.seen["webhooks"])
        self.same("webhook_events", self.ask("select webhook_id from webhook_events"), self.seen["webhooks"])

    def ask(self, sql: LiteralString, *values: Any) -> set[Any]:  # noqa: ANN401
        """Ask PostgreSQL for a column; a value twice is an error."""
        with psycopg.connect(self.url, options="-c search_path=codechat") as connection:
            found = [value for (value,) in connection.execute(sql, values)]
        self.same("rows and different rows", len(found), len(set(found)))
        return set(found)

    def secrets(self) -> None:
        """Look for tokens and the password in what Airflow said and in every file it keeps."""
        texts = [self.said.encode(), *(path.read_bytes() for path in self.home.rglob("*") if path.is_file())]
        for secret in [*(business.token for business in self.businesses), ADMIN_TOKEN, PASSWORD]:
            self.same("texts with a secret", sum(secret.encode() in text for text in texts), 0)

    def same(self, what: str, found: object, wanted: object) -> None:
        """Stop unless the two are the same."""
        if found != wanted:
            raise SystemExit(f"{self.said}\nHour {self.hour}: {what}: {found!r}, not {wanted!r}")


def main() -> None:
    """Check it, hour after hour."""
    world = World.seeded(7, businesses=4)
    unlucky, failing, *_ = world.businesses.values()
    refused: list[Request] = []

    def refuse(request: Request) -> Answer | None:
        """Refuse one request of the unlucky business, and all of a wrong one. The tap does not try a 401 again."""
        if unlucky.id in request.path and not refused and check.hour == 1:
            refused.append(request)
        elif not (check.wrong and check.wrong.id in request.path):
            return None
        return Answer(401, {"message": ["Unauthorized"], "error": "Unauthorized", "statusCode": 401})

    with (
        tempfile.TemporaryDirectory(prefix="tap-instances-airflow-") as home,
        postgres.cluster() as url,
        CodeChat(world, respond=refuse) as server,
    ):
        check = Check(server, url, Path(home))
        check.run("everything is new")
        world.step()
        check.run("one task fails once, and is tried again", tries={unlucky.id: 2})
        world.step()
        check.run("one business fails for good, the others are loaded", wrong=failing, tries={failing.id: 3})
        world.step()
        check.run("it recovers")


if __name__ == "__main__":
    main()
