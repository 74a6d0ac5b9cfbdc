"""Use an installed tap from outside of this folder: `python -m tools.try_installed /where/is/tap-instances`.

It discovers, selects everything, and reads a made-up CodeChat. Beside it, the source for Airbyte discovers too.
Nothing but the standard library is needed here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from demo.codechat import CodeChat, World


def main() -> None:
    """Try the tap; an exception is a failure."""
    command = Path(sys.argv[1]).absolute()
    source = command.with_name("source-codechat-instances")
    world = World.seeded(7)
    with tempfile.TemporaryDirectory() as name, CodeChat(world) as server:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(world.settings(server.url)), encoding="utf-8")

        def run(*command: str | Path) -> str:
            done = subprocess.run(  # noqa: S603 (no shell, and our own words)
                [*command, "--config", "config.json"], cwd=folder, check=True, capture_output=True, text=True
            )
            return done.stdout

        catalog = run(command, "--discover")
        (folder / "catalog.json").write_text(catalog, encoding="utf-8")
        messages = [json.loads(line) for line in run(command, "--catalog", "catalog.json").splitlines()]
        discovered = json.loads(run(source, "discover"))["catalog"]["streams"]
    streams = {entry["tap_stream_id"] for entry in json.loads(catalog)["streams"]}
    rows = Counter(message["stream"] for message in messages if message["type"] == "RECORD")
    connected = [instance for business in world.businesses.values() for instance in business.connected]
    webhooks = [webhook for instance in connected for webhook in instance["Webhook"]]
    expected = {"businesses": len(world.businesses), "instances": len(connected), "webhooks": len(webhooks)}
    if messages[-1]["type"] != "STATE" or not rows.keys() <= streams or expected.items() - rows.items():
        raise SystemExit(f"unexpected: {dict(rows)} of {sorted(streams)}")
    if {stream["name"] for stream in discovered} != streams:
        raise SystemExit(f"unexpected streams for Airbyte: {discovered}")
    counts = ", ".join(f"{count} {stream}" for stream, count in rows.items())
    print(f"Python {sys.version.split()[0]}: {len(streams)} streams discovered, rows: {counts}")


if __name__ == "__main__":
    main()
