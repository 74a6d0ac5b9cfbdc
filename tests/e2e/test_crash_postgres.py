"""Crashes with a real target-postgres: cut short by its input's end, and under Meltano by SIGKILL of the tap."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from demo.codechat import CodeChat, World
from demo.project import ROOT, Project
from tests.e2e import warehouse
from tests.kit.simulated_target import SimulatedTarget
from tests.kit.wire import Wire
from tests.test_crash_sweep import AFTER, BEFORE, Story

if TYPE_CHECKING:
    from collections.abc import Iterator

    from demo.codechat import Request
    from tests.e2e.warehouse import Warehouse

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("plugins")]
TARGET = ROOT / ".meltano/loaders/target-postgres/venv/bin/target-postgres"


@pytest.fixture
def place(postgres_url: str) -> Iterator[Warehouse]:
    """Give an empty schema."""
    loaded = warehouse.postgres_at(postgres_url)
    yield loaded
    warehouse.drop(postgres_url, loaded.schema)


def listed(answers: dict[str, list[dict[str, Any]]]) -> set[tuple[str, str]]:
    """Give (business, instance) of what is connected."""
    return {(business, item["instanceId"]) for business, items in answers.items() for item in items}


def check(place: Warehouse, answers: dict[str, list[dict[str, Any]]]) -> None:
    """Hold the tables against the world."""
    connected = place.query(
        "select business_id, i.instance_id from instances i join businesses b using (business_id)"
        " where i.observed_at = b.observed_at"
    )
    assert {(row["business_id"], row["instance_id"]) for row in connected} == listed(answers)
    marked = place.query("select business_id, instance_id from instances where _sdc_deleted_at is null")
    assert {(row["business_id"], row["instance_id"]) for row in marked} == listed(answers)
    owners = {item["instanceId"]: item["Webhook"] for items in answers.values() for item in items}
    for rows, events in (
        (place.query("select * from webhooks where deleted_at is null"), False),
        (place.query("select * from webhook_events where deleted_at is null"), True),
    ):
        listings: dict[str, set[str]] = {}  # an id that two instances list is a row of either
        for owner, hooks in owners.items():
            for hook in hooks:
                if hook["WebhookEvents"] or not events:
                    listings.setdefault(hook["webhookId"], set()).add(owner)
        told = {row["webhook_id"]: row["instance_id"] for row in rows if row["instance_id"] in owners}
        assert told.keys() == listings.keys()
        assert all(told[key] in owners_of_it for key, owners_of_it in listings.items())
    enabled = {row["webhook_id"]: row["enabled"] for row in place.query("select webhook_id, enabled from webhooks")}
    assert all(enabled[hook["webhookId"]] == hook["enabled"] for hooks in owners.values() for hook in hooks)
    changes = place.query("select * from connection_changes order by observed_at")
    last = {(row["business_id"], row["instance_id"]): row["change_type"] for row in changes}
    assert {key for key, change in last.items() if change == "connected"} == listed(answers)


# ------------------------------------------------------------------------------------- the input ends too early


class Loader(SimulatedTarget):
    """The real target-postgres, which keeps STATE as the simulated one does."""

    def __init__(self, place: Warehouse, folder: Path, *, hard_delete: bool) -> None:
        """Write its settings."""
        super().__init__(hard_delete=hard_delete)
        self.config = folder / "config.json"
        settings = {
            "sqlalchemy_url": place.settings["TARGET_POSTGRES_SQLALCHEMY_URL"],
            "default_target_schema": place.schema,
            "hard_delete": hard_delete,
        }
        self.config.write_text(json.dumps(settings), encoding="utf-8")

    def pipe(self, messages: list[dict[str, Any]]) -> None:
        """Load messages, and keep the STATE that the target gives back."""
        done = subprocess.run(  # noqa: S603 - installed by the fixture
            [TARGET, "--config", str(self.config)],
            input="".join(f"{json.dumps(message)}\n" for message in messages).encode(),
            capture_output=True,
            env={**os.environ, "PGTZ": "UTC"},
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        if lines := done.stdout.decode().splitlines():
            self.state = json.loads(lines[-1])


@pytest.mark.parametrize("hard_delete", [False, True], ids=["soft delete", "hard delete"])
def test_a_cut_run_is_made_good_by_the_next(
    monkeypatch: pytest.MonkeyPatch, place: Warehouse, tmp_path: Path, *, hard_delete: bool
) -> None:
    story = Story(Wire(monkeypatch), activate=True, hard_delete=hard_delete, full_table=())
    loader = Loader(place, tmp_path, hard_delete=hard_delete)
    for answers in (AFTER, BEFORE):
        loader.pipe(story.sync(loader, answers).messages)
        check(place, answers)  # of the second: two have vanished
    held = place.query("select instance_id, _sdc_deleted_at from instances order by 1")
    assert ("comes back" in {row["instance_id"] for row in held}) != hard_delete

    failed = story.sync(loader, {**BEFORE, "a": None})
    assert failed.returncode == 1
    loader.pipe(failed.messages)
    assert place.query("select instance_id, _sdc_deleted_at from instances order by 1") == held

    for turn, answers in enumerate((AFTER, BEFORE)):  # what had vanished lives again, then it vanishes again
        messages = story.sync(loader, answers).messages
        kinds = [message["type"] for message in messages]
        first = kinds.index("ACTIVATE_VERSION")
        points = (first, len(kinds) - 1) if hard_delete else (kinds.index("RECORD") + 3, first + 1)
        loader.pipe(messages[: points[turn]])
        loader.pipe(story.sync(loader, answers).messages)
        check(place, answers)


# ------------------------------------------------------------------------------------------------------- SIGKILL


def processes_of(mark: str) -> list[int]:
    """Find the tap's processes of one project, by a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes().split(b"\0")
            tap = any(part.endswith(b"/bin/tap-instances") for part in command[:2])
            if tap and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


