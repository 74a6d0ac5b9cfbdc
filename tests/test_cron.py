"""examples/cron/sync.sh loses nothing: not when the target dies, not when the tap fails, not when cron is too quick."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from demo.codechat import CodeChat, World
from tools.docs import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCRIPT = ROOT / "examples" / "cron" / "sync.sh"
# Appends what it loads, prints a STATE when all before it is loaded. It dies at a line, in the middle of a STATE,
# if its settings say so.
TARGET = """
import json, sys
settings = json.load(open(sys.argv[2]))
with open(settings["table"], "a") as table:
    for number, line in enumerate(sys.stdin, 1):
        if number == settings.get("dies_at"):
            sys.exit(3)
        message = json.loads(line)
        if message["type"] == "RECORD":
            table.write(line)
        elif message["type"] == "STATE":
            text = json.dumps(message["value"])
            if settings.get("dies_in_state"):
                sys.stdout.write(text[: len(text) // 2])
                sys.exit(4)
            table.flush()
            print(text, flush=True)
"""

pytestmark = pytest.mark.skipif(not shutil.which("flock"), reason="sync.sh wants flock (util-linux)")


class Folder:
    """A folder as the page on warehouses says to make it, and what the target has loaded into it."""

    def __init__(self, path: Path, tap: dict[str, Any]) -> None:
        self.path, self.tap = path, tap
        self.write("tap.json", tap)
        commands = {"tap-instances": "-m tap_instances", "target-file": path / "target.py"}
        (path / "target.py").write_text(TARGET, encoding="utf-8")
        for name, arguments in commands.items():
            (path / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n', encoding="utf-8")
            (path / name).chmod(0o755)

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Write a file of settings."""
        (self.path / name).write_text(json.dumps(value), encoding="utf-8")

    def run(self, **target: Any) -> int:  # noqa: ANN401
        """Run the script with these settings of the target; return its exit code."""
        self.write("target.json", {"table": str(self.path / "table.jsonl"), **target})
        environment = os.environ | {"PATH": f"{self.path}:{os.environ['PATH']}", "TARGET": "target-file"}
        done = subprocess.run(  # noqa: S603
            [str(SCRIPT)],
            cwd=self.path,
            env=environment | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        return done.returncode

    def loaded(self, stream: str) -> int:
        """Count the rows of a stream that were loaded, in all runs."""
        table = self.path / "table.jsonl"
        lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
        return sum(json.loads(line)["stream"] == stream for line in lines)

    @property
    def state(self) -> Any:  # noqa: ANN401
        """The state that was kept, `None` without one."""
        file = self.path / "state.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """Give a folder whose tap reads two businesses of a CodeChat."""
    world = World.seeded(7, businesses=2)
    with CodeChat(world) as server:
        yield Folder(tmp_path, world.settings(server.url))


WEBHOOKS = 11  # of that world


def test_a_second_run_goes_on_where_the_first_ended(folder: Folder) -> None:
    assert folder.run() == 0
    assert folder.loaded("webhooks") == WEBHOOKS
    assert folder.run() == 0
    assert folder.loaded("webhooks") == WEBHOOKS
    assert folder.loaded("businesses") == 4


@pytest.mark.parametrize(("ends", "code"), [({"dies_at": 20}, 3), ({"dies_in_state": True}, 4)])
def test_a_target_that_dies_loses_nothing(folder: Folder, ends: dict[str, Any], code: int) -> None:
    assert folder.run(**ends) == code
    assert folder.state is None
    before = folder.loaded("webhooks")
    assert folder.run() == 0
    assert folder.loaded("webhooks") == before + WEBHOOKS


def test_a_target_that_dies_later_leaves_the_state_from_before(folder: Folder) -> None:
    assert folder.run() == 0
    kept = folder.state
    assert folder.run(dies_in_state=True) == 4
    assert folder.state == kept


def test_a_business_that_fails_keeps_what_the_others_loaded(folder: Folder) -> None:
    good = folder.tap["businesses"]
    folder.write("tap.json", {**folder.tap, "businesses": [good[0], {**good[1], "auth_token": "wrong"}]})
    assert folder.run() == 1
    assert [entry["context"]["business_id"] for entry in folder.state["bookmarks"]["webhooks"]["partitions"]] == [
        good[0]["business_id"]
    ]
    folder.write("tap.json", folder.tap)
    assert folder.run() == 0
    assert folder.loaded("webhooks") == WEBHOOKS


def test_two_runs_never_overlap(folder: Folder) -> None:
    with (folder.path / "state.json.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a run that is still at work
        assert folder.run() == 0
    assert folder.loaded("businesses") == 0


def test_nothing_but_the_state_is_left_behind(folder: Folder) -> None:
    before = {path.name for path in folder.path.iterdir()}
    assert folder.run() == 0
    assert {path.name for path in folder.path.iterdir()} - before == {
        "state.json", "state.json.lock", "table.jsonl", "target.json",
    }  # fmt: skip
