"""PostgreSQL, the first-class way: a database whose zone is not UTC, two businesses, a thousand instances.

A run of Meltano takes seconds, so one story of five runs serves all tests, each run with deletions switched on:

1. `first`, by the hourly schedule: everything is new;
2. `changed`, by COPY: a phone has dropped, a webhook is gone, one is renamed, a flag is switched;
3. `failed`: one business's token is wrong, and the other's webhook was renamed again;
4. `recovered`, with hard deletes: the token is right, the phone is back, another one has dropped;
5. `refreshed`: somebody has damaged a table, `--full-refresh` mends it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from demo.codechat import FLAGS, Business, CodeChat, World
from demo.project import FOREIGN, ROOT, Project
from tests.e2e import warehouse
from tests.e2e.test_pipeline import by, snake, utc
from tests.kit.support import CONNECTED, TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.warehouse import Row, Warehouse

pytestmark = pytest.mark.e2e

ZONE = "America/Sao_Paulo"
BODY: dict[str, Any] = json.loads(CONNECTED.read_text(encoding="utf-8"))
STAYS, DROPS = (item["instanceId"] for item in BODY["Instances"])
CRM, ALERTS = (hook["webhookId"] for hook in BODY["Instances"][0]["Webhook"])
THOUSAND = 1000
RUNS = ("first", "changed", "failed", "recovered", "refreshed")


@dataclass(frozen=True)
class Run:
    """How a run ended, what it left in the tables, and what CodeChat listed meanwhile."""

    code: int
    said: str
    tables: dict[str, list[Row]]
    listed: dict[str, dict[str, Any]] = field(repr=False)

    @property
    def sent(self) -> int:
        """Count the records that the loader says it has got."""
        [count] = re.findall(r"completed processing .* (\d+) records", self.said)
        return int(count)

    @property
    def loaded(self) -> int:
        """Count the rows that this run has written: the latest run to have written any."""
        rows = [row["_sdc_sync_started_at"] for rows in self.tables.values() for row in rows]
        return rows.count(max(rows))

    def rows(self, table: str, key: str) -> dict[str, Row]:
        """Index a table."""
        return by(key, self.tables[table])


@dataclass(frozen=True)
class Story:
    """The runs, and where they loaded to."""

    place: Warehouse
    runs: dict[str, Run]
    dropped_later: str
    switched: str

    def __getattr__(self, name: str) -> Run:
        """Give a run by its name."""
        return self.runs[name]


@pytest.fixture(scope="module")
def far_away(postgres_url: str) -> Iterator[str]:
    """Make a database whose zone is not UTC; the server must let its user do so."""
    name = f"tap_instances_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(SQL("create database {}").format(Identifier(name)))
        connection.execute(SQL("alter database {} set timezone to {}").format(Identifier(name), ZONE))
        yield urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
        connection.execute(SQL("drop database {} with (force)").format(Identifier(name)))


def a_world() -> tuple[World, Business, Business]:
    """Make a bakery with the documented body and what is odd, and a fleet of a thousand."""
    body = deepcopy(BODY)
    body["Instances"][0]["name"] = "aten\0dimento"
    body["Instances"][0]["WhatsApp"]["newThing"] = {"level": 7, "te\0xt": "São\0 João 🥖"}
    body["Instances"][0]["Webhook"][0]["WebhookEvents"]["chatsDeleted"] = True
    world = World.seeded(3, businesses=1, instances=THOUSAND)
    [fleet] = world.businesses.values()
    fleet.away.clear()
    bakery = Business(body["businessId"], TOKEN, body)
    world.businesses[bakery.id] = bakery
    return world, bakery, fleet


@pytest.fixture(scope="module")
def story(far_away: str, plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Make the runs."""
    del plugins  # only has to be there
    world, bakery, fleet = a_world()
    place = warehouse.postgres_at(far_away)
    runs: dict[str, Run] = {}
    with CodeChat(world) as server:
        project = Project(
            tmp_path_factory.mktemp("project"),
            {
                "MELTANO_ENVIRONMENT": "prod",
                "TAP_INSTANCES_API_URL": server.url,
                "TAP_INSTANCES_EMIT_ACTIVATE_VERSION_MESSAGES": "true",
                **place.settings,
            },
        )

        def run(*command: str, token: str = fleet.token, **settings: str) -> Run:
            businesses = [
                {"business_id": bakery.id, "auth_token": bakery.token},
                {"business_id": fleet.id, "auth_token": token},
            ]
            done = project.meltano(*command, TAP_INSTANCES_BUSINESSES=json.dumps(businesses), **settings)
            listed = {i["instanceId"]: deepcopy(i) for b in (bakery, fleet) for i in b.connected}
            return Run(done.returncode, done.stdout, place.tables(), listed)

        pipeline = ("run", "tap-instances", "target-postgres")
        runs["first"] = run("schedule", "run", "codechat-to-postgres-hourly")

        bakery.away.add(DROPS)
        crm, alerts = bakery.instances[0]["Webhook"]
        bakery.instances[0]["Webhook"].remove(alerts)
        crm["name"] = "CRM"
        switched = next(hook for item in fleet.instances for hook in item["Webhook"])
        switched["WebhookEvents"]["newJwt"] = not switched["WebhookEvents"]["newJwt"]
        runs["changed"] = run(*pipeline, TARGET_POSTGRES_USE_COPY="true")

        dropped_later = fleet.instances[-1]["instanceId"]
        fleet.away.add(dropped_later)
        crm["name"] = "CRM 2"
        runs["failed"] = run(*pipeline, token=f"wrong-{fleet.token}")

        bakery.away.clear()
        runs["recovered"] = run(*pipeline, TARGET_POSTGRES_HARD_DELETE="true")

        damage(far_away, place.schema)
        runs["refreshed"] = run("run", "--full-refresh", *pipeline[1:])
    return Story(place, runs, dropped_later, switched["webhookId"])


