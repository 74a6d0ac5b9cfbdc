"""DuckDB: every row of every batch arrives.

Its loader loses the first row of each batch, silently, with duckdb 1.3 and later, which meltano.yml therefore refuses.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from demo.codechat import FLAGS, CodeChat, World
from demo.project import Project
from tests.e2e import warehouse
from tests.e2e.test_pipeline import by, snake, utc

if TYPE_CHECKING:
    from demo.codechat import Business
    from tests.e2e.warehouse import Row

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("plugins")]

INSTANCES, BATCH = 1200, 500
Tables = dict[str, "list[Row]"]


@pytest.fixture(scope="module")
def loaded(plugins: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Business, Tables, Tables]:
    """Load in batches that are smaller than the tables, twice: each webhook is another one the second time."""
    del plugins  # only has to be there
    place = warehouse.duckdb_in(tmp_path_factory.mktemp("duckdb"))
    world = World.seeded(11, businesses=1, instances=INSTANCES)
    [business] = world.businesses.values()
    business.away.clear()
    tables: list[Tables] = []
    with CodeChat(world) as server:
        project = Project(
            tmp_path_factory.mktemp("project"),
            {
                "TAP_INSTANCES_API_URL": server.url,
                "TAP_INSTANCES_BUSINESSES": json.dumps(world.settings(server.url)["businesses"]),
                "TARGET_DUCKDB_BATCH_SIZE_ROWS": str(BATCH),
                **place.settings,
            },
        )
        for suffix in ("", " (2)"):
            for hook in (hook for item in business.instances for hook in item["Webhook"]):
                hook["name"] += suffix
            done = project.meltano("run", "tap-instances", place.loader)
            assert done.returncode == 0, done.stdout
            tables.append(place.tables())
    first, second = tables
    return business, first, second


def test_there_are_several_batches(loaded: tuple[Business, Tables, Tables]) -> None:
    _, first, _ = loaded
    for table in ("instances", "webhooks", "webhook_events", "connection_changes"):
        assert len(first[table]) > 2 * BATCH


def test_rows_loaded_are_rows_sent(loaded: tuple[Business, Tables, Tables]) -> None:
    business, *runs = loaded
    ids = [item["instanceId"] for item in business.instances]
    hooks = [hook["webhookId"] for item in business.instances for hook in item["Webhook"]]
    for tables in runs:
        assert sorted(row["instance_id"] for row in tables["instances"]) == sorted(ids)
        assert sorted(row["instance_id"] for row in tables["connection_changes"]) == sorted(ids)
        for table in ("webhooks", "webhook_events"):
            assert sorted(row["webhook_id"] for row in tables[table]) == sorted(hooks)


def test_every_changed_row_of_every_batch_is_replaced(loaded: tuple[Business, Tables, Tables]) -> None:
    business, before, after = loaded
    names = {hook["webhookId"]: hook["name"] for item in business.instances for hook in item["Webhook"]}
    assert {row["webhook_id"]: row["name"] for row in after["webhooks"]} == names
    assert all(f"{row['name']} (2)" == names[row["webhook_id"]] for row in before["webhooks"])


def test_values_are_those_of_the_body(loaded: tuple[Business, Tables, Tables]) -> None:
    business, _, tables = loaded
    instances, events = by("instance_id", tables["instances"]), by("webhook_id", tables["webhook_events"])
    for item in business.instances:
        row = instances[item["instanceId"]]
        assert (row["name"], row["whatsapp_push_name"]) == (item["name"], item["WhatsApp"]["pushName"])
        assert utc(row["created_at"]) == utc(item["createdAt"])
        for hook in item["Webhook"]:
            flags = [events[hook["webhookId"]][snake(flag)] for flag in FLAGS]
            assert flags == [hook["WebhookEvents"][flag] for flag in FLAGS]
