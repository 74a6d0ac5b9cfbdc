"""Every row of the table of failures, over a real socket: what the server does, and what the tap must do about it.

Each fault says how often the business is asked for, and what the one ERROR line holds. The whole table runs once more
at DEBUG, in one process, to show that no token, header or body reaches an output.
"""

from __future__ import annotations

import gzip
import json
import socket
import time
from dataclasses import dataclass
from email.utils import formatdate
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import pytest

from tap_instances import client
from tests.kit.faults import (
    BUSINESS,
    GOOD,
    HEADER_MARK,
    TOKEN,
    FaultServer,
    answer,
    echo,
    head,
    leave_surroundings,
    raw,
    redirect,
    refusing,
    reset,
    settings,
    stall,
    trickle,
)
from tests.kit.support import run_cli, sync

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.faults import Act
    from tests.kit.support import Run

BODY_MARK: Final = "mark-of-a-body"  # in each body that is no message: must reach no output
PAGE: Final = f"<!doctype html><html><body>{BODY_MARK}</body></html>".encode()
HTML: Final[dict[str, Any]] = {"Content_Type": "text/html"}
GZIP: Final[dict[str, Any]] = {"Content_Encoding": "gzip"}
SQUEEZED: Final = gzip.compress(GOOD)
FIRST_HALF: Final = GOOD[: len(GOOD) // 2]
RETRIED: Final = 3  # requests, with max_retries 2
LENGTH: Final[dict[str, Any]] = {"Content_Length": len(GOOD)}
CHUNKED: Final[dict[str, Any]] = {"Transfer_Encoding": "chunked"}
UP: Final = "see that the server is up"
URL: Final = "check api_url"
SAY_HTTPS: Final = "change http to https in api_url"
AGAIN: Final = "(3 tries)"


@dataclass(frozen=True)
class Fault:
    """What the server does to each request in turn (the last one for ever), and what the tap must do."""

    name: str
    acts: tuple[Act, ...]
    asked: int  # requests in all
    words: tuple[str, ...] = ()  # in the one ERROR line; without words, the business is read whole
    max_retries: int = 2


def chunk(data: bytes) -> bytes:
    """Give one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def refused(status: int, *words: str, body: bytes | object, name: str = "", **headers: Any) -> Fault:  # noqa: ANN401
    """Make a row: an answer that is final."""
    return Fault(f"{status} {name}".strip(), (answer(status, body, **headers),), 1, (str(status), *words))


def passing(status: int, phrase: str) -> Fault:
    """Make a row: a status that can pass, with a page, as a proxy sends it."""
    return Fault(f"{status} page", (answer(status, PAGE, **HTML),), RETRIED, (f"{status} {phrase} {AGAIN}", UP))


def shape(body: object, *words: str) -> Fault:
    """Make a row: JSON of another shape."""
    return Fault(f"200 {json.dumps(body)[:40]}", (answer(200, body),), 1, (*words, URL))


NOTHING_SAID: Final = ""
MESSAGE: Final = {"error": "Bad Request", "statusCode": 400}
MESSAGES: Final[tuple[tuple[str, object, str], ...]] = (
    ("array", {**MESSAGE, "message": ["one thing", "another"]}, "The API says: one thing; another"),
    ("object", {**MESSAGE, "message": {"field": "id", "why": ["not", "known"]}}, "says: field: id, why: not, known"),
    ("array of objects", {**MESSAGE, "message": [{"property": "id"}, None]}, "The API says: property: id"),
    ("string", {**MESSAGE, "message": "no such business"}, "The API says: no such business"),
    ("no message, but an error", MESSAGE, "The API says: Bad Request"),
    ("lines", {"message": "one\nand\r\n\ttwo\u2028three\x1b[31m"}, "The API says: one and two three [31m"),
    ("long", {"message": "x" * 5000}, "x" * 500 + " …"),
    ("number", {"message": 17}, "The API says: 17"),
    ("messages", {"error": "unauthorized", "messages": ["expired", "renew it"]}, "The API says: expired; renew it"),
    ("empty message, then errors", {"message": "", "errors": [{"msg": "bad id"}]}, "The API says: msg: bad id"),
    ("detail", {"title": "Bad Request", "detail": "no such business"}, "The API says: no such business"),
    ("title", {"title": "Bad Request", "status": 400}, "The API says: Bad Request"),
    ("response", {"error": "x", "response": {"message": ["suspended"]}}, "The API says: suspended"),
    ("response of text", {"response": "suspended"}, "The API says: suspended"),
    ("empty response, then error", {"response": {"status": 400}, "error": "x"}, "The API says: x"),
    ("array of bodies", [{"message": "one"}, {"detail": ["two", "three"]}, None], "The API says: one; two; three"),
    ("a flag for an error", {"error": True, "statusCode": 400}, NOTHING_SAID),
    ("text", b"no such business\r\n", "The API says: no such business"),
    ("text as JSON", b'"no such business"', "The API says: no such business"),
    ("long text", b"x" * 28_000, "The API says: " + "x" * 500 + " \u2026"),
    ("lines of text", f"{BODY_MARK}\n{BODY_MARK}".encode(), NOTHING_SAID),
    ("half a JSON", b'{"message": "mark-of-a-body', NOTHING_SAID),
    ("half an array", b'["mark-of-a-body', NOTHING_SAID),
    ("text that is not UTF-8", "n\xe3o existe".encode("latin-1"), "The API says: n\ufffdo existe"),
    ("bytes", b"\x00\x01\x02", NOTHING_SAID),
    ("page", PAGE, "a web page answered"),
    ("nothing", b"", NOTHING_SAID),
    ("no object", [BODY_MARK], NOTHING_SAID),
    ("no message", {"statusCode": 400}, NOTHING_SAID),
    ("deep", b'{"message":' + b"[" * 900 + b"]" * 900 + b"}", NOTHING_SAID),
    ("too deep", b'{"message":' + b"[" * 90000 + b"]" * 90000 + b"}", NOTHING_SAID),
    ("bad gzip", b"no gzip", NOTHING_SAID),
)
# What to do about a status, when the API answers, and when a web page does.
STATUSES: Final = (
    (400, "400 Bad Request: check its business_id", URL),
    (401, "401 Unauthorized: check auth_token", "a gateway or proxy may have refused the request"),
    (403, "may want headers", "a gateway or proxy may have refused the request"),
    (404, "404 Not Found: check api_url (the server's base URL, without /api/v2) and business_id", URL),
    (407, "407 Proxy Authentication Required: put the proxy's user", "put the proxy's user"),
    (410, "410 Gone: check api_url", URL),
    (418, "418 I'm a Teapot: check api_url", URL),
    (499, "499 (no standard status): check api_url", URL),
)

# A part of a list: the rest must not be taken for gone.
NEXT: Final = "</api/v2/business/b-17/instance/connected?page=2>; "
PARTS: Final[tuple[tuple[str, int, dict[str, object], dict[str, Any]], ...]] = (
    ("its status is 206 Partial Content", 206, {}, {}),
    ("its Link header names a next page", 200, {}, {"Link": f'{NEXT}rel="next"'}),
    ("its Link header", 200, {}, {"Link": f"</p=1>; rel=first; title=\"x\", {NEXT}REL='last NEXT'"}),
    ("its totalPages tells of more pages", 200, {"totalRecords": 120, "totalPages": 3, "currentPage": 1}, {}),
    ("its meta.total_pages tells", 200, {"meta": {"total_pages": "2", "current_page": "1"}}, {}),
    ("its pagination.nextPage tells", 200, {"pagination": {"nextPage": 2}}, {}),
    ("its hasMore tells", 200, {"hasMore": True}, {}),
)
WHOLE: Final[dict[str, object]] = {"totalRecords": 3, "totalPages": 1, "currentPage": 1, "nextPage": None, "next": ""}


def partial(how: str, status: int, keys: dict[str, object], headers: dict[str, Any]) -> Fault:
    """Make a row: a list that is not whole, which is not retried."""
    act = answer(status, json.loads(GOOD) | keys, **headers)
    return Fault(how, (act,), 1, (f"the list in the response is not whole: {how}", "ask the server's operator"))


FAULTS: Final[tuple[Fault, ...]] = (
    # What passes: asked again.
    Fault("reset before the answer", (reset(),), RETRIED, ("reset by peer", AGAIN, UP, SAY_HTTPS)),
    Fault("reset in the headers", (reset(head(**LENGTH)[:40]),), RETRIED, ("Connection reset by peer", AGAIN, UP)),
    Fault("reset in the body", (reset(head(**LENGTH) + FIRST_HALF),), RETRIED, ("Connection reset by peer", AGAIN)),
    Fault("closed before the answer", (raw(b""),), RETRIED, ("closed the connection", AGAIN, UP, SAY_HTTPS)),
    Fault("no HTTP", (raw(b"SSH-2.0-OpenSSH_9.2\r\n"),), RETRIED, ("the response is not HTTP", AGAIN, UP)),
    Fault(
        "two lengths",
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),),
        RETRIED,
        ("the response is not HTTP", AGAIN),
    ),
    Fault("a status that is no number", (raw(b"HTTP/1.1 abc\r\n\r\n"),), RETRIED, ("the response is not HTTP", AGAIN)),
    Fault("too many headers", (raw(head(**{f"H{n}": n for n in range(200)})),), RETRIED, ("is not HTTP", AGAIN)),
    Fault("stalls before the headers", (stall(),), 2, ("no byte for 1 s (request_timeout) (2 tries)", UP), 1),
    Fault("stalls in the headers", (stall(head()[:40]),), 2, ("no byte for 1 s (request_timeout) (2 tries)",), 1),
    Fault("stalls in the body", (stall(head(**LENGTH) + FIRST_HALF),), 2, ("no byte for 1 s", "(2 tries)"), 1),
    Fault("stalls in a chunk", (stall(head(**CHUNKED) + b"fff\r\n{"),), 1, ("no byte for 1 s", "(1 try)"), 0),
    Fault("cut by length", (raw(head(**LENGTH) + FIRST_HALF),), RETRIED, ("the response was cut short", AGAIN, UP)),
    Fault("cut by length, empty", (raw(head(**LENGTH)),), RETRIED, ("the response was cut short", AGAIN, UP)),
    Fault("cut in a chunk", (raw(head(**CHUNKED) + chunk(GOOD)[:-300]),), RETRIED, ("cut short", AGAIN)),
    Fault("cut between chunks", (raw(head(**CHUNKED) + chunk(GOOD)),), RETRIED, ("the response was cut short", AGAIN)),
    Fault("a chunk of less than nothing", (raw(head(**CHUNKED) + b"-5\r\n" + GOOD),), RETRIED, ("cut short", AGAIN)),
    Fault("500 of a chunk of less than nothing", (raw(head(500, **CHUNKED) + b"-5\r\n"),), RETRIED, ("500 ", AGAIN)),
    Fault("no chunk's length", (raw(head(**CHUNKED) + b"zz\r\n" + GOOD),), RETRIED, ("cut short", AGAIN)),
    Fault("cut by closing", (raw(head() + FIRST_HALF),), RETRIED, ("the response is not JSON", AGAIN, "operator")),
    Fault("bad gzip", (answer(200, BODY_MARK.encode(), **GZIP),), RETRIED, ("compression is broken", AGAIN)),
    Fault("truncated gzip", (raw(head(**GZIP) + SQUEEZED[: len(SQUEEZED) // 2]),), RETRIED, ("not JSON", AGAIN)),
    Fault("200 page", (answer(200, PAGE, **HTML),), RETRIED, ("the response is a web page, not JSON", AGAIN, URL)),
    Fault("200 page that says JSON", (answer(200, b"\xef\xbb\xbf \n" + PAGE),), RETRIED, ("a web page", AGAIN, URL)),
    Fault("200 nothing", (answer(200, b""),), RETRIED, ("the response is empty", AGAIN, "operator")),
    Fault("200 blanks", (answer(200, b" \r\n"),), RETRIED, ("the response is empty", AGAIN)),
    Fault("200 text", (answer(200, BODY_MARK.encode()),), RETRIED, ("the response is not JSON", AGAIN)),
    Fault("200 half a JSON", (answer(200, FIRST_HALF),), RETRIED, ("the response is not JSON", AGAIN)),
    Fault("200 JSON and more", (answer(200, GOOD + b"}"),), RETRIED, ("the response is not JSON", AGAIN)),
    Fault("200 NaN", (answer(200, b'{"Instances": [{"instanceId": NaN}]}'),), RETRIED, ("not JSON", AGAIN)),
    Fault("200 only NaN", (answer(200, b"NaN"),), RETRIED, ("the response is not JSON", AGAIN)),
    Fault("204", (answer(204, b""),), RETRIED, ("the response is empty", AGAIN)),
    Fault(
        "unknown encoding",
        (answer(200, b"\x8b\x05\x80", Content_Encoding="br"),),
        1,
        ("Content-Encoding br", "send gzip"),
    ),
    Fault("said to be encoded", (answer(200, GOOD, Content_Encoding="utf-8"),), 1),
    *(partial(*part) for part in PARTS),
    Fault("a broken header", (raw(head(**{"Content-Length": len(GOOD)})[:-2] + b"no colon\r\n\r\n" + GOOD),), 1),
    Fault("one page of one", (answer(200, json.loads(GOOD) | WHOLE, Link='</>; rel="first prev last"'),), 1),
    refused(400, SAY_HTTPS, body=b"<html><h1>The plain HTTP request was sent to HTTPS port</h1>", name="nginx TLS"),
    refused(400, SAY_HTTPS, body=b"Client sent an HTTP request to an HTTPS server.\n", name="Go TLS"),
    passing(408, "Request Timeout"),
    passing(429, "Too Many Requests"),
    passing(500, "Internal Server Error"),
    passing(502, "Bad Gateway"),
    passing(503, "Service Unavailable"),
    passing(504, "Gateway Timeout"),
    passing(599, "(no standard status)"),
    Fault("500 message", (answer(500, {"message": "db is down"}),), RETRIED, ("500", "The API says: db is down")),
    Fault("500 cut", (raw(head(500, **LENGTH) + b"{"),), RETRIED, ("500 Internal Server Error", AGAIN)),
    Fault("503 once, then 401", (answer(503, b""), answer(401, b"")), 2, ("401 Unauthorized", "check auth_token")),
    # What passed.
    Fault("recovers at the last try", (answer(503, b""), reset(), answer()), RETRIED),
    Fault("recovers from a cut body", (raw(head(**LENGTH) + FIRST_HALF), answer()), 2),
    # What is no fault.
    Fault("slow but steady", (trickle(head(**LENGTH) + GOOD, pieces=5, pause=0.4),), 1),
    Fault("good gzip", (answer(200, SQUEEZED, **GZIP),), 1),
    Fault("gzip in chunks", (raw(head(**GZIP, **CHUNKED) + chunk(SQUEEZED) + b"0\r\n\r\n"),), 1),
    Fault("chunks", (raw(head(**CHUNKED) + chunk(FIRST_HALF) + chunk(GOOD[len(FIRST_HALF) :]) + b"0\r\n\r\n"),), 1),
    Fault("neither length nor chunks", (raw(head() + GOOD),), 1),
    Fault("another Content-Type", (answer(200, GOOD, Content_Type="text/html"),), 1),
    Fault("no Content-Type", (answer(200, GOOD, Content_Type=None),), 1),
    Fault("a byte order mark", (answer(200, b"\xef\xbb\xbf" + GOOD),), 1),
    Fault("redirected within the server", (redirect("?again"), answer()), 2),
    # What does not pass: asked once.
    *(refused(status, advice, body=b"") for status, advice, _ in STATUSES),
    *(refused(status, advice, "(a web page answered)", body=PAGE, name="page") for status, _, advice in STATUSES),
    *(
        refused(400, said, body=body, name=name, **(GZIP if name == "bad gzip" else {}))
        for name, body, said in MESSAGES
    ),
    refused(304, URL, body=b""),
    refused(300, URL, body=PAGE),
    refused(103, URL, body=b"", name="with no answer after it", Content_Length=None),
    shape([1], "the response is an array"),
    shape(None, "the response is null"),
    shape(BODY_MARK, "the response is a string"),
    shape(17, "the response is a number"),
    shape(True, "the response is a boolean"),  # noqa: FBT003
    shape({}, "Instances is missing"),
    shape({"Instances": None}, "Instances is null", "not taken for 'nothing is connected'"),
    shape({"Instances": {}}, "Instances is an object"),
    shape({"Instances": BODY_MARK}, "Instances is a string"),
    shape({"Instances": 0}, "Instances is a number"),
    shape({"instances": []}, "Instances is missing"),
    shape({"statusCode": 500, "message": ["overloaded"]}, "Instances is missing", "The API says: overloaded"),
    Fault("200 too deep", (answer(200, b"[" * 100_000 + b"]" * 100_000),), 1, ("nested deeper", "operator")),
    Fault("redirected for ever", (redirect("?again"),), 31, ("redirected too often", URL)),
    *(
        # Quoted: pytest escapes an id once more in each collection of a process, and mutmut would not find it again.
        Fault(
            f"redirected to {quote(target)}",
            (redirect(target),),
            1,
            ("redirected to something other than http(s)", URL),
        )
        for target in ("file:///etc/passwd", "mailto:a@b", "http://[", "http://h:99999/", "http://\xff/", "http://.x/")
    ),
    Fault("a redirect without a target", (answer(302, b"", Location=None),), 1, ("302 Found", URL)),
)


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leave_surroundings(monkeypatch, str(tmp_path))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the client's waiting take no time; give what it would have waited."""
    waited: list[float] = []
    clock = SimpleNamespace(sleep=waited.append, monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr(client, "time", clock)
    return waited


def check_one_line(run: Run, words: tuple[str, ...]) -> None:
    """Check that a run failed as a person wants it: in one line, with these words."""
    [line] = run.lines("ERROR")
    assert f"business {BUSINESS}: " in line
    for word in words:
        assert word in line
    if NOTHING_SAID in words:
        assert "The API says" not in line
    assert "unexpected" not in run.stderr
    check_discretion(run)


def check_discretion(run: Run) -> None:
    """Check that nothing of what was sent and answered stands where it must not."""
    everything = run.stdout + run.stderr
    for mark in (TOKEN, HEADER_MARK, BODY_MARK, "Traceback", "Bearer"):
        assert mark not in everything


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_is_answered_as_the_table_says(fault: Fault, waits: list[float]) -> None:
    with FaultServer(*fault.acts) as server:
        run = sync(settings(server.url, max_retries=fault.max_retries))
        assert server.asked() == fault.asked
    if fault.words:
        assert run.returncode == 1
        assert run.of("RECORD") == []
        check_one_line(run, fault.words)
    else:
        assert run.returncode == 0
        assert [len(run.records(stream)) for stream in ("businesses", "webhooks")] == [1, 3]
        assert run.lines("ERROR") == []
    check_discretion(run)
    expected = 0 if "redirected" in fault.name else fault.asked - 1
    assert len(waits) == len(run.lines("WARNING")) - ("withheld" in run.stderr) == expected


def test_a_refused_connection_is_tried_again(waits: list[float]) -> None:
    with refusing() as url:
        run = sync(settings(url))
    assert run.returncode == 1
    assert len(waits) == 2
    for number, line in zip((2, 3), run.lines("WARNING"), strict=True):
        assert f"business {BUSINESS}: the connection failed (Connection refused); try {number} of 3 in " in line
    check_one_line(run, ("the connection failed (Connection refused) (3 tries)", UP))


def test_a_name_without_an_address_is_tried_again(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_address(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    run = sync(settings("https://codechat.example.com"))
    assert run.returncode == 1
    assert len(waits) == 2
    check_one_line(run, ("the host name has no address (3 tries): check the host in api_url", "DNS"))


@pytest.mark.parametrize("max_retries", [0, 1, 7])
def test_max_retries_is_exact(max_retries: int, waits: list[float]) -> None:
    with FaultServer(answer(503, b"")) as server:
        sync(settings(server.url, max_retries=max_retries))
        assert server.asked() == max_retries + 1
    assert len(waits) == max_retries


def test_the_wait_doubles_with_jitter_up_to_a_minute(waits: list[float]) -> None:
    with FaultServer(answer(503, b"")) as server:
        sync(settings(server.url, max_retries=12))
    for attempt, wait in enumerate(waits):
        most = min(2**attempt, 60)
        assert most / 2 <= wait <= most
    assert len({wait / min(2**attempt, 60) for attempt, wait in enumerate(waits)}) > 1  # no two tries in step


@pytest.mark.parametrize("status", [429, 503, 500, 408])
@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 7, 7),
        (" 300 ", 300, 300),
        ("in 40 s", 30, 40),  # as a date
        ("0", 0.5, 1),  # no reason to hurry: as if it were not there
        ("in 40 s, as asctime writes it", 30, 40),
        ("40 s ago", 0.5, 1),
        ("soon", 0.5, 1),
        ("-5", 0.5, 1),
        ("1.5", 0.5, 1),
        ("", 0.5, 1),
        ("Wed, 99 Foo 2026 99:99:99 GMT", 0.5, 1),
        ("Fri, 01 Jan 99999 00:00:00 GMT", 0.5, 1),  # a year that no clock has
        ("Fri, 01 Jan 99999999999 00:00:00", 0.5, 1),
        ("\xb2", 0.5, 1),  # a digit, but not an ASCII one
    ],
)
def test_retry_after_is_honoured(status: int, value: str, least: float, most: float, waits: list[float]) -> None:
    if value.endswith("ago"):
        value = formatdate(time.time() - 40, usegmt=True)
    if value.startswith("in"):
        written = formatdate if value == "in 40 s" else lambda at, usegmt: time.asctime(time.gmtime(at))  # noqa: ARG005
        value = written(time.time() + 40, usegmt=True)
    with FaultServer(answer(status, b"", Retry_After=value), answer()) as server:
        assert sync(settings(server.url)).returncode == 0
    [wait] = waits
    assert least <= wait <= most


@pytest.mark.parametrize("value", ["301", "86400", "9" * 400, "in a day"])
def test_a_retry_after_of_more_than_five_minutes_ends_the_business_at_once(value: str, waits: list[float]) -> None:
    if value == "in a day":
        value = formatdate(time.time() + 86400, usegmt=True)
    with FaultServer(answer(429, {"message": "slow down"}, Retry_After=value)) as server:
        run = sync(settings(server.url))
        assert server.asked() == 1
    assert waits == []
    words = (
        "429 Too Many Requests (1 try): the server asks to wait",
        "run again after that",
        "The API says: slow down",
    )
    check_one_line(run, words)


def test_no_record_leaves_before_the_body_is_whole(waits: list[float]) -> None:
    instances = [{"instanceId": str(number), "name": "x" * 1000, "Webhook": []} for number in range(3000)]
    body = json.dumps({"Instances": instances}).encode()  # some three pages, and more than any buffer
    with FaultServer(raw(head(Content_Length=len(body)) + body[:-10])) as server:
        run = sync(settings(server.url))
    assert len(waits) == 2
    assert [message["type"] for message in run.messages if message["type"] not in {"SCHEMA", "STATE"}] == []
    check_one_line(run, ("the response was cut short",))


# The three mistakes that everybody makes once, against the demo's CodeChat, as a process.
@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ({"auth_token": "of-another-business"}, ("401 Unauthorized: check auth_token", "The API says: Unauthorized")),
        ({"business_id": "nobody"}, ("400 Bad Request: check its business_id", "The API says: businessId must be")),
        ({"api_url": "{url}/app"}, ("404 Not Found: check api_url", "The API says: Cannot GET /app/api/v2")),
    ],
    ids=["token", "business", "URL"],
)
def test_each_wrong_setting_gets_its_own_advice(mistake: dict[str, str], words: tuple[str, ...]) -> None:
    from demo.codechat import CodeChat, World  # noqa: PLC0415

    world = World.seeded(3, businesses=1)
    [(business_id, business)] = world.businesses.items()
    with CodeChat(world) as server:
        config = {"api_url": server.url, "business_id": business_id, "auth_token": business.token}
        config |= {name: value.format(url=server.url) for name, value in mistake.items()}
        run = run_cli(config)
        assert len(server.requests) == 1
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert all(word in line for word in words)
    assert config["auth_token"] not in run.stdout + run.stderr


