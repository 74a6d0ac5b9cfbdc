"""A week of two businesses, told to the tap in nine runs under its own clock, and what docs/queries.md must answer."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from demo.codechat import Business, CodeChat, World
from tests.kit.support import CONNECTED, sync
from tools.docs import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.kit.support import Run

Rows = list[tuple[Any, ...]]

BAKERY, CLINIC = "Padaria São João", "Clínica Boa Vista"
PHONES = {
    "atendimento": "5511987650001@s.whatsapp.net",
    "cobranca": "5511987650002@s.whatsapp.net",
    "vendas": "5511987650003@s.whatsapp.net",
    "recepcao": "5511987650004@s.whatsapp.net",
    "agenda": "5511987650005@s.whatsapp.net",
}


def at(day: int, hour: int, minute: int = 0) -> datetime:
    """Give a time of that March as a column without a zone has it."""
    return datetime(2026, 3, day, hour, minute)  # noqa: DTZ001


@dataclass(frozen=True)
class Step:
    """A run: when it was, which numbers were away then, and what else was not as usual."""

    at: datetime
    away: frozenset[str]
    deletes: str | None = None  # the webhook that is deleted before it
    has_state: bool = True
    expired: str | None = None  # the business whose token has expired


STEPS: Final = (
    Step(at(2, 8), frozenset(), has_state=False),
    Step(at(3, 8), frozenset({"cobranca"})),
    Step(at(4, 8), frozenset()),
    Step(at(9, 22), frozenset({"vendas"}), deletes="velho"),
    Step(at(10, 1), frozenset({"vendas", "cobranca"})),
    Step(at(10, 4), frozenset({"vendas", "atendimento"})),
    Step(at(10, 6), frozenset({"vendas", "atendimento", "agenda"}), has_state=False),
    Step(at(10, 6, 30), frozenset({"vendas", "atendimento", "agenda"})),
    Step(at(10, 7), frozenset({"vendas", "atendimento", "agenda"}), expired=CLINIC),
)
# What the clock says when the questions are asked.
ASKED_AT: Final = at(10, 9, 45)

CHANGED = datetime(2026, 2, 1, 12)  # noqa: DTZ001
ANSWERS: dict[str, Rows] = {
    "Which numbers are connected now?": [
        (CLINIC, "recepcao", PHONES["recepcao"]),
        (BAKERY, "cobranca", PHONES["cobranca"]),
    ],
    "Which businesses were not read for hours?": [
        (CLINIC, at(10, 6, 30)),
    ],
    "Which number dropped last night?": [
        (BAKERY, "vendas", PHONES["vendas"], at(4, 8), at(9, 22), False),
        (BAKERY, "cobranca", PHONES["cobranca"], at(9, 22), at(10, 1), True),
        (BAKERY, "atendimento", PHONES["atendimento"], at(10, 1), at(10, 4), False),
    ],
    "Which numbers have been down for more than an hour?": [
        (BAKERY, "vendas", PHONES["vendas"], at(4, 8), at(9, 22)),
        (BAKERY, "atendimento", PHONES["atendimento"], at(10, 1), at(10, 4)),
    ],
    "How many changes a day?": [
        (BAKERY, date(2026, 3, 3), 0, 1),
        (BAKERY, date(2026, 3, 4), 1, 0),
        (BAKERY, date(2026, 3, 9), 0, 1),
        (BAKERY, date(2026, 3, 10), 1, 2),
    ],
    # Days lie between the first runs: of that time nothing is known.
    "What was each number's uptime this week?": [
        (BAKERY, "vendas", PHONES["vendas"], Decimal("0.0"), Decimal("9.0")),
        (BAKERY, "atendimento", PHONES["atendimento"], Decimal("66.7"), Decimal("9.0")),
        (BAKERY, "cobranca", PHONES["cobranca"], Decimal("66.7"), Decimal("9.0")),
        (CLINIC, "agenda", PHONES["agenda"], Decimal("94.1"), Decimal("8.5")),
        (CLINIC, "recepcao", PHONES["recepcao"], Decimal("100.0"), Decimal("8.5")),
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


def asked(question: str) -> str:
    """Return a question's SQL as if it was asked at :data:`ASKED_AT`."""
    return queries()[question].replace("current_timestamp", f"timestamp '{ASKED_AT}'")


