"""The server's list of businesses: who is read, what fails alone, what fails the run, and what no output shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from demo.codechat import ADMIN_TOKEN, GATEWAY, CodeChat, World
from tap_instances import client
from tests.kit.faults import LIST, FaultServer, answer, echo, leave_surroundings, raw, redirect, reset
from tests.kit.support import Run, run_cli, sync

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.faults import Act, Connection

LIST_PATH: Final = "/api/v2/admin/business"
OWN_TOKEN: Final = "not-a-real-own-token"


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leave_surroundings(monkeypatch, str(tmp_path))
    monkeypatch.setattr(client, "MAX_BACKOFF", 0.0)


def config(url: str, *named: str | dict[str, str], **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Give the settings that read these businesses, or all, with the admin token."""
    entries = [{"business_id": entry} if isinstance(entry, str) else entry for entry in named]
    businesses = {"businesses": entries} if entries else {}
    return {"api_url": url, "admin_token": ADMIN_TOKEN, "max_retries": 0, **businesses, **more}


def item(business: Any, token: Any = "", deleted: Any = None, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Make an item of the server's list; with a token of its own unless one is given."""
    token = f"not-a-real-found-token-of-{business}" if token == "" else token
    return {"businessId": business, "name": "x", "businessToken": token, "deletedAt": deleted, **more}


def listing(*items: object) -> dict[str, tuple[Act, ...]]:
    """Let the server list these items; every business that is asked for answers with one instance."""
    return {LIST: (answer(200, list(items)),)}


def good(connection: Connection) -> None:
    """Answer with one instance of the business that is asked for."""
    answer(200, {"Instances": [{"instanceId": connection.request.business, "Webhook": []}]})(connection)


def synced(run: Run) -> list[str]:
    """Name the businesses that were read, in order."""
    return [row["business_id"] for row in run.records("businesses")]


def paths(server: FaultServer) -> list[str]:
    """Give the businesses that were asked for, and LIST, in order."""
    return [request.business for request in server.requests]


# --------------------------------------------------------------------------------------------------- who is read


def test_the_admin_token_alone_reads_all_that_are_listed_in_their_order() -> None:
    world = World.seeded(3, businesses=5, instances=2)
    deleted = list(world.businesses.values())[1]
    deleted.deleted_at = "2025-01-01T00:00:00.000Z"
    with CodeChat(world) as server:
        run = sync(config(server.url))
        asked = [request.path for request in server.requests]
    assert run.returncode == 0
    assert synced(run) == [name for name in world.businesses if name != deleted.id]
    assert asked[0] == LIST_PATH
    assert asked.count(LIST_PATH) == 1
    assert len(asked) == 5
    assert run.lines("WARNING") == [line for line in run.lines("WARNING") if "withheld" in line]


def test_the_admin_token_finds_only_the_tokens_that_are_missing() -> None:
    named = ("b-2", {"business_id": "b-3", "auth_token": OWN_TOKEN}, "b-1")
    with FaultServer(good, businesses=listing(item("b-1"), item("b-2"), item("b-3"), item("b-4"))) as server:
        run = sync(config(server.url, *named, concurrency=1))
        tokens = [request.token for request in server.requests]
    assert run.returncode == 0
    assert synced(run) == ["b-2", "b-3", "b-1"]
    assert tokens == [ADMIN_TOKEN, "not-a-real-found-token-of-b-2", OWN_TOKEN, "not-a-real-found-token-of-b-1"]


def test_the_admin_token_finds_the_token_of_a_single_business() -> None:
    with FaultServer(good, businesses=listing(item("b-1"), item("b-2"))) as server:
        run = sync(config(server.url, business_id="b-2"))
        assert paths(server) == [LIST, "b-2"]
    assert synced(run) == ["b-2"]


def test_the_list_is_not_asked_for_where_every_business_has_its_token() -> None:
    own = {"business_id": "b-1", "auth_token": OWN_TOKEN}
    with FaultServer(good, businesses=listing()) as server:
        assert sync(config(server.url, own)).returncode == 0
        assert sync(config(server.url, business_id="b-1", auth_token=OWN_TOKEN)).returncode == 0
        assert paths(server) == ["b-1", "b-1"]


def test_a_deleted_business_is_read_if_it_is_named() -> None:
    with FaultServer(good, businesses=listing(item("b-1", deleted="2025-01-01T00:00:00Z"))) as server:
        assert synced(sync(config(server.url, "b-1"))) == ["b-1"]


@pytest.mark.parametrize("deleted", [None, "", False, 0])
def test_a_business_lives_as_long_as_its_deletion_says_nothing(deleted: object) -> None:
    with FaultServer(good, businesses=listing({**item("b-1"), "deletedAt": deleted})) as server:
        assert synced(sync(config(server.url))) == ["b-1"]


def test_a_deleted_namesake_is_passed_over() -> None:
    gone = item("b-1", "not-a-real-old-token", deleted="2025-01-01T00:00:00Z")
    with FaultServer(good, businesses=listing(gone, item("b-1"))) as server:
        for named in ((), ("b-1",)):
            assert synced(sync(config(server.url, *named))) == ["b-1"]
        assert {request.token for request in server.requests} == {ADMIN_TOKEN, "not-a-real-found-token-of-b-1"}


def test_an_empty_list_is_a_warning_and_a_good_run() -> None:
    with FaultServer(good, businesses=listing(item("b-1", deleted="2025-01-01T00:00:00Z"))) as server:
        run = sync(config(server.url))
        assert paths(server) == [LIST]
    assert run.returncode == 0
    assert run.of("RECORD") == run.of("ACTIVATE_VERSION") == []
    [line] = run.lines("WARNING")
    assert "the server lists no businesses" in line


def test_a_full_refresh_activates_a_version_of_a_shorter_list() -> None:
    more = {"emit_activate_version_messages": True}
    with FaultServer(good, businesses=listing(item("b-1"))) as server:
        assert sync(config(server.url, **more)).of("ACTIVATE_VERSION")


def test_an_empty_list_activates_no_version() -> None:
    with FaultServer(good, businesses=listing()) as server:
        run = sync(config(server.url, emit_activate_version_messages=True))
    assert "no ACTIVATE_VERSION: the server's list is empty" in run.stderr
    assert run.of("ACTIVATE_VERSION") == []


@pytest.mark.parametrize("admin", [True, False])
def test_a_business_whose_state_is_not_understood_is_not_listed_either(admin: bool) -> None:  # noqa: FBT001
    odd = {"context": {"business_id": "b-9"}, "version": 99}
    state = {"bookmarks": {"webhooks": {"partitions": [odd]}}}
    settings = config("") | {"emit_activate_version_messages": True}
    if not admin:
        settings["businesses"] = [{"business_id": "b-1", "auth_token": OWN_TOKEN}]
    with FaultServer(good, businesses=listing(item("b-1"))) as server:
        run = sync(settings | {"api_url": server.url}, state=state)
    assert ("the server's list lacks one without readable state" in run.stderr) is admin
    assert bool(run.of("ACTIVATE_VERSION")) is not admin


@pytest.mark.parametrize("left", [[], [item("b-1")], [item("b-1"), item("b-2", deleted="2025-01-01T00:00:00Z")]])
def test_a_shorter_list_activates_no_version_and_keeps_the_state(left: list[dict[str, Any]]) -> None:
    more = {"emit_activate_version_messages": True}
    with FaultServer(good, businesses=listing(item("b-1"), item("b-2"))) as server:
        first = sync(config(server.url, **more))
    with FaultServer(good, businesses=listing(*left)) as server:
        second = sync(config(server.url, **more), state=first.state)
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.of("ACTIVATE_VERSION")
    assert second.of("ACTIVATE_VERSION") == []
    lacks = "b-1, b-2" if not left else "b-2"
    assert f"the server's list lacks {lacks}: if that is right, run with --full-refresh" in second.stderr
    for stream, bookmark in first.state["bookmarks"].items():
        [removed] = [entry for entry in bookmark["partitions"] if entry["context"]["business_id"] == "b-2"]
        assert removed in second.state["bookmarks"][stream]["partitions"]


def test_a_new_business_begins_complete_beside_an_old_state() -> None:
    world = World.seeded(3, businesses=3, instances=3)
    new, *_ = world.businesses
    later = world.businesses.pop(new)
    with CodeChat(world) as server:
        first = sync(config(server.url))
    world.businesses = {**world.businesses, new: later}
    with CodeChat(world) as server:
        second = sync(config(server.url), state=first.state)
    assert synced(second) == list(world.businesses)
    mine = {instance["instanceId"] for instance in later.connected}
    expected = [hook["webhookId"] for instance in later.connected for hook in instance["Webhook"]]
    assert [row["webhook_id"] for row in second.records("webhooks") if row["instance_id"] in mine] == expected
    assert [row for row in second.records("webhooks") if row["instance_id"] not in mine] == []


def test_five_hundred_listed_businesses_are_a_normal_run() -> None:
    world = World.seeded(5, businesses=500, instances=1)
    with CodeChat(world) as server:
        run = sync(config(server.url, concurrency=8))
        assert len(server.requests) == 501
    assert run.returncode == 0
    assert synced(run) == list(world.businesses)


# --------------------------------------------------------------------------------------------- what fails alone

ALONE: Final[dict[str, tuple[tuple[str, ...], list[dict[str, Any]], str, str]]] = {
    # named, listed; who fails, and why
    "not listed": (("b-1", "b-9"), [item("b-1")], "b-9", "the server does not list it"),
    "no token": ((), [item("b-1"), item("b-9", None)], "b-9", "the server lists no token for it: set its auth_token"),
    "an empty token": ((), [item("b-9") | {"businessToken": ""}, item("b-1")], "b-9", "the server lists no token"),
    "a bad token": (
        (),
        [item("b-9", "two words"), item("b-1")],
        "b-9",
        "its token in the server's list is not a valid",
    ),
    "a number for a token": (
        (),
        [item("b-9", 17), item("b-1")],
        "b-9",
        "its token in the server's list is not a valid",
    ),
    "an object for a token": (
        (),
        [item("b-9", {}), item("b-1")],
        "b-9",
        "its token in the server's list is not a valid",
    ),
    "an object for an id": ((), [item("b-1"), item({}), item("b-1", deleted=1)], "number 2", "its businessId in the"),
    "half a pair in a token": (
        (),
        [item("b-9", "x\ud800"), item("b-1")],
        "b-9",
        "its token in the server's list is not",
    ),
    "a named bad token": (("b-1", "b-9"), [item("b-9", "a\nb"), item("b-1")], "b-9", "its token in the server's list"),
    "twice": ((), [item("b-9"), item("b-1"), item("b-9")], "b-9", "the server lists it more than once"),
    "named twice": (("b-1", "b-9"), [item("b-9"), item("b-1"), item("b-9")], "b-9", "the server lists it more than"),
    "a bad id": ((), [item("b-1"), item("..")], "..", "its businessId in the server's list is not a valid id"),
    "an id of lines": ((), [item("b-1"), item("a\nb", "t")], "a\\nb", "its businessId in the server's list"),
    "a bad id twice": ((), [item(".."), item("b-1"), item("..")], "..", "its businessId in the server's list is not"),
    "half a pair in an id": ((), [item("b-1"), item("b\ud800", "t")], "b\\ud800", "its businessId in the server"),
    "a number for an id": ((), [item("b-1"), item(17)], "number 2", "its businessId in the server's list"),
    "an empty id": ((), [item("b-1"), item("")], "number 2", "its businessId in the server's list is not a valid id"),
    "no id": ((), [item(None), item("b-1")], "number 1", "its businessId in the server's list is not a valid id"),
}


@pytest.mark.parametrize("case", ALONE)
def test_one_that_the_list_does_not_open_fails_alone_by_name(case: str) -> None:
    named, listed, failing, why = ALONE[case]
    with FaultServer(good, businesses=listing(*listed)) as server:
        run = sync(config(server.url, *named))
        assert paths(server) == [LIST, "b-1"]
    assert run.returncode == 1
    assert synced(run) == ["b-1"]
    line, *_ = run.lines("ERROR")
    assert f"business {failing}: {why}" in line
    assert all(f"{failing} (" in summary for summary in run.lines("ERROR")[1:])


def test_no_half_of_a_token_is_left_of_a_long_id() -> None:
    with FaultServer(good, businesses=listing(item("b-1"), item("q" * 90 + ADMIN_TOKEN + "\n", "t"))) as server:
        run = sync(config(server.url))
    assert run.returncode == 1
    assert f"business {'q' * 90}***" in run.stderr
    assert ADMIN_TOKEN[:10] not in run.stderr


# -------------------------------------------------------------------------------------------- what fails the run

NEXT: Final[dict[str, Any]] = {"Link": f'<{LIST_PATH}?page=2>; rel="next"'}
FAILED: Final[dict[str, tuple[Act, tuple[str, ...], int]]] = {
    # what the server answers; words, and requests with one retry
    "401": (answer(401, {"message": "no"}), ("401 Unauthorized: check admin_token", "The API says: no"), 1),
    "403": (answer(403, b"<html>"), ("403 Forbidden: check admin_token", "headers", "a gateway or proxy may"), 1),
    "404": (answer(404, {}), ("404 Not Found: this server has no such list: use businesses",), 1),
    "object": (
        answer(200, {"data": [item("b-1")]}),
        ("the response is an object, not an array of businesses: check api_url, or use businesses instead",),
        1,
    ),
    "error": (answer(200, {"statusCode": 401, "messages": ["no"]}), ("is an object", "The API says: no"), 1),
    "texts": (answer(200, ["b-1"]), ("the response is an array of other things",), 1),
    "null": (answer(200, None), ("the response is null, not an array",), 1),
    "not JSON": (raw(b"HTTP/1.1 200 OK\r\n\r\n[{"), ("the response is not JSON (2 tries)",), 2),
    "page": (answer(200, b"<html>"), ("the response is a web page, not JSON (2 tries)",), 2),
    "503": (answer(503, b""), ("503 Service Unavailable (2 tries)",), 2),
    "reset": (reset(), ("Connection reset by peer",), 2),
    "206": (answer(206, [item("b-1")]), ("the list in the response is not whole",), 1),
    "Link": (answer(200, [item("b-1")], **NEXT), ("the list in the response is not whole",), 1),
    "encoding": (answer(200, b"\x8b\x05", Content_Encoding="br"), ("Content-Encoding br",), 1),
}


@pytest.mark.parametrize("case", FAILED)
def test_a_list_that_cannot_be_read_fails_the_run(case: str) -> None:
    act, words, requests = FAILED[case]
    named = (("b-1", {"business_id": "b-2", "auth_token": OWN_TOKEN}), ())[len(case) % 2]  # either way
    with FaultServer(good, businesses={LIST: (act,)}) as server:
        run = sync(config(server.url, *named, max_retries=requests - 1))
        assert paths(server) == [LIST] * requests
    assert run.returncode == 1
    assert run.of("RECORD") == run.of("ACTIVATE_VERSION") == []
    [line] = run.lines("ERROR")
    assert "list of businesses: " in line
    assert all(word in line for word in words)
    assert "unexpected" not in line


def test_the_list_is_asked_for_again_like_any_request() -> None:
    with FaultServer(good, businesses={LIST: (answer(503, b""), reset(), answer(200, [item("b-1")]))}) as server:
        run = sync(config(server.url, max_retries=2))
        assert paths(server) == [LIST] * 3 + ["b-1"]
    assert run.returncode == 0
    assert len([line for line in run.lines("WARNING") if "list of businesses: " in line]) == 2


def test_the_admin_token_does_not_leave_the_server_in_a_redirect() -> None:
    with FaultServer(answer(200, [])) as second, FaultServer(redirect(second.url + LIST_PATH)) as first:
        sync(config(first.url, headers=GATEWAY))
        assert [request.token for request in first.requests] == [ADMIN_TOKEN]
        assert [request.token for request in second.requests] == [""]
        assert "apikey" not in second.requests[0].headers


# ------------------------------------------------------------------------------------------------------ gateways


def test_a_gateway_gets_the_configured_headers_with_every_request() -> None:
    world = World.seeded(3, businesses=2, instances=1)
    with CodeChat(world, gateway=GATEWAY) as server:
        run = sync(config(server.url, headers=GATEWAY))
        assert [request.headers["apikey"] for request in server.requests] == [GATEWAY["apikey"]] * 3
    assert run.returncode == 0
    assert synced(run) == list(world.businesses)


def test_a_gateway_that_refuses_is_spoken_of() -> None:
    world = World.seeded(3, businesses=2, instances=1)
    with CodeChat(world, gateway=GATEWAY) as server:
        run = sync(world.settings(server.url))
    assert run.returncode == 1
    line, *_ = run.lines("ERROR")
    assert "403 Forbidden: check auth_token" in line
    assert "a gateway in front of the server may want headers" in line
    assert "a gateway or proxy may have refused the request, not CodeChat" in line


# ------------------------------------------------------------------------------------------------------- secrets


HEADERS: Final = {"apikey": "not-a-real-gateway-key", "CF-Access-Client-Secret": "not real: secret-of-a-gateway"}
STATUSES: Final = (200, 400, 401, 403, 404, 500)
ITEMS: Final = (
    item("b-other"),
    *(item(f"b-{status}") for status in STATUSES),
    item("b-0", "two not-a-real-words"),
    item("b-1", deleted=1),
)
OTHERS: Final = [ITEMS[number]["businessToken"] for number in (1, -2, -1)]


def check_nothing_secret(run: Run, server: FaultServer) -> None:
    """Check that no value of a secret stands in any output, at DEBUG; and that they were sent."""
    sent = {value for request in server.requests for value in request.headers.values()}
    assert {f"Bearer {ADMIN_TOKEN}", *HEADERS.values()} <= sent
    assert run.lines("DEBUG")
    everything = run.stdout + run.stderr
    hidden = [ADMIN_TOKEN, OWN_TOKEN, *HEADERS.values(), *(entry["businessToken"] for entry in ITEMS)]
    assert [secret for secret in hidden if secret in everything] == []


DEBUG: Final = {"TAP_INSTANCES_LOGLEVEL": "DEBUG", "LOGLEVEL": "DEBUG"}


@pytest.mark.parametrize("named", [False, True])
def test_no_token_or_header_reaches_an_output_though_every_business_echoes_them(named: bool) -> None:  # noqa: FBT001
    own = {"business_id": "own", "auth_token": OWN_TOKEN}
    entries: tuple[str | dict[str, str], ...] = (
        (own, *(f"b-{status}" for status in ("other", *STATUSES, 0, 1))) if named else ()
    )
    script = listing(*ITEMS) | {f"b-{status}": (echo(status),) for status in STATUSES}
    script["b-other"] = (answer(401, {"message": f"not one of {OTHERS}"}),)
    with FaultServer(good, businesses=script | {"own": (echo(401),)}) as server:
        run = run_cli(config(server.url, *entries, headers=HEADERS), env=DEBUG)
        check_nothing_secret(run, server)
    assert len(run.lines("ERROR")) > len(STATUSES)


@pytest.mark.parametrize("status", [200, 401, 500])
def test_no_admin_token_or_header_reaches_an_output_though_the_list_echoes_them(status: int) -> None:
    with FaultServer(good, businesses={LIST: (echo(status),)}) as server:
        run = run_cli(config(server.url, headers=HEADERS, max_retries=1), env=DEBUG)
        check_nothing_secret(run, server)
    assert len(run.lines("ERROR")) == 1
