"""Deletions that a single look cannot see, in real tables: one world of five runs, an instance or two for each case."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from demo.codechat import Business, CodeChat, World
from tests.e2e.test_pipeline import by, utc
from tests.kit.story import new_instance
from tests.kit.support import sync

if TYPE_CHECKING:
    from tests.e2e.warehouse import Row, Warehouse

pytestmark = pytest.mark.e2e
RUNS = 5
FIRST = datetime(2026, 3, 10, 8, tzinfo=timezone.utc)
TABLES = ("webhooks", "webhook_events")
INSTANCES = {
    "away": ["kept", "gone"],
    "away twice": ["kept", "gone"],
    "moves": ["kept", "gone"],
    "moves while away": ["kept", "gone"],
    "fails": ["kept", "gone"],
    "one of two": ["shared"],
    "other of two": [],
    "gives": ["given"],
    "takes": [],
    "edited": ["kept"],
    "unknown": ["kept"],
}


def at(run: int) -> datetime:
    """Give when a run is, the first being 1."""
    return FIRST + timedelta(hours=run - 1)


class Moving:
    """Two businesses, a and b, and what is done to them before each run."""

    def __init__(self) -> None:
        """Put all instances into a; the shared webhook is listed by two of them."""
        items = [new_instance(name, [(hook, True, False) for hook in hooks]) for name, hooks in INSTANCES.items()]
        self.a = Business("a", "not-a-real-token-a", {"businessId": "a", "name": "A", "Instances": items})
        self.b = Business("b", "not-a-real-token-b", {"businessId": "b", "name": "B", "Instances": []})
        self.world = World([self.a, self.b])
        self.items = {item["instanceId"]: item for item in items}
        self.hooks("other of two").extend(self.hooks("one of two"))

    def hooks(self, instance_id: str) -> list[dict[str, Any]]:
        """Give the webhooks of an instance; the list itself."""
        hooks: list[dict[str, Any]] = self.items[instance_id]["Webhook"]
        return hooks

    def delete(self, instance_id: str) -> None:
        """Delete the last webhook of an instance."""
        self.hooks(instance_id).pop()

    def move(self, instance_id: str) -> None:
        """Move an instance from a to b."""
        self.a.instances.remove(self.items[instance_id])
        self.b.instances.append(self.items[instance_id])

    def before(self, run: int) -> None:
        """Change the world."""
        if run == 2:
            self.a.away = {"away", "away twice", "moves while away", "fails", "gives"}
            self.move("moves")
            self.delete("moves")
            self.hooks("edited")[0]["name"] = "edited"
        if run == 3:
            self.a.away = {"edited", "fails"}
            self.delete("away")
            self.move("moves while away")
            self.delete("moves while away")
            self.delete("one of two")
            self.hooks("takes").append(self.hooks("gives").pop())
            for hook in self.hooks("unknown"):
                del hook["WebhookEvents"]
        if run == 4:
            self.a.away = {"away twice"}
            self.delete("fails")
            self.hooks("edited")[0]["name"] = "kept"
        if run == 5:
            self.a.away = set()
            self.delete("away twice")

    def listed(self) -> set[str]:
        """Give the ids of the webhooks that the server lists."""
        items = [item for business in (self.a, self.b) for item in business.connected]
        return {hook["webhookId"] for item in items for hook in item["Webhook"]}


@dataclass(frozen=True)
class Story:
    """The tables after each run, and which webhooks the server listed then."""

    tables: list[dict[str, list[Row]]]
    listed: list[set[str]]

    def row(self, table: str, webhook_id: str) -> Row:
        """Give a webhook's row after the last run."""
        return by("webhook_id", self.tables[-1][table])[webhook_id]


@pytest.fixture(scope="module")
def story(place: Warehouse, plugins: None) -> Story:
    """Load five runs. In the fourth, the token of business a has expired."""
    del plugins  # only has to be there
    moving, state = Moving(), None
    story = Story([], [])
    with CodeChat(moving.world) as server, mock.patch("tap_instances.responses.datetime") as clock:
        for number in range(1, RUNS + 1):
            moving.before(number)
            clock.now.return_value = at(number)
            settings = moving.world.settings(server.url)
            if number == 4:
                settings["businesses"][0]["auth_token"] = "expired-not-a-real-token"
            run = sync(settings, state=state)
            assert run.returncode == (1 if number == 4 else 0), run.stderr
            place.load(run.stdout)
            state = run.state
            story.tables.append(place.tables())
            story.listed.append(moving.listed())
    return story


@pytest.mark.parametrize("run", [1, 2, 3, 5])
def test_live_webhooks_of_connected_instances_are_those_that_the_server_lists(story: Story, run: int) -> None:
    tables = story.tables[run - 1]
    now = {row["business_id"]: row["observed_at"] for row in tables["businesses"]}
    connected = {r["instance_id"] for r in tables["instances"] if r["observed_at"] == now[r["business_id"]]}
    for table in TABLES:
        live = {r["webhook_id"] for r in tables[table] if r["deleted_at"] is None and r["instance_id"] in connected}
        assert live == story.listed[run - 1]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    ("case", "seen_in"),
    [
        pytest.param("away", 3, id="deleted while its instance is away"),
        pytest.param("away twice", 5, id="deleted in the second of two absences"),
        pytest.param("moves", 2, id="deleted in the moment of a move to another business"),
        pytest.param("moves while away", 3, id="deleted while away, and back in another business"),
        pytest.param("fails", 5, id="deleted while away and its business fails"),
    ],
)
def test_a_webhook_that_is_gone_gets_deleted_at(story: Story, table: str, case: str, seen_in: int) -> None:
    assert utc(story.row(table, f"webhook-{case}-gone")["deleted_at"]) == at(seen_in)
    assert story.row(table, f"webhook-{case}-kept")["deleted_at"] is None


@pytest.mark.parametrize("table", TABLES)
def test_of_a_webhook_id_in_two_instances_the_one_that_is_left_stays(story: Story, table: str) -> None:
    row = story.row(table, "webhook-one of two-shared")
    assert (row["instance_id"], row["deleted_at"]) == ("other of two", None)


@pytest.mark.parametrize("table", TABLES)
def test_a_webhook_that_moved_to_another_instance_is_not_deleted(story: Story, table: str) -> None:
    row = story.row(table, "webhook-gives-given")
    assert (row["instance_id"], row["deleted_at"]) == ("takes", None)


def test_an_edit_that_is_undone_while_its_instance_is_away_is_undone_in_the_table(story: Story) -> None:
    assert by("webhook_id", story.tables[1]["webhooks"])["webhook-edited-kept"]["name"] == "edited"
    assert story.row("webhooks", "webhook-edited-kept")["name"] == "kept"


def test_webhook_events_that_are_missing_in_an_answer_stay_as_they_were(story: Story) -> None:
    before = by("webhook_id", story.tables[0]["webhook_events"])["webhook-unknown-kept"]
    after = story.row("webhook_events", "webhook-unknown-kept")
    assert after["webhook_events_id"] == before["webhook_events_id"]
    assert after["deleted_at"] is None
