"""The demo's CodeChat is honest: its answers are the documented ones, and repeat."""

from __future__ import annotations

import copy
import json
import socket
import subprocess
import sys
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import requests

from demo.codechat import ADMIN_TOKEN, FLAGS, GATEWAY, Answer, Business, CodeChat, Request, World, main
from demo.project import ROOT
from tests.kit.support import TOKEN

if TYPE_CHECKING:
    from pathlib import Path


def ask(server: CodeChat, business_id: str, token: str) -> requests.Response:
    """Make the one documented request."""
    encoded = quote(business_id, safe="")
    return requests.get(
        f"{server.url}/api/v2/business/{encoded}/instance/connected",
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
    )


def bodies(world: World) -> str:
    """Write what the whole world answers."""
    return json.dumps([world.body(business) for business in world.businesses])


def test_a_body_is_served_verbatim(codechat: CodeChat, connected: dict[str, Any]) -> None:
    response = ask(codechat, connected["businessId"], TOKEN)
    assert response.status_code == HTTPStatus.OK
    assert response.json() == connected
    assert list(response.json()) == list(connected)


def test_a_wrong_token_is_the_documented_401(codechat: CodeChat) -> None:
    [business_id] = codechat.world.businesses
    response = ask(codechat, business_id, "other")
    assert response.status_code == HTTPStatus.UNAUTHORIZED
    assert response.json() == {
        "message": ["Unauthorized"],
        "error": "Unauthorized",
        "statusCode": 401,
    }


def test_an_unknown_business_is_the_documented_400(codechat: CodeChat) -> None:
    response = ask(codechat, "../b 17", TOKEN)
    assert response.status_code == HTTPStatus.BAD_REQUEST
    assert response.json() == {
        "message": ["businessId must be a UUID"],
        "error": "Bad Request",
        "statusCode": 400,
    }


def test_any_other_path_is_a_404_in_json(codechat: CodeChat) -> None:
    response = requests.get(f"{codechat.url}/api/v2/business", timeout=10)
    assert response.status_code == HTTPStatus.NOT_FOUND
    assert response.json()["statusCode"] == HTTPStatus.NOT_FOUND


def test_an_id_is_decoded_after_the_path_is_split() -> None:
    world = World([Business("a/b c", TOKEN, {"businessId": "a/b c", "Instances": []})])
    with CodeChat(world) as server:
        assert ask(server, "a/b c", TOKEN).json()["businessId"] == "a/b c"


def test_requests_are_kept_as_they_came(codechat: CodeChat) -> None:
    ask(codechat, "a/b", TOKEN)
    [request] = codechat.requests
    assert request.path == "/api/v2/business/a%2Fb/instance/connected"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"


def test_a_test_can_answer_in_its_place(connected: dict[str, Any]) -> None:
    answers: list[Answer | bytes | None] = [
        Answer(503, b"<html>", {"Retry-After": "1"}),
        b"",
        None,
    ]

    def respond(_request: Request) -> Answer | bytes | None:
        return answers.pop(0)

    world = World.from_body(connected, TOKEN)
    with CodeChat(world, respond=respond) as server:
        unavailable = ask(server, connected["businessId"], TOKEN)
        assert unavailable.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        assert unavailable.headers["Retry-After"] == "1"
        with pytest.raises(requests.ConnectionError):
            ask(server, connected["businessId"], TOKEN)
        assert ask(server, connected["businessId"], TOKEN).json() == connected


def test_a_lone_surrogate_is_sent_as_its_escape(connected: dict[str, Any]) -> None:
    connected["name"] = "é \ud83d"
    with CodeChat(World.from_body(connected, TOKEN)) as server:
        response = ask(server, connected["businessId"], TOKEN)
    assert "é \\ud83d".encode() in response.content
    assert response.json()["name"] == connected["name"]


def test_the_port_is_free_after_the_block(connected: dict[str, Any]) -> None:
    with CodeChat(World.from_body(connected, TOKEN)) as server:
        port = server.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_the_same_seed_makes_the_same_world() -> None:
    worlds = World.seeded(3), World.seeded(3), World.seeded(4)
    for world in worlds:
        world.step()
        world.step()
    assert bodies(worlds[0]) == bodies(worlds[1]) != bodies(worlds[2])


def test_the_last_of_several_businesses_has_no_instance() -> None:
    world = World.seeded(3)
    assert [bool(b.connected) for b in world.businesses.values()] == [True, True, False]


