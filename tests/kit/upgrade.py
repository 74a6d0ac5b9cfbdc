"""A world that tap 1.0.0 has read twice, and that goes on under the tap as it is now.

``tests/data/messages_1_0_0.jsonl`` holds what 1.0.0 wrote in its two runs, its last STATE included. It was recorded
with that version of the tap in an environment of its own, which has nothing of this one:

    git archive --prefix=tap-1.0.0/ 815f288 | tar x -C /tmp
    python -m venv /tmp/tap-1.0.0/.venv && /tmp/tap-1.0.0/.venv/bin/pip install /tmp/tap-1.0.0
    python -m tests.kit.upgrade /tmp/tap-1.0.0/.venv/bin/tap-instances > tests/data/messages_1_0_0.jsonl
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from demo.codechat import Business, CodeChat, World
from tests.kit.story import new_instance
from tools.docs import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BAKERY: Final = "9531985d-5d9d-49f8-9818-e811892f902b"
CLINIC: Final = "2b1f6c1e-52b0-4c58-b6a0-0d7d3f7b8a11"
RECORDED: Final = ROOT / "tests" / "data" / "messages_1_0_0.jsonl"


def world() -> World:
    """Make the world as 1.0.0 first sees it."""
    bakery = {
        "stays": ["kept", "gone before 2.0.0", "gone under 1.0.0"],
        "drops": ["kept", "gone while away"],
        "returns": ["kept"],
        "moves": ["kept", "gone in the move"],
    }
    clinic = {"unchanged": ["kept"], "drops at once": ["kept"], "is new": ["kept"]}
    made = World([_business(BAKERY, "Padaria São João", bakery), _business(CLINIC, "Clínica Boa Vista", clinic)])
    made.businesses[CLINIC].away = {"is new"}
    return made


def _business(business_id: str, name: str, instances: dict[str, list[str]]) -> Business:
    items = [new_instance(instance, [(hook, True, False) for hook in hooks]) for instance, hooks in instances.items()]
    body = {"businessId": business_id, "name": name, "Instances": items}
    return Business(business_id, f"not-a-real-token-{business_id[:4]}", body)


def between_the_runs_of_1_0_0(world: World) -> None:
    """A webhook is deleted, a phone drops."""
    _delete(world, "stays", "gone under 1.0.0")
    world.businesses[BAKERY].away = {"returns"}


def before_2_0_0(world: World) -> None:
    """Phones drop, return, move and appear; webhooks are deleted, also in the moment of the move."""
    _delete(world, "stays", "gone before 2.0.0")
    world.businesses[BAKERY].away = {"drops"}
    world.businesses[CLINIC].away = {"drops at once"}
    instances = world.businesses[BAKERY].instances
    [moved] = [item for item in instances if item["instanceId"] == "moves"]
    instances.remove(moved)
    world.businesses[CLINIC].instances.append(moved)
    _delete(world, "moves", "gone in the move")


def after_2_0_0(world: World) -> None:
    """A phone that was connected under 1.0.0 returns, without one of its webhooks."""
    _delete(world, "drops", "gone while away")
    world.businesses[BAKERY].away = set()


def _delete(world: World, instance_id: str, name: str) -> None:
    for business in world.businesses.values():
        for item in business.instances:
            if item["instanceId"] == instance_id:
                item["Webhook"] = [hook for hook in item["Webhook"] if hook["name"] != name]


def sql_of_the_page(heading: str) -> str:
    """Return the SQL below a heading of docs/upgrading.md, such as a warehouse's name."""
    page = (ROOT / "docs" / "upgrading.md").read_text(encoding="utf-8")
    [sql] = re.findall(rf"^### {re.escape(heading)}\n(?:(?!^#).)*?```sql\n(.*?)```", page, re.MULTILINE | re.DOTALL)
    return str(sql)


def record(tap: Sequence[str]) -> str:
    """Return what a tap writes in two runs; it reads the clinic in the second only."""
    moving = world()
    steps: list[tuple[list[str], Callable[[World], None]]] = [
        ([BAKERY], between_the_runs_of_1_0_0),
        ([BAKERY, CLINIC], before_2_0_0),
    ]
    written: list[str] = []
    with CodeChat(moving) as server, tempfile.TemporaryDirectory() as folder:
        for businesses, step in steps:
            settings: dict[str, Any] = moving.settings(server.url)
            settings["businesses"] = [one for one in settings["businesses"] if one["business_id"] in businesses]
            inputs = {"config": settings}
            if written:
                [*_, last] = written[-1].splitlines()
                inputs["state"] = json.loads(last)["value"]
            options = []
            for name, value in inputs.items():
                path = Path(folder, f"{name}.json")
                path.write_text(json.dumps(value), encoding="utf-8")
                options += [f"--{name}", str(path)]
            done = subprocess.run([*tap, *options], stdout=subprocess.PIPE, check=True)  # noqa: S603
            written.append(done.stdout.decode())
            step(moving)
    return "".join(written)


if __name__ == "__main__":
    sys.stdout.write(record(sys.argv[1:]))
