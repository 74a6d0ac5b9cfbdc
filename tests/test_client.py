"""What a socket on loopback does not show of the client: a far host's timeouts, big errors, the clock, the logs."""

from __future__ import annotations

import io
import itertools
import json
import logging
import ssl
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest
import requests
import urllib3
from requests_mock import ANY

from tap_instances import client
from tap_instances.businesses import Business
from tap_instances.client import Client
from tap_instances.failures import SnapshotError
from tap_instances.redact import scrub, scrub_logs
from tap_instances.responses import Snapshot
from tap_instances.tap import TapInstances
from tests.kit.faults import SURROUNDINGS, FaultServer, answer, echo, leave_surroundings, settings
from tests.kit.support import run_cli, sync

if TYPE_CHECKING:
    from pathlib import Path

    from requests_mock import Mocker

URL: Final = "https://codechat.example"
BUSINESS: Final = Business("b-17", "not-a-real-token-of-b-17")


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leave_surroundings(monkeypatch, str(tmp_path))


def make(**more: Any) -> Client:  # noqa: ANN401
    """Make a client that asks URL once."""
    settings: dict[str, Any] = {"api_url": URL, "concurrency": 1, "request_timeout": 7, "max_retries": 0}
    return Client(settings | more, "test")


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        (
            [requests.ConnectTimeout(), urllib3.exceptions.ConnectTimeoutError(), TimeoutError("timed out")],
            "no connection within 7 s (request_timeout) (1 try)",
        ),
        ([requests.ReadTimeout(), TimeoutError("timed out")], "no byte for 7 s (request_timeout) (1 try)"),
        ([requests.ConnectionError(), TimeoutError(110, "Connection timed out")], "no byte for 7 s"),
        (
            [requests.ConnectionError(), OSError(113, "No route to host")],
            "the connection failed (No route to host) (1 try)",
        ),
        ([requests.ConnectionError()], "the connection failed (ConnectionError) (1 try)"),
        ([urllib3.exceptions.ProtocolError("x")], "the response was cut short"),
        ([urllib3.exceptions.DecodeError()], "the response's compression is broken (1 try)"),
        ([requests.exceptions.ProxyError(), OSError(1, "no")], "failed (no), at the proxy"),
    ],
)
def test_each_kind_of_trouble_is_named(errors: list[Exception], words: str, requests_mock: Mocker) -> None:
    for outer, inner in itertools.pairwise(errors):
        outer.__context__ = inner
    requests_mock.get(ANY, exc=errors[0])
    assert words in str(make().fetch(BUSINESS))


def test_a_proxy_that_does_not_speak_tls_is_not_taken_for_the_server(requests_mock: Mocker) -> None:
    error = requests.exceptions.ProxyError()
    error.__context__ = inner = ssl.SSLError(1, "wrong version number")
    inner.library, inner.reason = "SSL", "WRONG_VERSION_NUMBER"
    requests_mock.get(ANY, exc=error)
    assert "at the proxy (1 try): check HTTP_PROXY" in str(make().fetch(BUSINESS))


@pytest.mark.parametrize(
    ("response", "transient"),
    [
        ({"status_code": 503}, True),
        ({"status_code": 429, "headers": {"Retry-After": "9999"}}, True),  # not in this run, but later
        ({"text": "not JSON"}, True),
        ({"exc": requests.ConnectTimeout()}, True),
        ({"status_code": 401}, False),
        ({"status_code": 404}, False),
        ({"status_code": 206}, False),
        ({"json": {"Instances": None}}, False),
        ({"exc": requests.TooManyRedirects()}, False),
    ],
)
def test_a_failure_says_whether_it_can_pass_by_itself(
    response: dict[str, Any], *, transient: bool, requests_mock: Mocker
) -> None:
    requests_mock.get(ANY, [response])
    [outcome] = make().snapshots([BUSINESS])
    assert isinstance(outcome, SnapshotError)
    assert outcome.transient is transient
    with pytest.raises(SnapshotError) as failure:
        make().list_businesses("not-a-real-admin-token")
    assert failure.value.transient is transient


def test_a_business_with_a_known_problem_is_not_asked_for(requests_mock: Mocker) -> None:
    [outcome] = make().snapshots([Business("b-17", "", "the server does not list it")])
    assert str(outcome) == "the server does not list it"
    assert requests_mock.call_count == 0


def test_a_big_error_body_is_not_read_to_its_end(requests_mock: Mocker) -> None:
    body = io.BytesIO(b"<html>" + b"x" * (20 << 20))
    requests_mock.get(ANY, status_code=404, body=body)
    assert "404 Not Found" in str(make().fetch(BUSINESS))
    assert body.closed or body.tell() <= 2 << 20