def damage(url: str, schema: str) -> None:
    """Change and lose rows behind the tap's back."""
    with psycopg.connect(url, options=f"-c search_path={schema}") as connection:
        connection.execute("update webhooks set name = 'damaged'")
        connection.execute("delete from webhook_events where new_jwt")


@pytest.mark.parametrize("name", RUNS)
def test_rows_loaded_are_rows_sent(story: Story, name: str) -> None:
    run = story.runs[name]
    assert run.loaded == run.sent > 0


@pytest.mark.parametrize("name", RUNS)
def test_only_the_run_with_a_wrong_token_fails(story: Story, name: str) -> None:
    run = story.runs[name]
    assert (run.code != 0) == (name == "failed"), run.said


def test_a_thousand_instances_are_loaded_once_each(story: Story) -> None:
    run = story.first
    hooks = [hook for item in run.listed.values() for hook in item["Webhook"]]
    assert {table: len(rows) for table, rows in run.tables.items()} == {
        "businesses": 2,
        "instances": THOUSAND + 2,
        "webhooks": len(hooks),
        "webhook_events": len(hooks),
        "connection_changes": THOUSAND + 2,
        "observations": 2,
    }
    assert run.rows("instances", "instance_id").keys() == run.listed.keys()
    assert run.rows("webhooks", "webhook_id").keys() == {hook["webhookId"] for hook in hooks}


@pytest.mark.parametrize("name", ["first", "refreshed"])
def test_times_are_utc_whatever_the_zone_of_the_database(story: Story, name: str) -> None:
    run = story.runs[name]
    rows, hooks = run.rows("instances", "instance_id"), run.rows("webhooks", "webhook_id")
    for item in run.listed.values():
        row = rows[item["instanceId"]]
        assert utc(row["created_at"]) == utc(item["createdAt"])
        assert utc(row["auth_updated_at"]) == utc(item["Auth"]["updatedAt"])
        for hook in item["Webhook"]:
            assert utc(hooks[hook["webhookId"]]["updated_at"]) == utc(hook["updatedAt"])
    changes = run.tables["connection_changes"]
    assert {utc(row["observed_at"]) for row in changes} >= {utc(row["observed_at"]) for row in rows.values()}
    assert story.place.types()["instances", "created_at"] == "timestamp without time zone"


@pytest.mark.parametrize("name", ["first", "changed"])
def test_booleans_are_booleans_by_insert_and_by_copy(story: Story, name: str) -> None:
    run = story.runs[name]
    rows = run.rows("webhook_events", "webhook_id")
    for hook in (hook for item in run.listed.values() for hook in item["Webhook"]):
        row = rows[hook["webhookId"]]
        assert [row[snake(flag)] for flag in FLAGS] == [hook["WebhookEvents"][flag] for flag in FLAGS]


@pytest.mark.parametrize("name", ["first", "changed"])
def test_what_has_no_column_is_jsonb_by_insert_and_by_copy(story: Story, name: str) -> None:
    row = story.runs[name].rows("instances", "instance_id")[STAYS]
    assert row["additional_properties"] == {"WhatsApp.newThing": {"level": 7, "text": "São João 🥖"}}
    events = story.runs[name].rows("webhook_events", "webhook_id")[CRM]
    assert events["additional_properties"] == {"chatsDeleted": True}
    assert story.place.types()["instances", "additional_properties"] == "jsonb"


def test_jsonb_is_asked_by_path(story: Story) -> None:
    found = story.place.query(
        "select instance_id, (additional_properties -> 'WhatsApp.newThing' ->> 'level')::int as level"
        " from instances where additional_properties ? 'WhatsApp.newThing'"
    )
    assert found == [{"instance_id": STAYS, "level": 7}]


def test_text_that_postgresql_cannot_hold_arrives_without_it(story: Story) -> None:
    assert story.first.rows("instances", "instance_id")[STAYS]["name"] == "atendimento"


