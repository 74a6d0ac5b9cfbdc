"""FULL_TABLE by choice, as one writes it in `meltano.yml`, through a real Meltano with its state."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from demo.project import Project
from tests.kit.support import TOKEN

if TYPE_CHECKING:
    from pathlib import Path

    from demo.codechat import CodeChat

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("plugins")]
# A loader that keeps what it gets, and gives Meltano the state back.
RECORDER = """#!{python}
import json, sys
with open({path!r}, "a", encoding="utf-8") as file:
    for line in sys.stdin:
        file.write(line)
        message = json.loads(line)
        if message["type"] == "STATE":
            print(json.dumps(message["value"]), flush=True)
"""


def make_project(folder: Path, settings: dict[str, str], metadata: dict[str, Any]) -> Project:
    """Make a project whose `meltano.yml` has this `metadata`, and the recorder as a loader."""
    project = Project(folder, settings)
    recorder = folder / "recorder"
    recorder.write_text(RECORDER.format(python=sys.executable, path=str(folder / "messages.jsonl")), encoding="utf-8")
    recorder.chmod(0o755)
    path = folder / "meltano.yml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["plugins"]["extractors"][0]["metadata"] = metadata
    content["plugins"]["loaders"] = [{"name": "recorder", "namespace": "recorder", "executable": str(recorder)}]
    content["environments"] = [{"name": content["default_environment"]}]
    for unused in ("jobs", "schedules"):
        content.pop(unused)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return project


def test_the_metadata_extra_of_meltano_makes_streams_full_table(codechat: CodeChat, tmp_path: Path) -> None:
    [business] = codechat.world.businesses.values()
    full = {"replication-method": "FULL_TABLE"}
    project = make_project(
        tmp_path / "project",
        {
            "TAP_INSTANCES_API_URL": codechat.url,
            "TAP_INSTANCES_BUSINESS_ID": business.id,
            "TAP_INSTANCES_AUTH_TOKEN": TOKEN,
            "TAP_INSTANCES_EMIT_ACTIVATE_VERSION_MESSAGES": "true",
        },
        {"webhooks": full, "connection_changes": full},
    )
    counts, activated, said = [], [], ""
    for _ in range(2):
        done = project.meltano("run", "tap-instances", "recorder")
        assert done.returncode == 0, done.stdout
        said = done.stdout
        recorded = project.folder / "messages.jsonl"
        messages = [json.loads(line) for line in recorded.read_text(encoding="utf-8").split("\n") if line]
        recorded.unlink()
        streams = [message["stream"] for message in messages if message["type"] == "RECORD"]
        counts.append(
            {stream: streams.count(stream) for stream in ("webhooks", "webhook_events", "connection_changes")}
        )
        activated.append({message["stream"] for message in messages if message["type"] == "ACTIVATE_VERSION"})
    assert counts == [
        {"webhooks": 3, "webhook_events": 3, "connection_changes": 2},
        {"webhooks": 3, "webhook_events": 0, "connection_changes": 0},
    ]
    assert activated == [{"businesses", "instances", "webhooks"}] * 2
    assert "connection_changes is always INCREMENTAL" in said