def test_an_hour_changes_something_of_each_kind() -> None:
    world = World.seeded(3)
    business = next(iter(world.businesses.values()))
    before = copy.deepcopy(business.connected)
    away = set(business.away)
    world.step()
    assert away - business.away, "a phone came back"
    assert business.away - away, "a phone dropped"
    old = {w["webhookId"]: w for i in before for w in i["Webhook"]}
    new = {
        w["webhookId"]: w
        for i in business.instances
        for w in i["Webhook"]
        if i["instanceId"] in {b["instanceId"] for b in before}
    }
    assert old.keys() - new.keys(), "a webhook was deleted"
    for webhook_id in old.keys() & new.keys():
        was, now = old[webhook_id], new[webhook_id]
        assert (was["enabled"] != now["enabled"]) == (was["updatedAt"] != now["updatedAt"])
        was, now = was["WebhookEvents"], now["WebhookEvents"]
        assert (was != now) == (was["updatedAt"] < now["updatedAt"])


def test_no_id_is_ever_used_again() -> None:
    world = World.seeded(3)
    business = next(iter(world.businesses.values()))
    gone: set[str] = set()
    before: set[str] = set()
    for _ in range(50):
        now = {w["webhookId"] for i in business.instances for w in i["Webhook"]}
        gone |= before - now
        assert not gone & now
        before = now
        world.step()
    assert gone


def test_keys_come_in_the_documented_order(connected: dict[str, Any]) -> None:
    body = World.seeded(3).body(next(iter(World.seeded(3).businesses)))
    documented, made = connected["Instances"][0], body["Instances"][0]
    assert list(body) == list(connected)
    assert list(made) == list(documented)
    for part in ("Auth", "WhatsApp"):
        assert list(made[part]) == list(documented[part])
    webhook = next(w for i in body["Instances"] for w in i["Webhook"])
    assert list(webhook) == list(documented["Webhook"][0])
    flags = [flag for flag in webhook["WebhookEvents"] if flag in FLAGS]
    assert tuple(flags) == FLAGS


def test_the_world_can_step_after_each_answer() -> None:
    world = World.seeded(3)
    business = next(iter(world.businesses.values()))
    with CodeChat(world, step_between_calls=True) as server:
        first = ask(server, business.id, business.token).json()
        second = ask(server, business.id, business.token).json()
    assert first != second


def test_the_command_says_how_to_read_it_and_ends_by_its_id(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    command = [sys.executable, "-m", "demo.codechat", "--port-file", str(port_file)]
    with subprocess.Popen(  # noqa: S603 - our own module
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 20
            while not port_file.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            port = int(port_file.read_text(encoding="utf-8"))
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        finally:
            process.terminate()
        said, _ = process.communicate(timeout=20)
    assert f"export TAP_INSTANCES_API_URL=http://127.0.0.1:{port}" in said
    for name in ("BUSINESSES", "BUSINESS_ID", "AUTH_TOKEN", "BUSINESSES_FILE", "ADMIN_TOKEN", "HEADERS"):
        assert f"export TAP_INSTANCES_{name}=" in said
    given = [line for line in said.splitlines() if not line.startswith("#")]
    assert [line.partition("=")[0] for line in given] == [
        "export TAP_INSTANCES_API_URL",
        "export TAP_INSTANCES_BUSINESSES",
    ]


def test_a_port_that_is_taken_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with CodeChat(World.seeded(3, businesses=1)) as server:
        assert main(["--port", str(server.port)]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"port {server.port} is taken: give another --port\n")


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_a_port_that_does_not_exist_is_one_line(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", port]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"port {port} is not between 0 and 65535: give another --port\n")


def test_the_list_of_businesses_needs_the_admin_token() -> None:
    world = World.seeded(3)
    with CodeChat(world) as server:
        url = f"{server.url}/api/v2/admin/business"
        business_token = next(iter(world.businesses.values())).token
        for token, status in ((business_token, 401), (ADMIN_TOKEN, 200)):
            response = requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=10)
            assert response.status_code == status
    listed = {item["businessId"]: (item["name"], item["businessToken"]) for item in response.json()}
    assert listed == {business.id: (business.name, business.token) for business in world.businesses.values()}


def test_a_gateway_refuses_with_a_page_what_lacks_its_header() -> None:
    world = World.seeded(3, businesses=1)
    [business] = world.businesses.values()
    with CodeChat(world, gateway=GATEWAY) as server:
        url = f"{server.url}/api/v2/business/{business.id}/instance/connected"
        bearer = {"Authorization": f"Bearer {business.token}"}
        assert requests.get(url, headers=bearer, timeout=10).status_code == 403
        assert requests.get(url, headers={**bearer, **GATEWAY}, timeout=10).status_code == 200
