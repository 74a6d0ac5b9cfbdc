"""examples/parallel/sync-business.sh: several businesses at the same time in one Meltano project, each with its own state."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from demo.codechat import CodeChat, World
from demo.project import ROOT, Project, find_meltano
from tests.e2e import warehouse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.warehouse import Warehouse

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("plugins")]
SCRIPT = ROOT / "examples" / "parallel" / "sync-business.sh"


@pytest.fixture
def place(postgres_url: str) -> Iterator[Warehouse]:
    """Give an empty schema in PostgreSQL, which takes several loaders at a time."""
    loaded = warehouse.postgres_at(postgres_url)
    yield loaded
    warehouse.drop(postgres_url, loaded.schema)


def test_businesses_side_by_side_each_keep_their_own_state(place: Warehouse, tmp_path: Path) -> None:
    world = World.seeded(7, businesses=4)
    world.businesses.popitem()  # it has no instance
    with CodeChat(world) as server:
        project = Project(tmp_path, {"TAP_INSTANCES_API_URL": server.url, **place.settings})
        (tmp_path / "tokens").mkdir()
        for business in world.businesses.values():
            (tmp_path / "tokens" / business.id).write_text(business.token + "\n", encoding="utf-8")
        assert project.meltano("state", "list").returncode == 0  # makes the state database
        done = subprocess.run(  # noqa: S602 - as the script's head says
            f"{SCRIPT} "$(ls tokens | head -n 1)" && ls tokens | tail -n +2 | xargs -P 2 -n 1 {SCRIPT}",
            shell=True,
            cwd=tmp_path,
            env=project._environment | {"PATH": f"{find_meltano().parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        states = project.meltano("state", "list").stdout
    tables = place.tables()
    bodies = [business.answer() for business in world.businesses.values()]
    instances = [item for body in bodies for item in body["Instances"]]
    assert len(server.requests) == len(bodies) == 3
    assert {row["instance_id"] for row in tables["instances"]} == {item["instanceId"] for item in instances}
    assert len(tables["webhooks"]) == sum(len(item["Webhook"]) for item in instances)
    assert all(f"tap-instances-to-target-postgres:{business_id}" in states for business_id in world.businesses)