def session(warehouse: str) -> str:
    """Return the statements that docs/queries.md wants in a warehouse's session before its queries."""
    page = (ROOT / "docs" / "queries.md").read_text(encoding="utf-8")
    [statements] = re.findall(rf"^\| {warehouse} \| `(.+?)` \|$", page, re.MULTILINE)
    return str(statements)


def tell() -> list[Run]:
    """Run the tap at each step of the story, and look how it ends."""
    world = _world()
    runs: list[Run] = []
    with CodeChat(world) as server, mock.patch("tap_instances.responses.datetime") as clock:
        for step in STEPS:
            clock.now.return_value = step.at.replace(tzinfo=timezone.utc)
            settings = world.settings(server.url)
            for business, entry in zip(world.businesses.values(), settings["businesses"], strict=True):
                business.away = {i["instanceId"] for i in business.instances if i["name"] in step.away}
                for instance in business.instances:
                    instance["Webhook"] = [hook for hook in instance["Webhook"] if hook["name"] != step.deletes]
                if business.name == step.expired:
                    entry["auth_token"] = "expired-not-a-real-token"
            run = sync(settings, state=runs[-1].state if step.has_state else None)
            assert run.returncode == (1 if step.expired else 0), run.stderr
            runs.append(run)
    return runs


def plain(rows: Iterable[Iterable[Any]]) -> Rows:
    """Give an answer's rows with times in UTC as columns without a zone have them."""
    return [tuple(_naive(value) for value in row) for row in rows]


def _naive(value: object) -> object:
    if isinstance(value, datetime) and value.tzinfo:
        return value.astimezone(timezone.utc).replace(tzinfo=None)
    return value


def _world() -> World:
    bakery = {
        "atendimento": [("crm", True, True)],
        "cobranca": [("erp", True, True), ("velho", True, True)],
        "vendas": [],
    }
    clinic: Mapping[str, list[tuple[str, bool, bool]]] = {
        "recepcao": [("bi", False, True), ("crm", True, False)],
        "agenda": [],
    }
    return World(
        [
            Business(
                business_id,
                f"not-a-real-token-{business_id}",
                {
                    "businessId": business_id,
                    "name": name,
                    "Instances": [new_instance(f"instance-{key}", hooks, name=key) for key, hooks in instances.items()],
                },
            )
            for business_id, name, instances in (("business-1", BAKERY, bakery), ("business-2", CLINIC, clinic))
        ]
    )


def new_instance(
    instance_id: str, hooks: Iterable[tuple[str, bool, bool]], *, name: str | None = None
) -> dict[str, Any]:
    """Give an instance as the API has it, with webhooks of (name, enabled, newJwt)."""
    name = name or instance_id
    instance: dict[str, Any] = json.loads(CONNECTED.read_text(encoding="utf-8"))["Instances"][0]
    [template, *_] = instance["Webhook"]
    instance.update(instanceId=instance_id, name=name, Webhook=[])
    instance["WhatsApp"]["remoteJid"] = PHONES.get(name)
    for hook_name, enabled, new_jwt in hooks:
        hook = deepcopy(template)
        hook.update(webhookId=f"webhook-{name}-{hook_name}", name=hook_name, enabled=enabled)
        hook.update(url=f"https://{hook_name}.example.com/{name}", updatedAt="2026-02-01T12:00:00.000Z")
        hook.update(instanceInstanceId=instance_id)
        hook["WebhookEvents"]["newJwt"] = new_jwt
        instance["Webhook"].append(hook)
    return instance