def test_state_of_the_schedule_is_kept_for_the_next_run(story: Story) -> None:
    run = story.changed
    changes = len(run.tables["connection_changes"]) - len(story.first.tables["connection_changes"])
    # Two businesses, each observed; all instances; a renamed and a deleted webhook; the events of two.
    assert run.sent == 2 + 2 + len(run.listed) + 2 + 2 + changes
    assert changes == 1


def test_changed_rows_replace_their_former_selves(story: Story) -> None:
    assert story.changed.rows("webhooks", "webhook_id")[CRM]["name"] == "CRM"
    before, after = (story.runs[n].rows("webhook_events", "webhook_id")[story.switched] for n in ("first", "changed"))
    assert after["new_jwt"] is not before["new_jwt"]
    assert len(story.changed.tables["webhooks"]) == len(story.first.tables["webhooks"])


def test_a_webhook_that_is_gone_says_since_when(story: Story) -> None:
    for table in ("webhooks", "webhook_events"):
        gone = [row for row in story.changed.tables[table] if row["deleted_at"]]
        assert [row["webhook_id"] for row in gone] == [ALERTS]
    assert len(story.changed.tables["connection_changes"]) == THOUSAND + 3


def test_a_soft_delete_marks_the_instance_that_is_not_listed(story: Story) -> None:
    marked = [row["instance_id"] for row in story.changed.tables["instances"] if row["_sdc_deleted_at"]]
    assert marked == [DROPS]
    assert not [row for row in story.first.tables["instances"] if row["_sdc_deleted_at"]]


def test_a_failed_run_loads_the_other_business_and_deletes_nothing(story: Story) -> None:
    run, before = story.failed, story.changed
    assert "1 of 2 businesses failed" in run.said
    assert run.rows("webhooks", "webhook_id")[CRM]["name"] == "CRM 2"
    marked = {row["instance_id"] for row in run.tables["instances"] if row["_sdc_deleted_at"]}
    assert marked == {DROPS}
    more = {table: len(rows) - len(before.tables[table]) for table, rows in run.tables.items()}
    assert {table: rows for table, rows in more.items() if rows} == {"observations": 1}, "of the other business"


def test_the_next_run_recovers_what_the_failed_one_missed(story: Story) -> None:
    run = story.recovered
    failed = len(story.failed.tables["connection_changes"])
    changes = [row for row in run.tables["connection_changes"] if row["previous_observed_at"] < row["observed_at"]]
    told = {(row["instance_id"], row["change_type"]) for row in changes}
    assert told == {(DROPS, "disconnected"), (DROPS, "connected"), (story.dropped_later, "disconnected")}
    assert len(run.tables["connection_changes"]) == failed + 2
    # Two businesses, each observed; all instances; the changes. The webhooks of the one that is back are known.
    assert run.sent == 2 + 2 + len(run.listed) + 2


def test_a_hard_delete_leaves_what_is_listed(story: Story) -> None:
    rows = story.recovered.rows("instances", "instance_id")
    assert rows.keys() == story.recovered.listed.keys()
    assert rows[DROPS]["_sdc_deleted_at"] is None, "it is back"
    assert story.dropped_later not in rows


def test_the_cron_script_loads_utc_too(far_away: str, plugins: None, tmp_path: Path) -> None:
    del plugins  # only has to be there
    place, body = warehouse.postgres_at(far_away), deepcopy(BODY)
    loader = ROOT / ".meltano" / "loaders" / "target-postgres" / "venv" / "bin"
    (tmp_path / "tap-instances").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m tap_instances "$@"\n', encoding="utf-8"
    )
    (tmp_path / "tap-instances").chmod(0o755)
    with CodeChat(World.from_body(body, TOKEN)) as server:
        tap = {"api_url": server.url, "business_id": body["businessId"], "auth_token": TOKEN}
        (tmp_path / "tap.json").write_text(json.dumps(tap), encoding="utf-8")
        target = {name.removeprefix("TARGET_POSTGRES_").lower(): value for name, value in place.settings.items()}
        (tmp_path / "target.json").write_text(json.dumps(target), encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        done = subprocess.run(  # noqa: S603 - our own script
            [str(ROOT / "examples" / "cron" / "sync.sh")],
            cwd=tmp_path,
            env=environment | {"PATH": os.pathsep.join([str(tmp_path), str(loader), os.environ["PATH"]])},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    rows = by("instance_id", place.tables()["instances"])
    assert {key: utc(row["created_at"]) for key, row in rows.items()} == {
        item["instanceId"]: utc(item["createdAt"]) for item in body["Instances"]
    }


def test_a_full_refresh_mends_damaged_tables(story: Story) -> None:
    run = story.refreshed
    hooks = {hook["webhookId"]: hook for item in run.listed.values() for hook in item["Webhook"]}
    names, events = run.rows("webhooks", "webhook_id"), run.rows("webhook_events", "webhook_id")
    for webhook_id, hook in hooks.items():
        assert names[webhook_id]["name"] == hook["name"]
        assert events[webhook_id]["new_jwt"] is hook["WebhookEvents"]["newJwt"]
    assert run.sent == 2 + 2 + 2 * len(run.listed) + 2 * len(hooks)
