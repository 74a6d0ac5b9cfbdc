"""One story, told to each warehouse; the tests look at how it went.

A run of Meltano takes seconds, so the four runs are made once a warehouse:

1. `first`: the documented body;
2. `unchanged`: the same again;
3. `failed`: a phone has dropped, and the token is wrong;
4. `recovered`: the token is right again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest

from demo.codechat import FLAGS, CodeChat, World
from demo.project import Project
from tests.kit.support import CONNECTED, COUNTS, TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.e2e.warehouse import Row, Warehouse

pytestmark = pytest.mark.e2e

Tables = dict[str, list["Row"]]
BODY: dict[str, Any] = json.loads(CONNECTED.read_text(encoding="utf-8"))
WEBHOOKS = [webhook for item in BODY["Instances"] for webhook in item["Webhook"]]
DROPPED = BODY["Instances"][1]["instanceId"]


@dataclass(frozen=True)
class Run:
    """How a run of the pipeline ended, and what the tables held after it."""

    code: int
    said: str
    requests: int
    tables: Tables


@dataclass(frozen=True)
class Story:
    """The four runs."""

    place: Warehouse
    first: Run
    unchanged: Run
    failed: Run
    recovered: Run


@pytest.fixture(scope="module")
def story(place: Warehouse, plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Make the four runs."""
    del plugins  # only has to be there
    world = World.from_body(BODY, TOKEN)
    business = world.businesses[BODY["businessId"]]
    with CodeChat(world) as server:
        project = Project(
            tmp_path_factory.mktemp("project"),
            {
                "TAP_INSTANCES_API_URL": server.url,
                "TAP_INSTANCES_BUSINESS_ID": business.id,
                **place.settings,
            },
        )

        def run(token: str) -> Run:
            before = len(server.requests)
            done = project.meltano("run", "tap-instances", place.loader, TAP_INSTANCES_AUTH_TOKEN=token)
            asked = len(server.requests) - before
            assert asked, done.stdout
            return Run(done.returncode, done.stdout, asked, place.tables())

        first, unchanged = run(TOKEN), run(TOKEN)
        business.away.add(DROPPED)
        return Story(place, first, unchanged, failed=run("wrong-" + TOKEN), recovered=run(TOKEN))


def test_rows_loaded_are_rows_sent(story: Story) -> None:
    assert story.first.code == 0, story.first.said
    assert {name: len(rows) for name, rows in story.first.tables.items()} == COUNTS


def test_one_request_a_run(story: Story) -> None:
    runs = (story.first, story.unchanged, story.recovered)
    assert [run.requests for run in runs] == [1, 1, 1]


def test_instances_hold_what_the_body_says(story: Story) -> None:
    rows = by("instance_id", story.first.tables["instances"])
    for item in BODY["Instances"]:
        row = rows[item["instanceId"]]
        auth, whatsapp = item["Auth"], item["WhatsApp"]
        assert row["business_id"] == BODY["businessId"]
        assert (row["name"], row["state"], row["connection"]) == (
            item["name"],
            item["state"],
            item["connection"],
        )
        assert utc(row["created_at"]) == utc(item["createdAt"])
        assert row["deleted_at"] is None
        assert row["auth_id"] == auth["authId"]
        assert utc(row["auth_created_at"]) == utc(auth["createdAt"])
        assert utc(row["auth_updated_at"]) == utc(auth["updatedAt"])
        assert row["whatsapp_id"] == whatsapp["whatsappId"]
        assert row["whatsapp_remote_jid"] == whatsapp["remoteJid"]
        assert row["whatsapp_picture_url"] == whatsapp["pictureUrl"]
        assert row["whatsapp_push_name"] == whatsapp["pushName"]
        assert utc(row["whatsapp_created_at"]) == utc(whatsapp["createdAt"])
        assert "auth_jwt" not in row


def test_webhooks_hold_what_the_body_says(story: Story) -> None:
    rows = by("webhook_id", story.first.tables["webhooks"])
    for webhook in WEBHOOKS:
        row = rows[webhook["webhookId"]]
        assert row["instance_id"] == webhook["instanceInstanceId"]
        assert row["name"] == webhook["name"]
        assert row["url"] == webhook["url"]
        assert row["enabled"] is webhook["enabled"]
        assert utc(row["created_at"]) == utc(webhook["createdAt"])
        assert utc(row["updated_at"]) == utc(webhook["updatedAt"])
        assert row["deleted_at"] is None


def test_webhook_events_hold_what_the_body_says(story: Story) -> None:
    rows = by("webhook_id", story.first.tables["webhook_events"])
    for webhook in WEBHOOKS:
        row, events = rows[webhook["webhookId"]], webhook["WebhookEvents"]
        assert row["webhook_events_id"] == events["webhookEventsId"]
        assert [row[snake(flag)] for flag in FLAGS] == [events[flag] for flag in FLAGS]
        assert utc(row["created_at"]) == utc(events["createdAt"])
        assert utc(row["updated_at"]) == utc(events["updatedAt"])