# ------------------------------------------------------------------------------------------------------------ secrets

JWT: Final = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJub2JvZHkifQ.not-a-real-signature"
ECHOES: Final[tuple[Act, ...]] = (
    *(echo(status) for status in (200, 400, 401, 404, 418, 500)),
    redirect("http://{token}.example/{token}?q={token}&token=of-a-url"),
    redirect(f"http://user:password-of-a-url@127.0.0.1:1/?access_token=of-a-url&a={JWT}"),
    redirect(f"/?token=of-a-url&jwt={JWT}"),
    answer(401, {"message": f"Bearer {JWT} has expired", "jwt": JWT}),
    answer(400, {"message": {"token": "of-a-url", "authorization": "of-a-url", "url": "x://u:password-of-a-url@h"}}),
    answer(200, {"Instances": JWT, "message": f"see https://h/?token=of-a-url&jwt={JWT}"}),
)
HIDDEN: Final = (TOKEN, TOKEN.upper(), JWT, "not-a-real-signature", "of-a-url")


@pytest.mark.parametrize("number", range(len(ECHOES)))
def test_a_server_that_echoes_secrets_does_not_leak_them(
    number: int, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(ECHOES[number]) as server, FaultServer(answer(401, b"")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)  # gets what is redirected to hosts that do not exist
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        run = sync(settings(server.url, max_retries=1))
    assert run.returncode == 1
    assert len(run.lines("ERROR")) == 1
    assert len(waits) in {0, 1}
    assert [secret for secret in HIDDEN if secret in run.stdout + run.stderr] == []


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 40, 495, 505, 2000, 8000])
@pytest.mark.parametrize("alphabet", ["Zq9", "A+/=", "%2F\"'\\", "-._~"])
def test_a_token_of_any_length_is_hidden(length: int, alphabet: str) -> None:
    token = (alphabet * length)[:length]

    def act(connection: Any) -> None:  # noqa: ANN401
        assert connection.request.headers["authorization"] == f"Bearer {token}"
        answer(400, {"message": [f"who is {token} ?", f"and ({token})", "." * 300, token]})(connection)

    with FaultServer(act) as server:
        run = sync(settings(server.url, auth_token=token))
    [line] = run.lines("ERROR")
    said = line.partition("The API says: ")[2]
    assert said.startswith("who is *** ?; and (***); ....")
    assert length < 8 or token[:8] not in said  # a shorter one is a part of other words, perhaps


