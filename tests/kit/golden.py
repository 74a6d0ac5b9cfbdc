"""What is compared to files of ``tests/data``; ``python -m tests.kit.golden`` writes them anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from demo.codechat import CodeChat, World
from tests.kit.checked import checked, settings
from tests.kit.support import CONNECTED, TOKEN, discover, sync

if TYPE_CHECKING:
    from tests.kit.support import Run

DATA: Final = Path(__file__).parent.parent / "data"
NOW: Final = "2025-06-30T12:00:00Z"


def messages(run: Run) -> str:
    """Return a run's messages, a line each, as had the answer come at ``NOW``; what a state remembers is left out."""
    for message in run.of("STATE"):
        for bookmark in message["value"]["bookmarks"].values():
            for partition in bookmark["partitions"]:
                if "seen" in partition:
                    partition["seen"] = type(partition["seen"]).__name__
    lines = [json.dumps(message, ensure_ascii=False) for message in run.messages]
    observed_at = run.records("businesses")[0]["observed_at"]
    return "".join(f"{line}\n" for line in lines).replace(observed_at, NOW)


def snapshots() -> dict[str, str]:
    """Return file name -> what it must hold."""
    with CodeChat(World.from_body(json.loads(CONNECTED.read_text(encoding="utf-8")), TOKEN)) as server:
        run = checked(sync(settings(server)))
    return {
        "messages.jsonl": messages(run),
        "catalog.json": pretty(discover()),
    }


def pretty(value: Any) -> str:  # noqa: ANN401
    """Write JSON for people."""
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


if __name__ == "__main__":
    for name, text in snapshots().items():
        (DATA / name).write_text(text, encoding="utf-8")