def test_columns_have_the_types_of_their_values(story: Story) -> None:
    types = story.place.types()
    for (table, column), kind in types.items():
        if table not in COUNTS or column.startswith("_sdc"):
            continue
        if column.endswith("_at"):
            assert kind.startswith("timestamp"), (table, column, kind)
        elif column == "enabled" or column in map(snake, FLAGS):
            assert kind == "boolean", (table, column, kind)
        elif (table, column) in {("observations", "instances"), ("observations", "webhooks")}:
            assert kind in {"bigint", "hugeint"}, (table, column, kind)
        elif column == "additional_properties":
            assert kind in {"json", "jsonb"}, (table, column, kind)
        else:
            assert kind in {"varchar", "character varying", "text"}, (table, column)
    assert {table for table, _ in types} >= set(COUNTS)


def test_the_four_tables_join(story: Story) -> None:
    live = story.place.query(
        """
        select b.name as business, i.name as instance, w.name as webhook, e.new_jwt
        from webhook_events e
        join webhooks w using (webhook_id)
        join instances i on i.instance_id = w.instance_id
        join businesses b using (business_id)
        where w.deleted_at is null
        order by 2, 3
        """
    )
    assert [tuple(row.values()) for row in live] == [
        ("Padaria São João", "atendimento", "alerts", False),
        ("Padaria São João", "atendimento", "crm", True),
        ("Padaria São João", "cobranca", "erp", True),
    ]


def test_a_run_without_a_change_adds_no_rows(story: Story) -> None:
    assert story.unchanged.code == 0, story.unchanged.said
    for table in ("webhooks", "webhook_events", "connection_changes"):
        assert bare(story.unchanged.tables[table]) == bare(story.first.tables[table])
    assert len(story.unchanged.tables["instances"]) == COUNTS["instances"]
    assert len(story.unchanged.tables["businesses"]) == COUNTS["businesses"]


def test_each_run_says_what_is_connected_now(story: Story) -> None:
    assert connected_now(story.first.tables) == {i["instanceId"] for i in BODY["Instances"]}
    assert connected_now(story.unchanged.tables) == connected_now(story.first.tables)
    assert observed(story.unchanged.tables) > observed(story.first.tables)
    assert connected_now(story.recovered.tables) == {BODY["Instances"][0]["instanceId"]}


def test_a_failed_run_says_so_and_keeps_the_tables(story: Story) -> None:
    assert story.failed.code != 0
    assert "401" in story.failed.said
    for table, rows in story.unchanged.tables.items():
        assert bare(story.failed.tables[table]) == bare(rows)


def test_the_next_run_recovers_with_the_state_from_before_the_failure(
    story: Story,
) -> None:
    assert story.recovered.code == 0, story.recovered.said
    [dropped] = [row for row in story.recovered.tables["connection_changes"] if row["change_type"] == "disconnected"]
    assert dropped["instance_id"] == DROPPED
    assert utc(dropped["previous_observed_at"]) == observed(story.unchanged.tables)
    assert utc(dropped["observed_at"]) == observed(story.recovered.tables)
    assert len(story.recovered.tables["connection_changes"]) == len(
        story.first.tables["connection_changes"] + [dropped]
    )


def test_no_token_and_no_jwt_in_what_meltano_says(story: Story) -> None:
    for run in (story.first, story.unchanged, story.failed, story.recovered):
        assert TOKEN not in run.said
        assert "not-a-real-signature" not in run.said


def by(column: str, rows: Iterable[Row]) -> dict[str, Row]:
    """Index rows by a column of theirs."""
    return {row[column]: row for row in rows}


def bare(rows: Iterable[Row]) -> list[str]:
    """Give rows in an order of their own, without what the loader adds."""
    return sorted(repr({name: value for name, value in row.items() if name[:4] != "_sdc"}) for row in rows)


def utc(value: datetime | str) -> datetime:
    """Read a time: of the API, or of a column without a zone, which is UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value.replace("Z", "+00:00"))
    return value if value.tzinfo else value.replace(tzinfo=timezone.utc)


def observed(tables: Tables) -> datetime:
    """Give when the only business was observed."""
    [business] = tables["businesses"]
    return utc(business["observed_at"])


def connected_now(tables: Tables) -> set[str]:
    """Give the instances whose observed_at is their business's."""
    return {row["instance_id"] for row in tables["instances"] if utc(row["observed_at"]) == observed(tables)}


def snake(name: str) -> str:
    """Turn messagesUpsert into messages_upsert."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
