"""From 1.0.0 to the tap as it is: its tables and its state, the SQL of docs/upgrading.md, then two more runs.

What 1.0.0 wrote is recorded; `tests/kit/upgrade.py` has the world, and says how.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from demo.codechat import CodeChat
from tests.e2e.test_pipeline import by, utc
from tests.kit.support import sync
from tests.kit.upgrade import (
    BAKERY,
    CLINIC,
    RECORDED,
    after_2_0_0,
    before_2_0_0,
    between_the_runs_of_1_0_0,
    sql_of_the_page,
    world,
)

if TYPE_CHECKING:
    from demo.codechat import World
    from tests.e2e.warehouse import Row, Warehouse
    from tests.kit.support import Run

pytestmark = pytest.mark.e2e
NAMES = {"target-duckdb": "DuckDB", "target-postgres": "PostgreSQL"}
FIRST = datetime(2026, 11, 26, 9, tzinfo=timezone.utc)  # after the recording
SECOND = FIRST + timedelta(hours=1)


@dataclass(frozen=True)
class Story:
    """What 1.0.0 left, the two runs since, and each time what the world was and what the tables held."""

    recorded: list[dict[str, Any]]
    runs: list[Run]
    truths: list[dict[str, Any]]
    tables: list[dict[str, list[Row]]]

    def seen_at(self, business_id: str) -> list[datetime]:
        """Give when a business was read: by 1.0.0, then since."""
        rows = [m["record"] for m in self.recorded if m["type"] == "RECORD" and m["stream"] == "businesses"]
        return [utc(row["observed_at"]) for row in rows if row["business_id"] == business_id] + [FIRST, SECOND]


def truth(now: World) -> dict[str, Any]:
    """Return what the world lists: (business, instance), and (instance, webhook)."""
    items = [(business.id, item) for business in now.businesses.values() for item in business.connected]
    return {
        "instances": {(business_id, item["instanceId"]) for business_id, item in items},
        "webhooks": {(item["instanceId"], hook["webhookId"]) for _, item in items for hook in item["Webhook"]},
    }


@pytest.fixture(scope="module")
def story(place: Warehouse, plugins: None) -> Story:
    """Load what 1.0.0 wrote, run the page's SQL, then the tap, twice."""
    del plugins  # only has to be there
    recorded = RECORDED.read_text(encoding="utf-8")
    messages = [json.loads(line) for line in recorded.splitlines()]
    place.load(recorded)
    place.query(sql_of_the_page(NAMES[place.loader]).replace("codechat", place.schema))

    moving, state = world(), messages[-1]["value"]
    between_the_runs_of_1_0_0(moving)
    story = Story(messages, [], [], [])
    with CodeChat(moving) as server, mock.patch("tap_instances.responses.datetime") as clock:
        for moment, step in ((FIRST, before_2_0_0), (SECOND, after_2_0_0)):
            step(moving)
            clock.now.return_value = moment
            run = sync(moving.settings(server.url), state=state)
            assert run.returncode == 0, run.stderr
            assert not run.lines("WARNING"), "the state is understood"
            place.load(run.stdout)
            state = run.state
            story.runs.append(run)
            story.truths.append(truth(moving))
            story.tables.append(place.tables())
    return story


@pytest.mark.parametrize("run", [0, 1])
def test_connected_instances_and_live_webhooks_are_the_worlds(story: Story, run: int) -> None:
    tables = story.tables[run]
    now = {row["business_id"]: row["observed_at"] for row in tables["businesses"]}
    connected = {
        (r["business_id"], r["instance_id"]) for r in tables["instances"] if r["observed_at"] == now[r["business_id"]]
    }
    assert connected == story.truths[run]["instances"]
    instances = {instance_id for _, instance_id in connected}
    for table in ("webhooks", "webhook_events"):
        live = {(r["instance_id"], r["webhook_id"]) for r in tables[table] if r["deleted_at"] is None}
        assert {pair for pair in live if pair[0] in instances} == story.truths[run]["webhooks"]