@pytest.mark.parametrize(("url", "target"), [(URL, f"{URL}:443/x"), ("http://h.example", "http://h.example:80/x")])
def test_a_redirect_that_names_the_usual_port_stays_on_the_server(url: str, target: str, requests_mock: Mocker) -> None:
    requests_mock.get(ANY, [{"status_code": 302, "headers": {"Location": target}}, {"status_code": 401}])
    assert "redirected" not in str(make(api_url=url, headers={"X-Key": "k"}).fetch(BUSINESS))
    assert [request.headers["X-Key"] for request in requests_mock.request_history] == ["k", "k"]


def test_the_seconds_of_a_snapshot_include_tries_and_waits(
    requests_mock: Mocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    requests_mock.get(ANY, [{"status_code": 503, "headers": {"Retry-After": "40"}}, {"json": {"Instances": []}}])
    [outcome] = make(max_retries=1).snapshots([BUSINESS])
    assert isinstance(outcome, Snapshot)
    assert outcome.seconds == 40


def test_a_business_shows_no_token() -> None:
    assert BUSINESS.token not in f"{BUSINESS} {BUSINESS!r} {[BUSINESS]}"


def test_a_header_is_hidden_from_8_characters_on(requests_mock: Mocker) -> None:
    values = {"X-Long": "8letters", "X-Short": "7 signs", "X-Words": "Basic bm90LXJlYWw="}
    requests_mock.get(ANY, status_code=401, json={"message": "8letters, 7 signs, bm90LXJlYWw="})
    run = sync(settings(URL, headers=values))
    assert run.lines("ERROR")[0].endswith("The API says: ***, 7 signs, ***")


# ------------------------------------------------------------------------------------------------------------ secrets


@pytest.mark.parametrize(
    "written",
    [
        "A+b/c=d%e\"f\\g'h",
        "A%2Bb/c%3Dd%25e%22f%5Cg%27h",
        "A%2Bb%2Fc%3Dd%25e%22f%5Cg%27h",
        "A+b/c=d%e\\\"f\\\\g'h",
        "a+B/C=D%E\"F\\G'H",
    ],
    ids=["as it is", "in a URL", "in a path", "in JSON", "in another case"],
)
def test_a_token_is_hidden_however_it_is_written(written: str) -> None:
    scrub_logs(["A+b/c=d%e\"f\\g'h"])
    assert scrub(f"x {written} y") == "x *** y"


def test_the_longer_of_two_tokens_is_hidden_whole() -> None:
    scrub_logs(["long-token", "long-token-and-more"])
    assert scrub("x long-token-and-more y long-token z") == "x *** y *** z"


@pytest.mark.parametrize(
    ("line", "hidden"),
    [
        ("GET /x?token=abc&a=1 HTTP/1.1", "GET /x?token=***&a=1 HTTP/1.1"),
        ("'https://h/?a=1;api_key=abc' and", "'https://h/?a=1;api_key=***' and"),
        ("?a=token&code=1#f", "?a=token&code=***#f"),
        ("a token=abc", "a token=abc"),  # no URL: what stands in a sentence cannot be known
        ("?tok%65n=abc", "?tok%65n=***"),
    ],
)
def test_a_query_value_under_the_name_of_a_credential_is_hidden(line: str, hidden: str) -> None:
    assert scrub(line) == hidden


def test_every_handler_of_every_logger_hides_the_tokens() -> None:
    handlers = {name: logging.StreamHandler(io.StringIO()) for name in ("tap-instances", "urllib3", "someone.else")}
    for name, handler in handlers.items():
        logging.getLogger(name).addHandler(handler)
    try:
        for number in range(3):  # one tap after the other: none is forgotten
            TapInstances(config=settings(URL, auth_token=f"not-a-real-token-{number}"))
        for name, handler in handlers.items():
            logging.getLogger(name).error("not-a-real-token-0 not-a-real-token-2")
            assert handler.stream.getvalue().endswith("*** ***\n")
    finally:
        for name, handler in handlers.items():
            logging.getLogger(name).removeHandler(handler)


def test_structured_logging_hides_what_json_writes_otherwise(tmp_path: Path) -> None:
    token = "not\"a\\real'token"
    (tmp_path / "logging.yaml").write_text(
        json.dumps(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "formatters": {"structured": {"()": "singer_sdk.logging.StructuredFormatter"}},
                "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "structured"}},
                "root": {"level": "DEBUG", "handlers": ["console"]},
            }
        )
    )
    around = {"SINGER_SDK_LOG_CONFIG": str(tmp_path / "logging.yaml")}
    with FaultServer(echo(401), answer()) as server:
        run = run_cli(settings(server.url, auth_token=token, max_retries=0), env=around)
    assert run.returncode == 1
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    [error] = [line["message"] for line in lines if line["level"] == "error"]
    assert "no such token: ***" in error
    assert json.dumps(token)[1:-1] not in run.stderr
    assert not set(around) & set(SURROUNDINGS)
