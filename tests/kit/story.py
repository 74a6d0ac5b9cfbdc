"""A week of two businesses, told to the tap in seven runs under its own clock, and what docs/queries.md must answer."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from unittest import mock

from demo.codechat import Business, CodeChat, World
from tests.kit.support import CONNECTED, sync
from tools.docs import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.kit.support import Run

Rows = list[tuple[Any, ...]]

BAKERY, CLINIC = "Padaria São João", "Clínica Boa Vista"
PHONES = {
    "atendimento": "5511987650001@s.whatsapp.net",
    "cobranca": "5511987650002@s.whatsapp.net",
    "vendas": "5511987650003@s.whatsapp.net",
    "recepcao": "5511987650004@s.whatsapp.net",
}
# When a run was, which numbers are away then. The webhook "velho" is deleted before the fourth.
RUNS: tuple[tuple[datetime, set[str]], ...] = (
    (datetime(2026, 3, 2, 8, 0, tzinfo=timezone.utc), set()),
    (datetime(2026, 3, 3, 8, 0, tzinfo=timezone.utc), {"cobranca"}),
    (datetime(2026, 3, 4, 8, 0, tzinfo=timezone.utc), set()),
    (datetime(2026, 3, 9, 22, 0, tzinfo=timezone.utc), {"vendas"}),
    (datetime(2026, 3, 10, 2, 0, tzinfo=timezone.utc), {"vendas", "cobranca"}),
    (datetime(2026, 3, 10, 6, 0, tzinfo=timezone.utc), {"vendas", "atendimento"}),
    (datetime(2026, 3, 10, 6, 30, tzinfo=timezone.utc), {"vendas", "atendimento"}),
)
DELETED_BEFORE = 3


def at(day: int, hour: int) -> datetime:
    """Give a time of that March as a column without a zone has it."""
    return datetime(2026, 3, day, hour)  # noqa: DTZ001


CHANGED = datetime(2026, 2, 1, 12)  # noqa: DTZ001
ANSWERS: dict[str, Rows] = {
    "Which numbers are connected now?": [
        (CLINIC, "recepcao", PHONES["recepcao"]),
        (BAKERY, "cobranca", PHONES["cobranca"]),
    ],
    "Which number dropped last night?": [
        (BAKERY, "vendas", PHONES["vendas"], at(4, 8), at(9, 22), False),
        (BAKERY, "cobranca", PHONES["cobranca"], at(9, 22), at(10, 2), True),
        (BAKERY, "atendimento", PHONES["atendimento"], at(10, 2), at(10, 6), False),
    ],
    "Which numbers have been down for more than an hour?": [
        (BAKERY, "vendas", PHONES["vendas"], at(4, 8), at(9, 22)),
    ],
    "How many changes a day?": [
        (BAKERY, date(2026, 3, 3), 0, 1),
        (BAKERY, date(2026, 3, 4), 1, 0),
        (BAKERY, date(2026, 3, 9), 0, 1),
        (BAKERY, date(2026, 3, 10), 1, 2),
    ],
    "What was each number's uptime this week?": [
        (BAKERY, "cobranca", PHONES["cobranca"], Decimal("83.3")),  # 140 of 168 hours
        (BAKERY, "vendas", PHONES["vendas"], Decimal("94.9")),  # 159.5
        (BAKERY, "atendimento", PHONES["atendimento"], Decimal("99.7")),  # 167.5
        (CLINIC, "recepcao", PHONES["recepcao"], Decimal("100.0")),
    ],
    "Which webhooks are switched off?": [
        (CLINIC, "recepcao", "bi", "https://bi.example.com/recepcao", CHANGED),
    ],
    "Who still gets new_jwt?": [
        (BAKERY, "cobranca", "erp", "https://erp.example.com/cobranca"),
    ],
    "Which webhooks are live?": [
        (CLINIC, "recepcao", "bi", "https://bi.example.com/recepcao", False),
        (CLINIC, "recepcao", "crm", "https://crm.example.com/recepcao", True),
        (BAKERY, "cobranca", "erp", "https://erp.example.com/cobranca", True),
    ],
}


def queries() -> dict[str, str]:
    """Return the queries of docs/queries.md: question -> SQL."""
    page = (ROOT / "docs" / "queries.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## (.+?)\n.*?^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL))


def tell() -> list[Run]:
    """Run the tap at each time of the story, each run with the state of the one before."""
    world = _world()
    runs: list[Run] = []
    with CodeChat(world) as server, mock.patch("tap_instances.client.datetime") as clock:
        for number, (moment, away) in enumerate(RUNS):
            clock.now.return_value = moment
            for business in world.businesses.values():
                business.away = {i["instanceId"] for i in business.instances if i["name"] in away}
                if number == DELETED_BEFORE:
                    for instance in business.instances:
                        instance["Webhook"] = [hook for hook in instance["Webhook"] if hook["name"] != "velho"]
            runs.append(sync(world.settings(server.url), state=runs[-1].state if runs else None))
    return runs


def plain(rows: Iterable[Iterable[Any]]) -> Rows:
    """Give an answer's rows with times in UTC as columns without a zone have them."""
    return [tuple(_naive(value) for value in row) for row in rows]


def _naive(value: object) -> object:
    if isinstance(value, datetime) and value.tzinfo:
        return value.astimezone(timezone.utc).replace(tzinfo=None)
    return value


def _world() -> World:
    body = json.loads(CONNECTED.read_text(encoding="utf-8"))
    template = body["Instances"][0]
    bakery, clinic = body["businessId"], "2b1f6c1e-52b0-4c58-b6a0-0d7d3f7b8a11"
    hooks = {
        "atendimento": [("crm", True, True)],
        "cobranca": [("erp", True, True), ("velho", True, True)],
        "vendas": [],
        "recepcao": [("bi", False, True), ("crm", True, False)],
    }
    made = {name: _instance(template, name, rows) for name, rows in hooks.items()}
    clinics = [made.pop("recepcao")]
    return World(
        [
            Business(
                bakery, "not-a-real-token-1", {"businessId": bakery, "name": BAKERY, "Instances": [*made.values()]}
            ),
            Business(clinic, "not-a-real-token-2", {"businessId": clinic, "name": CLINIC, "Instances": clinics}),
        ]
    )


def _instance(template: dict[str, Any], name: str, hooks: list[tuple[str, bool, bool]]) -> dict[str, Any]:
    """Give an instance with webhooks of (name, enabled, newJwt)."""
    instance = deepcopy(template)
    instance.update(instanceId=f"instance-{name}", name=name)
    instance["WhatsApp"]["remoteJid"] = PHONES[name]
    instance["Webhook"] = []
    for hook_name, enabled, new_jwt in hooks:
        hook = deepcopy(template["Webhook"][0])
        hook.update(webhookId=f"webhook-{name}-{hook_name}", name=hook_name, enabled=enabled)
        hook.update(url=f"https://{hook_name}.example.com/{name}", updatedAt="2026-02-01T12:00:00.000Z")
        hook.update(instanceInstanceId=instance["instanceId"])
        hook["WebhookEvents"]["newJwt"] = new_jwt
        instance["Webhook"].append(hook)
    return instance
