"""Many businesses on one machine, a run for each, and their deletions: a schema for each business, never one table.

Two businesses are synced twice by examples/parallel/sync-business.sh, both at the same time, with ACTIVATE_VERSION.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from demo.codechat import CodeChat, World
from demo.project import ROOT, Project, find_meltano
from tests.e2e import warehouse
from tests.e2e.test_pipeline import utc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from demo.codechat import Business
    from tests.e2e.warehouse import Row, Warehouse

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("plugins")]

SCRIPT = ROOT / "examples" / "parallel" / "sync-business.sh"
LOADER = ROOT / ".meltano" / "loaders" / "target-postgres" / "venv" / "bin" / "target-postgres"
LONGEST = 300  # seconds
ACTIVATE = {"TAP_INSTANCES_EMIT_ACTIVATE_VERSION_MESSAGES": "true"}


@dataclass(frozen=True)
class Synced:
    """A business, what it listed at each of its two syncs, and the tables of its schema after each."""

    business: Business
    listed: tuple[set[str], set[str]]
    tables: tuple[dict[str, list[Row]], dict[str, list[Row]]]


@pytest.fixture
def places(postgres_url: str) -> Iterator[list[Warehouse]]:
    """Give two schemas."""
    made = [warehouse.postgres_at(postgres_url) for _ in range(2)]
    yield made
    for place in made:
        warehouse.drop(postgres_url, place.schema)


def two_businesses() -> World:
    """Make two businesses with instances."""
    world = World.seeded(7, businesses=3)
    world.businesses.popitem()  # it has no instance
    return world


def listed(business: Business) -> set[str]:
    """Give the instances that are connected now."""
    return {item["instanceId"] for item in business.connected}


@pytest.fixture
def synced(places: list[Warehouse], tmp_path: Path) -> list[Synced]:
    """Sync both at the same time, let an hour pass, sync both again."""
    world = two_businesses()
    businesses = list(world.businesses.values())
    rounds: list[list[Any]] = []
    with CodeChat(world) as server:
        project = Project(tmp_path, {"TAP_INSTANCES_API_URL": server.url, **ACTIVATE})
        (tmp_path / "tokens").mkdir()
        for business in businesses:
            (tmp_path / "tokens" / business.id).write_text(f"{business.token}\n", encoding="utf-8")
        assert project.meltano("state", "list").returncode == 0  # makes the state database
        for _ in range(2):
            together(project, dict(zip([business.id for business in businesses], places, strict=True)))
            rounds.append([(listed(b), place.tables()) for b, place in zip(businesses, places, strict=True)])
            world.step()
    return [
        Synced(business, (first[0], second[0]), (first[1], second[1]))
        for business, first, second in zip(businesses, *rounds, strict=True)
    ]


def together(project: Project, places: dict[str, Warehouse]) -> None:
    """Run the script for each business at the same time, and wait for all."""
    path = f"{find_meltano().parent}{os.pathsep}{os.environ['PATH']}"
    runs = [
        subprocess.Popen(  # noqa: S603 - our own script
            [str(SCRIPT), business_id],
            cwd=project.folder,
            env=project.environment | {"PATH": path} | place.settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for business_id, place in places.items()
    ]
    try:
        for run in runs:
            said, _ = run.communicate(timeout=LONGEST)
            assert run.returncode == 0, said
    finally:
        for run in runs:
            run.kill()  # nothing, where it has ended


def test_runs_side_by_side_delete_in_their_own_schema_only(synced: list[Synced]) -> None:
    assert len(synced) == 2
    for one in synced:
        (before, now), (first, second) = one.listed, one.tables
        assert before - now, "a phone has dropped"
        assert now - before, "another one has come back"
        assert ids(first["instances"], deleted=False) == before
        assert ids(second["instances"], deleted=False) == now
        assert ids(second["instances"], deleted=True) == before - now
        assert {row["business_id"] for row in second["instances"]} == {one.business.id}
        changes = {(row["instance_id"], row["change_type"]) for row in second["connection_changes"]}
        assert {(dropped, "disconnected") for dropped in before - now} < changes, "the state was its own, and kept"
        assert len(second["connection_changes"]) == len(before) + len(before ^ now)


def ids(rows: list[Row], *, deleted: bool) -> set[str]:
    """Give the instances that are, or are not, marked as deleted."""
    return {row["instance_id"] for row in rows if bool(row["_sdc_deleted_at"]) is deleted}


def test_a_run_that_activates_takes_the_other_businesses_rows_of_its_table(places: list[Warehouse]) -> None:
    place, world = places[0], two_businesses()
    first, second = world.businesses.values()
    with CodeChat(world) as server:
        for business in (first, second):
            pipe(server, business, place)
    tables = place.tables()
    assert ids(tables["instances"], deleted=True) == listed(first)
    # Who is connected now is right all the same: it needs no deletions.
    seen = {row["business_id"]: utc(row["observed_at"]) for row in tables["businesses"]}
    now = {r["instance_id"] for r in tables["instances"] if utc(r["observed_at"]) == seen[r["business_id"]]}
    assert now == listed(first) | listed(second)


def pipe(server: CodeChat, business: Business, place: Warehouse) -> None:
    """Run `tap-instances | target-postgres` for one business, without Meltano."""
    settings = {
        "TAP_INSTANCES_API_URL": server.url,
        "TAP_INSTANCES_BUSINESS_ID": business.id,
        "TAP_INSTANCES_AUTH_TOKEN": business.token,
    }
    read = subprocess.run(
        [sys.executable, "-m", "tap_instances", "--config=ENV"],
        cwd=ROOT,
        env=os.environ | settings | ACTIVATE,
        capture_output=True,
        timeout=LONGEST,
        check=False,
    )
    assert read.returncode == 0, read.stderr
    load = subprocess.run(  # noqa: S603 - the loader that is tested
        [str(LOADER), "--config=ENV"],
        env=os.environ | place.settings | {"PGTZ": "UTC"},
        input=read.stdout,
        capture_output=True,
        timeout=LONGEST,
        check=False,
    )
    assert load.returncode == 0, load.stderr