def test_no_half_of_a_token_is_left_of_a_long_encoding() -> None:
    with FaultServer(answer(200, b"\x8b", Content_Encoding=f"{'x' * 30}{TOKEN}")) as server:
        [line] = sync(settings(server.url)).lines("ERROR")
    assert f"Content-Encoding {'x' * 30}***, which is not supported" in line


def test_the_whole_table_leaks_nothing_at_debug() -> None:
    faults = {f"fault-{number}": fault.acts for number, fault in enumerate(FAULTS)}
    faults |= {f"echo-{number}": (act,) for number, act in enumerate(ECHOES)}
    tokens = {business: f"{TOKEN}-{business}-end" for business in faults}
    with FaultServer(answer(401, b""), businesses=faults) as server:
        config = {
            "api_url": server.url,
            "businesses": [{"business_id": business, "auth_token": token} for business, token in tokens.items()],
            "concurrency": 20,
            "request_timeout": 1,
            "max_retries": 0,
        }
        around = {"HTTP_PROXY": server.url, "NO_PROXY": "127.0.0.1"}  # for redirects to hosts that do not exist
        run = run_cli(config, env={"TAP_INSTANCES_LOGLEVEL": "DEBUG", "LOGLEVEL": "DEBUG"} | around)
        assert {request.business for request in server.requests} >= faults.keys()
    assert run.returncode == 1
    assert run.lines("DEBUG")
    everything = (run.stdout + run.stderr).lower()
    hidden = (
        TOKEN,
        HEADER_MARK,
        BODY_MARK,
        JWT,
        "not-a-real-signature",
        "password-of-a-url",
        "=of-a-url",
        "unexpected",
    )
    assert [secret for secret in hidden if secret.lower() in everything] == []
    [summary] = [line for line in run.lines("ERROR") if "businesses failed" in line]
    assert len(run.lines("ERROR")) == 1 + int(summary.partition(" businesses failed")[0].split()[-3])
