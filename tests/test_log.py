"""The log, line by line: its words are what people act on, and what alerts look for."""

from __future__ import annotations

import json
import logging
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest

from tap_instances import client
from tap_instances.tap import TapInstances
from tests.kit.faults import FaultServer, answer, config, leave_surroundings, redirect
from tests.kit.support import logged, sync

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.kit.faults import Act

OPERATOR: Final = "ask the server's operator"
WEBHOOKS: Final = [{"webhookId": "w1", "WebhookEvents": {}}, {"webhookId": "w2", "WebhookEvents": {}}]
ODD: Final = b"""{"Instances": [
    {"instanceId": "i1", "name": [], "state": {}, "colour": "caf\xe9", "size": 1, "apiToken": "s", "Webhook": []},
    {"instanceId": "i2", "myPassword": "s", "Webhook": [{"webhookId": "w1"}]},
    {"instanceId": "i3"}]}"""


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leave_surroundings(monkeypatch, str(tmp_path))
    clock = SimpleNamespace(sleep=lambda _: None, monotonic=lambda: 0.0)
    monkeypatch.setattr(client, "time", clock)


def listed(*instances: dict[str, Any], **keys: Any) -> Act:  # noqa: ANN401
    """Answer with these instances."""
    return answer(200, {"Instances": instances, **keys})


