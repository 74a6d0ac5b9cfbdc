"""examples/parallel: several businesses at the same time in one Meltano project, each with a state of its own."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from demo.codechat import CodeChat, World
from demo.project import ROOT, Project, find_meltano
from tests.e2e import warehouse
from tests.kit.walk import bash, commands

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
        shutil.copy(SCRIPT, tmp_path)
        script = commands("docs/many-businesses.md", "sync-business.sh")
        install, *steps = script.splitlines(keepends=True)
        assert install.startswith("meltano install")  # done by the fixture
        done = bash("".join(steps), tmp_path, path=(find_meltano().parent,), environment=project.environment)
        assert done.returncode == 0, done.stdout
        states = project.meltano("state", "list").stdout
    tables = place.tables()
    bodies = [business.answer() for business in world.businesses.values()]
    instances = [item for body in bodies for item in body["Instances"]]
    assert len(server.requests) == len(bodies) == 3
    assert {row["instance_id"] for row in tables["instances"]} == {item["instanceId"] for item in instances}
    assert len(tables["webhooks"]) == sum(len(item["Webhook"]) for item in instances)
    assert all(f"tap-instances-to-target-postgres:{business_id}" in states for business_id in world.businesses)