def test_deletions_are_told_of_what_1_0_0_remembered(story: Story) -> None:
    bakery = story.seen_at(BAKERY)
    deleted = {
        "webhook-stays-gone under 1.0.0": bakery[1],
        "webhook-stays-gone before 2.0.0": FIRST,
        "webhook-moves-gone in the move": FIRST,
        "webhook-drops-gone while away": SECOND,
    }
    for table in ("webhooks", "webhook_events"):
        rows = by("webhook_id", story.tables[-1][table])
        assert {key: utc(row["deleted_at"]) for key, row in rows.items() if row["deleted_at"]} == deleted


def test_each_change_is_told_once_and_none_is_of_1970(story: Story) -> None:
    first, second, *_ = story.seen_at(BAKERY)
    clinic, *_ = story.seen_at(CLINIC)
    rows = [
        (r["business_id"], r["instance_id"], r["change_type"], utc(r["previous_observed_at"]), utc(r["observed_at"]))
        for r in story.tables[-1]["connection_changes"]
    ]
    assert sorted(rows) == sorted(
        [
            *((BAKERY, name, "connected", first, first) for name in ("stays", "drops", "returns", "moves")),
            *((CLINIC, name, "connected", clinic, clinic) for name in ("unchanged", "drops at once")),
            (BAKERY, "returns", "disconnected", first, second),
            (BAKERY, "drops", "disconnected", second, FIRST),
            (BAKERY, "returns", "connected", second, FIRST),
            (BAKERY, "moves", "disconnected", second, FIRST),
            (CLINIC, "moves", "connected", clinic, FIRST),
            (CLINIC, "is new", "connected", clinic, FIRST),
            (CLINIC, "drops at once", "disconnected", clinic, FIRST),
            (BAKERY, "drops", "connected", FIRST, SECOND),
        ]
    )


def test_observations_begin_with_the_first_run_since(story: Story) -> None:
    rows = [
        (r["business_id"], utc(r["observed_at"]), r["previous_observed_at"] and utc(r["previous_observed_at"]))
        for r in story.tables[-1]["observations"]
    ]
    businesses = (BAKERY, CLINIC)
    assert sorted(rows, key=str) == sorted(
        [*((b, FIRST, None) for b in businesses), *((b, SECOND, FIRST) for b in businesses)], key=str
    )


@pytest.mark.parametrize("stream", ["webhooks", "webhook_events"])
def test_what_did_not_change_is_not_emitted_again(story: Story, stream: str) -> None:
    first, second = ({row["webhook_id"] for row in run.records(stream)} for run in story.runs)
    assert first == {
        "webhook-stays-gone before 2.0.0",
        "webhook-moves-gone in the move",
        "webhook-returns-kept",
        "webhook-is new-kept",
    }
    assert second == {"webhook-drops-gone while away"}


def test_the_sql_helps_after_the_first_load_too(place: Warehouse, plugins: None) -> None:
    del plugins  # only has to be there
    place.query("drop table if exists connection_changes")
    recorded = RECORDED.read_text(encoding="utf-8")
    place.load(recorded)
    moving = world()
    between_the_runs_of_1_0_0(moving)
    before_2_0_0(moving)
    with CodeChat(moving) as server:
        run = sync(moving.settings(server.url), state=json.loads(recorded.splitlines()[-1])["value"])
    place.load(run.stdout)
    place.query(sql_of_the_page("Too late?"))
    place.query(sql_of_the_page(NAMES[place.loader]).replace("codechat", place.schema))
    rows = place.query("select * from connection_changes")
    before = [
        m["record"]
        for m in map(json.loads, recorded.splitlines())
        if m.get("stream") == "connection_changes" and m["type"] == "RECORD"
    ]
    told = [(r["instance_id"], r["change_type"]) for r in rows]
    assert sorted(told) == sorted(
        [(r["instance_id"], r["change"]) for r in before]
        + [(r["instance_id"], r["change_type"]) for r in run.records("connection_changes")]
    )
    assert all("change" not in row for row in rows)