def settings(server: FaultServer, businesses: Iterable[str], **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return config(server, businesses, concurrency=1, max_retries=1, **more)


def check(log: str, *expected: str) -> None:
    """Check all lines but that of plain http; seconds are written as ``T``."""
    lines = [re.sub(r"\d+\.\d s\b", "T s", line) for line in log.splitlines()]
    assert [line for line in lines if "api_url is plain http" not in line] == list(expected)


def test_each_way_in_which_a_business_fails_has_its_words() -> None:
    acts: dict[str, tuple[Act, ...]] = {
        "b1": (listed({"instanceId": "i1", "Webhook": WEBHOOKS}),),
        "b2": (answer(503, {"message": "later"}), listed()),
        "b3": (answer(206, {"Instances": []}),),
        "b4": (answer(200, {"Instances": []}, Link='</2>; rel="next"'),),
        "b5": (listed(meta={"nextPage": 2}),),
        "b6": (answer(200, b"\x8b", Content_Encoding="gzip, identity, br"),),
        "b7": (answer(200, b"[" * 100_000),),
        "b8": (answer(401, b"<html>"),),
        "b9": (answer(400, b"The plain HTTP request was sent to HTTPS port"),),
        "b10": (listed({"instanceId": "i1", "Webhook": [{"name": "x"}]}, {}),),
        "b11": (answer(503, b"", Retry_After="301"),),
        "b12": (redirect("?again"),),
        "b13": (redirect("ftp://127.0.0.1/"),),
    }
    with FaultServer(businesses=acts) as server:
        run = sync(settings(server, acts))
    assert run.returncode == 1
    part = "the list in the response is not whole"
    whole = f"{OPERATOR}: it must come in one response"
    url = "check api_url: it must be CodeChat's base URL, without /api/v2"
    check(
        run.stderr,
        "INFO tap-instances business b1 (1 of 13): 1 instances, 2 webhooks, T s",
        "WARNING tap-instances business b2: 503 Service Unavailable; try 2 of 2 in T s",
        "INFO tap-instances business b2 (2 of 13): 0 instances, 0 webhooks, T s",
        f"ERROR tap-instances business b3: {part}: its status is 206 Partial Content: {whole}",
        f"ERROR tap-instances business b4: {part}: its Link header names a next page: {whole}",
        f"ERROR tap-instances business b5: {part}: its meta.nextPage tells of more pages: {whole}",
        "ERROR tap-instances business b6: the response has Content-Encoding br, which is not supported: let the "
        "server, or the proxy in front of it, send gzip or no encoding: the tap asks for that",
        f"ERROR tap-instances business b7: the response is nested deeper than some 1,000 levels: {OPERATOR}",
        "ERROR tap-instances business b8: 401 Unauthorized: check auth_token: it is wrong, expired, or another "
        "business's (a gateway in front of the server may want headers) (a web page answered): "
        "a gateway or proxy may have refused the request, not CodeChat",
        "ERROR tap-instances business b9: 400 Bad Request: change http to https in api_url. "
        "The API says: The plain HTTP request was sent to HTTPS port",
        "ERROR tap-instances business b10: not emitted: Instances[0].Webhook[0]: its webhookId is missing",
        "ERROR tap-instances business b10: not emitted: Instances[1]: its instanceId is missing",
        "INFO tap-instances business b10 (10 of 13): 2 instances, 0 webhooks, T s",
        "ERROR tap-instances business b11: 503 Service Unavailable (1 try): "
        "the server asks to wait 301 s, run again after that",
        f"ERROR tap-instances business b12: redirected too often: {url}",
        f"ERROR tap-instances business b13: redirected to something other than http(s): {url}",
        "INFO tap-instances 3 of 13 businesses read in T s; emitted: 3 businesses, 2 instances, 2 webhooks, "
        "2 webhook_events, 1 connection_changes, 2 observations",
        "ERROR tap-instances 10 of 13 businesses failed: b3 (the list in the response is not whole), "
        "b4 (the list in the response is not whole), b5 (the list in the response is not whole), "
        "b6 (the response has Content-Encoding br, which is not supported), "
        "b7 (the response is nested deeper than some 1,000 levels), b8 (401 Unauthorized), b9 (400 Bad Request), "
        "b11 (503 Service Unavailable (1 try)), b12 (redirected too often), "
        "b13 (redirected to something other than http(s))",
    )


def test_what_no_column_holds_and_what_is_missing_is_named_at_the_end() -> None:
    before = [{"instanceId": name, "Webhook": WEBHOOKS if name == "i2" else []} for name in ("i1", "i2", "i3")]
    businesses: dict[str, tuple[Act, ...]] = {
        "b1": (listed(*before), answer(200, ODD)),
        "b2": (listed(*before), listed()),
    }
    with FaultServer(businesses=businesses) as server:
        first = sync(settings(server, ["b1"]))
        second = sync(settings(server, businesses), state=first.state)
        third = sync(settings(server, businesses), state=second.state)
    assert [first.returncode, second.returncode, third.returncode] == [0, 0, 0]
    check(
        second.stderr,
        "INFO tap-instances business b1 (1 of 2): 3 instances, 1 webhooks, T s",
        "INFO tap-instances business b2 (2 of 2): 3 instances, 2 webhooks, T s",
        "INFO tap-instances keys of no column, kept in additional_properties: instances.colour, instances.size",
        "WARNING tap-instances values that do not fit their columns, kept in additional_properties: "
        "instances.name, instances.state",
        "WARNING tap-instances withheld as secrets (include_secrets emits them): "
        "instances.apiToken, instances.myPassword",
        "WARNING tap-instances the server sent bytes that are not UTF-8; in their place stands U+FFFD",
        "WARNING tap-instances missing in an answer, so what was known of it is kept as it was: "
        "webhooks.WebhookEvents, instances.Webhook",
        "INFO tap-instances 2 of 2 businesses read in T s; emitted: 2 businesses, 6 instances, 2 webhooks, "
        "2 webhook_events, 3 connection_changes, 2 observations; unchanged since the given state, so left out: "
        "2 webhooks, 1 webhook_events",
    )
    assert "WARNING tap-instances business b2: nothing is connected now; the last sync saw some" in third.stderr


def test_the_test_of_the_settings_says_which_business_answers(capsys: pytest.CaptureFixture[str]) -> None:
    acts: dict[str, tuple[Act, ...]] = {
        "b1": (listed({"instanceId": "i1", "Webhook": WEBHOOKS}),),
        "b2": (answer(401, {"message": "jwt expired"}),),
        "b3": (listed(),),
    }
    with FaultServer(businesses=acts) as server, logged("%(levelname)s %(name)s %(message)s") as log:
        tap = TapInstances(config=json.loads(json.dumps(settings(server, acts, emit_activate_version_messages=True))))
        with pytest.raises(SystemExit, match="1"):
            tap.run_connection_test()
    check(
        log.getvalue(),
        "INFO tap-instances business b1: ok, 1 instances",
        "ERROR tap-instances business b2: 401 Unauthorized: check auth_token: it is wrong, expired, or another "
        "business's (a gateway in front of the server may want headers). The API says: jwt expired",
        "INFO tap-instances business b3: ok, 0 instances",
        "INFO tap-instances 2 of 3 businesses read in T s",
        "ERROR tap-instances 1 of 3 businesses failed: b2 (401 Unauthorized)",
    )
    kinds = [json.loads(line)["type"] for line in capsys.readouterr().out.splitlines()]
    assert set(kinds) == {"SCHEMA", "RECORD"}
    assert kinds.count("RECORD") <= kinds.count("SCHEMA")


def test_of_a_state_it_is_said_what_is_synced_again() -> None:
    acts: dict[str, tuple[Act, ...]] = {"b1": (listed(),)}
    lists = {"webhooks": {"partitions": 1}, "observations": {"partitions": [{"context": {"business_id": "b1"}}]}}
    with FaultServer(businesses=acts) as server:
        partly, other = (sync(settings(server, acts), state=state) for state in ({"bookmarks": lists}, {"value": 1}))
    assert partly.lines("WARNING") == [
        "WARNING tap-instances the state of webhooks is not understood: it is synced in full",
        "WARNING tap-instances the state of observations, business 'b1', is not understood: it is synced in full",
    ]
    assert other.lines("WARNING") == [
        "WARNING tap-instances the state is not understood (it has no bookmarks): everything is synced again"
    ]


def test_where_no_version_is_activated_the_log_says_why(tmp_path: Path) -> None:
    storage = {"encoding": {"format": "jsonl", "compression": "gzip"}, "storage": {"root": tmp_path.as_uri()}}
    acts: dict[str, tuple[Act, ...]] = {"b1": (listed(),), "b2": (listed(),)}
    with FaultServer(businesses=acts) as server:
        activate = settings(server, ["b1"], emit_activate_version_messages=True)
        batches = sync(activate | {"batch_config": storage})
        state = sync(settings(server, acts)).state
    assert batches.lines("WARNING")[0].endswith(
        "no ACTIVATE_VERSION with batch_config: a target would delete the rows of batches"
    )
    one = [{"businessId": "b1", "businessToken": "t"}]
    with FaultServer(businesses={"business": (answer(200, one), answer(200, [])), **acts}) as server:
        found = {"api_url": server.url, "admin_token": "t", "emit_activate_version_messages": True}
        lacking, empty = sync(found, state=state), sync(found)
    why = "WARNING tap-instances no ACTIVATE_VERSION: the server's list"
    assert f"{why} lacks b2: if that is right, run with --full-refresh\n" in lacking.stderr
    assert f"{why} is empty\n" in empty.stderr


def test_the_traceback_of_a_bug_is_there_at_debug(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(client, "read_connected", broken)
    acts: dict[str, tuple[Act, ...]] = {"b1": (listed(),)}
    with FaultServer(businesses=acts) as server, caplog.at_level(logging.DEBUG, "tap-instances"):
        sync(settings(server, acts))
    [record] = [record for record in caplog.records if record.getMessage() == "business b1"]
    assert record.levelno == logging.DEBUG
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError
