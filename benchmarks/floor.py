"""The floor: what the extraction itself costs in Python. requests and msgspec, bare RECORD lines, no SDK, no checks.

usage: python floor.py CONFIG.json (the tap's own settings; with many businesses, one after the other)
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import requests


def main() -> None:
    """Write what the tap is asked for, the shortest way."""
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    encode, out, session = msgspec.json.Encoder().encode, sys.stdout.buffer, requests.Session()
    for business in config.get("businesses") or [config]:
        answer = session.get(
            f"{config['api_url']}/api/v2/business/{business['business_id']}/instance/connected",
            headers={"Authorization": f"Bearer {business['auth_token']}"},
            timeout=300,
        )
        answer.raise_for_status()
        now = datetime.now(timezone.utc).isoformat()

        def record(stream: str, row: object, now: str = now) -> None:
            out.write(encode({"type": "RECORD", "stream": stream, "record": row, "time_extracted": now}) + b"\n")

        for instance in msgspec.json.decode(answer.content)["Instances"]:
            webhooks = instance.pop("Webhook", None) or ()
            record("instances", instance)
            for webhook in webhooks:
                events = webhook.pop("WebhookEvents", None)
                record("webhooks", webhook)
                record("webhook_events", events)


if __name__ == "__main__":
    main()