# When the tap is killed: at which request, and how many seconds after it.
MOMENTS = {"before any answer": (0, 0.0), "while rows are written": (1, 0.0), "after the first business": (1, 1.0)}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the tap in /proc")
def test_a_tap_that_is_killed_leaves_tables_that_the_next_run_makes_right(place: Warehouse, tmp_path: Path) -> None:
    world = World.seeded(11, businesses=3, instances=600)
    businesses = list(world.businesses.values())
    mark = f"killed-{place.schema}"
    killed: list[str] = []
    plan: list[str] = []

    def respond(request: Request) -> bytes | None:
        if not plan or businesses[MOMENTS[plan[0]][0]].id not in request.path:
            return None
        time.sleep(MOMENTS[plan[0]][1])
        for process in processes_of(mark):
            os.kill(process, signal.SIGKILL)
            killed.append(plan[0])
        return b""

    def truth() -> dict[str, list[dict[str, Any]]]:
        return {business.id: deepcopy(business.connected) for business in businesses}

    with CodeChat(world, respond=respond) as server:
        settings = world.settings(server.url)
        project = Project(
            tmp_path / "project",
            {
                "TAP_INSTANCES_API_URL": server.url,
                "TAP_INSTANCES_BUSINESSES": json.dumps(settings["businesses"]),
                "TAP_INSTANCES_CONCURRENCY": "1",
                "TAP_INSTANCES_USER_AGENT": mark,
                "TAP_INSTANCES_EMIT_ACTIVATE_VERSION_MESSAGES": "true",
                **place.settings,
            },
        )

        def run() -> int:
            return project.meltano("run", "tap-instances", place.loader).returncode

        assert run() == 0
        check(place, truth())
        for moment in MOMENTS:
            world.step()
            observed = place.query("select observed_at from businesses")
            plan.append(moment)
            assert run() != 0
            assert killed == [moment]
            plan.clear()
            killed.clear()
            unchanged = place.query("select observed_at from businesses") == observed
            if moment == "before any answer":
                assert unchanged
                continue
            assert not unchanged or moment == "while rows are written"  # of these, none may have come through
            assert run() == 0
            check(place, truth())
