"""Mutated answers, thousands of them, at the whole tap: nothing crashes, nothing is lost, nothing secret leaves.

Each example is a documented body that was damaged: types swapped, keys dropped, added and renamed, items repeated, text
that no database likes. Every scalar in it carries a mark of its own, so that the test can follow it: it is in a RECORD,
or stands under a path that the WARNING names as withheld, or in an item that an ERROR names. A mark under the name of
a credential is in no output at all. Every line is valid JSON, and every RECORD valid against its SCHEMA.
"""

from __future__ import annotations

import copy
import gzip
import json
import logging
import os
import re
from collections import Counter
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from typing_extensions import override

from tap_instances import run
from tap_instances.client import Client
from tap_instances.columns import api_columns
from tap_instances.failures import SnapshotError
from tap_instances.redact import is_secret_name
from tests.kit.faults import BUSINESS, GOOD, TOKEN, FaultServer, answer, head, leave_surroundings, raw, trickle
from tests.kit.faults import settings as tap_settings
from tests.kit.support import CONNECTED, Run, sync
from tests.kit.wire import read_body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

    from tap_instances.businesses import Business
    from tap_instances.responses import Snapshot
    from tests.kit.faults import Act

EXAMPLES: Final = 2000 if os.environ.get("CI") else 300
RAN: Final[Counter[str]] = Counter()  # what the suite did, for its last line


def fuzz(examples: int) -> settings:
    """Throw so many examples, new ones each time; a failure prints how to repeat it."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=False,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.fixture(scope="module", autouse=True)
def _count(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    plugins = request.config.pluginmanager
    reporter: Any = plugins.get_plugin("terminalreporter")
    capture: Any = plugins.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        reporter.write_line("\nfuzz: " + ", ".join(f"{number} {what}" for what, number in sorted(RAN.items())))


# ------------------------------------------------------------------------------------------------- what is thrown at it

HOSTILE: Final = [
    *("", " ", "\x00", "a\x00b", "\ud800", "\udc00\ud800", "\ud83d", "\ud83e\udd56", "\u2028", "\ufeff", "\u202e"),
    *(
        '"',
        "\\",
        "\\u0000",
        "\\ud800",
        "/",
        "\t",
        "\r\n",
        "\x1b[31m",
        "\x7f",
        "%s %(x)s {0} {}",
        "<script>",
        "' OR 1=1",
    ),
    *("null", "true", "NaN", "1e5", "0", "-", "é", "e\u0301", "ß", "İ", "🥖", "e", ".", "=", "a.b", "[]", "x" * 300),
]
KNOWN: Final = [
    *("businessId", "name", "Instances", "instanceId", "state", "connection", "createdAt", "deletedAt", "updatedAt"),
    *("Auth", "authId", "jwt", "WhatsApp", "whatsappId", "remoteJid", "pictureUrl", "pushName", "Webhook", "url"),
    *("enabled", "webhookId", "instanceInstanceId", "WebhookEvents", "webhookEventsId", "newJwt", "sendMessage"),
]
NEW: Final = [
    *("newThing", "new_thing", "additional_properties", "observed_at", "business_id", "deleted_at", "instance_id"),
    *(
        "auth_jwt",
        "__class__",
        "_sdc_x",
        "$ref",
        "Auth.jwt",
        "WhatsApp.name",
        "WhatsApp.pushName",
        "WhatsApp.createdAt",
    ),
    *("a.b", "a[]", "a,b", "a: b", "a b", "keyword"),
    *HOSTILE,
]
SECRET: Final = [
    *("token", "my.token.x", "token.of.it", "accessToken", "access_token", "ACCESS-TOKEN", "jwt", "idJWT", "secret"),
    *("clientSecret", "password", "PASSWD", "passwd", "apikey", "Api-Key", "api_key", "authorization", "credentials"),
    *("cookie", "Set-Cookie", "t\x00oken", "to_ken", "token\ud800", "pwd", "x-auth", "KEY"),
]
TIMES: Final[list[Callable[[datetime], str]]] = [
    lambda time: time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    lambda time: time.strftime("%Y-%m-%d %H:%M:%S.%f"),
    lambda time: time.strftime("%Y-%m-%dT%H:%M:%S.%f000+00:00"),
    lambda time: (time + timedelta(hours=5, minutes=30)).strftime("%Y-%m-%dT%H:%M:%S.%f+05:30"),
    lambda time: (time - timedelta(hours=3)).strftime("%Y-%m-%dt%H:%M:%S.%f-03:00"),
]
URLS: Final = [
    "https://user:p{hide}@h.example/{keep}",
    "https://h.example/{keep}?a=1&Access-Token={hide}#f",
    "wss://h/{keep}?key={hide}&b=2&sig={hide}",
    "postgres://u:{hide}@h/{keep}?x={keep}",
]
JWT: Final = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJub2JvZHkifQ."
NUMBERS: Final = [
    "{}",
    "-{}",
    "{}.5",
    "0.{}",
    "{}e300",
    "-{}E-7",
    "{}.0",
    "1.{}e5000",
    "{}" + "0" * 30,
    "{}" + "0" * 5000,
]


class Mark(str):
    """A scalar of the body that can be found again, by the `~number~` in it."""

    __slots__ = ("hidden", "number")
    number: int
    hidden: int  # the number of a mark in a URL's password or query, or 0

    def __new__(cls, number: int, text: str, hidden: int = 0) -> Self:
        """Keep a text that has the mark in it."""
        self = super().__new__(cls, text)
        self.number, self.hidden = number, hidden
        return self

    def __deepcopy__(self, memo: Any) -> Self:  # noqa: ANN401
        """Return itself: it does not change."""
        return self


class Number(Mark):
    """A number of any size, as JSON writes it; its digits are the mark."""

    __slots__ = ()


class Time(Mark):
    """A time; what it is as an instant is the mark."""

    __slots__ = ()

    @property
    def instant(self) -> datetime:
        """The instant, which no other mark has."""
        return datetime(2025, 1, 1, tzinfo=timezone.utc) + timedelta(days=self.number, microseconds=self.number)


def digits(number: int) -> str:
    """Give what marks a number: stands in no id by chance."""
    return f"98765{number}56789"


class Body:
    """A body, and what has been put into it."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        """Start from the documented one, each of its scalars marked."""
        self.draw = draw
        self.marks = 1000
        self.top = self.marked(_connected())

    def one_of(self, choices: list[Any]) -> Any:  # noqa: ANN401
        """Draw one of these."""
        return choices[self.draw(st.integers(0, len(choices) - 1))]

    def next(self) -> int:
        """Give a number that no other mark has."""
        self.marks += 2
        return self.marks

    def marked(self, value: Any) -> Any:  # noqa: ANN401
        """Mark every scalar of a documented body."""
        if isinstance(value, dict):
            return {key: self.marked(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.marked(item) for item in value]
        if not isinstance(value, str):
            return value
        number = self.next()
        if re.match(r"\d{4}-\d\d-\d\dT", value):
            return self.time(number, TIMES[0])
        return Mark(number, f"{value}&x=~{number}~" if "?" in value else f"{value}/~{number}~")

    @staticmethod
    def time(number: int, written: Callable[[datetime], str]) -> Time:
        """Make a time that is only once in the body."""
        return Time(number, written(Time(number, "").instant))

    def scalar(self) -> Any:  # noqa: ANN401
        """Make a scalar of any kind."""
        kind, number = self.draw(st.integers(0, 9)), self.next()
        if kind <= 3:
            return Mark(number, f"{self.one_of(HOSTILE)}~{number}~{self.one_of(HOSTILE)}")
        if kind == 4:
            return self.time(number, self.one_of(TIMES))
        if kind == 5:
            return Number(number, self.one_of(NUMBERS).format(digits(number)))
        if kind == 6:
            return Mark(number, self.one_of(URLS).format(keep=f"~{number}~", hide=f"~{number + 1}~"), hidden=number + 1)
        if kind == 7:
            return Mark(number, f"{JWT}~{number}~")
        return self.one_of([None, True, False, ""])

    def value(self, depth: int = 0) -> Any:  # noqa: ANN401
        """Make a JSON value."""
        kind = self.draw(st.integers(0, 9)) if depth < 3 else 0
        if kind <= 5:
            return self.scalar()
        if kind == 6 and depth == 0:
            value, levels = self.value(2), self.one_of([5, 98, 99, 100, 101, 102, 150, 200])
            key = self.key()
            for _ in range(levels):
                value = [value] if self.draw(st.booleans()) else {key: value}
            return value
        if kind == 7:
            return [self.value(depth + 1) for _ in range(self.draw(st.integers(0, 3)))]
        return {self.key(): self.value(depth + 1) for _ in range(self.draw(st.integers(0, 3)))}

    def key(self) -> str:
        """Make a key: a known one, a new one, a credential's."""
        key: str = self.one_of(self.one_of([KNOWN, NEW, NEW, SECRET]))
        return key

    def mutate(self) -> None:
        """Damage the body somewhere."""
        nodes = list(_containers(self.top))
        node = nodes[self.draw(st.integers(0, len(nodes) - 1))]
        places: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        place = self.one_of(places) if places else None
        kind = self.draw(st.integers(0, 9))
        if kind <= 2 or place is None:  # something new
            if isinstance(node, dict):
                node[self.key()] = self.value()
            else:
                node.insert(self.draw(st.integers(0, len(node))), self.value())
        elif kind <= 5:  # another type
            node[place] = self.value()
        elif kind == 6:  # gone
            del node[place]
        elif kind == 7 and isinstance(node, dict):  # under another name
            node[self.key()] = node.pop(place)
        elif kind == 8:  # one level up or down
            node[place] = self.one_of([[node[place]], {self.key(): node[place]}, _inside(node[place])])
        else:  # once more, at the same place or at another
            other = nodes[self.draw(st.integers(0, len(nodes) - 1))]
            again = copy.deepcopy(node[place])
            if isinstance(other, list):
                other.append(again)
            else:
                other[self.key()] = again


def _containers(value: Any) -> Iterator[Any]:  # noqa: ANN401
    if isinstance(value, (dict, list)):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _containers(item)


def _inside(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict) and value:
        return next(iter(value.values()))
    return value[0] if isinstance(value, list) and value else value


@cache
def _connected() -> Any:  # noqa: ANN401
    body = json.loads(CONNECTED.read_text(encoding="utf-8"))
    body["businessId"] = BUSINESS
    return body


class Example:
    """A damaged body."""

    def __init__(self, body: Any, *, ascii_only: bool) -> None:  # noqa: ANN401
        """Write it down."""
        self.body = body
        self.raw = dumps(body, ascii_only=ascii_only).encode()

    @override
    def __repr__(self) -> str:
        return f"Example({self.raw!r})"


@st.composite
def examples(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Example:
    """Make a damaged body."""
    body = Body(draw)
    for _ in range(draw(st.integers(1, 8))):
        body.mutate()
    if not isinstance(body.top.get("Instances"), list) and draw(st.integers(0, 3)):
        body.top["Instances"] = body.marked(_connected()["Instances"])  # else all ends there
    return Example(body.top, ascii_only=draw(st.booleans()))


# -------------------------------------------------------------------------------------------------------- the wire


def dumps(value: Any, *, ascii_only: bool) -> str:  # noqa: ANN401
    """Write JSON, numbers as they are meant."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        items = [
            f"{dumps(key, ascii_only=ascii_only)}:{dumps(item, ascii_only=ascii_only)}" for key, item in value.items()
        ]
        return f"{{{','.join(items)}}}"
    if isinstance(value, list):
        return f"[{','.join([dumps(item, ascii_only=ascii_only) for item in value])}]"
    text = json.dumps(value, ensure_ascii=ascii_only)
    return text if text.isascii() or not re.search("[\ud800-\udfff]", text) else json.dumps(value)


def run_on(raw_body: bytes, *, state: dict[str, Any] | None = None, include_secrets: bool = False) -> Run:
    """Run the tap on this body, which comes from the client's last step, not from a socket."""

    def fetch(_: Client, __: Business) -> Snapshot | SnapshotError:
        try:
            return read_body(raw_body, datetime.now(timezone.utc))
        except SnapshotError as failure:
            return failure.final(1, [])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "fetch", fetch)
        patch.setattr(logging.getLogger(), "handlers", [])  # else pytest keeps every line of every example
        patch.setattr(run, "some", lambda paths: json.dumps(list(paths)))  # all of them
        return sync(tap_settings("http://127.0.0.1:1", include_secrets=include_secrets), state=state)


# ------------------------------------------------------------------------------------------------------- what must hold


@cache
def validator(schema: str) -> Draft202012Validator:
    """Compile a SCHEMA's schema, once."""
    Draft202012Validator.check_schema(json.loads(schema))
    return Draft202012Validator(json.loads(schema), format_checker=Draft202012Validator.FORMAT_CHECKER)


def no_constant(name: str) -> None:
    """Refuse NaN and Infinity."""
    raise AssertionError(name)


def check_messages(done: Run) -> list[Any]:
    """Check that each line is valid JSON and each RECORD valid against its SCHEMA; give the records."""
    schemas: dict[str, Draft202012Validator] = {}
    rows: list[Any] = []
    assert "\\u0000" not in done.stdout.replace("\\\\", "")
    for line in done.stdout.removesuffix("\n").split("\n"):
        message = json.loads(line, parse_constant=no_constant, parse_int=Decimal, parse_float=Decimal)
        if message["type"] == "SCHEMA":
            schemas[message["stream"]] = validator(json.dumps(json.loads(line)["schema"], sort_keys=True))
        elif message["type"] == "RECORD":
            schemas[message["stream"]].validate(json.loads(line)["record"])  # an integer is one there
            rows.append(message["record"])
    return rows


def check_log(done: Run) -> None:
    """Check that the log speaks to people, and that the exit code agrees with it."""
    for words in ("unexpected", "Traceback", TOKEN):
        assert words not in done.stderr
    assert done.returncode == bool(done.lines("ERROR "))
    for line in done.lines("ERROR "):
        assert f"business {BUSINESS}: " in line


class Found:
    """Which marks came out, and how."""

    def __init__(self, rows: list[Any]) -> None:
        """Look at every scalar of every record."""
        self.strings: dict[str, set[str]] = {}
        self.numbers: set[Decimal] = set()
        self.times: set[str] = set()
        self.deep = ""  # what is nested too deep is kept as its JSON text
        for _, scalar in scalars(rows):
            if isinstance(scalar, Decimal):
                self.numbers.add(scalar)
            elif isinstance(scalar, str):
                for mark in set(re.findall("~([0-9]+)~", scalar)):
                    self.strings.setdefault(mark, set()).add(scalar)
                if scalar[4:5] == "-":
                    self.times.add(scalar)
                if scalar[:1] in {"[", "{"}:
                    self.deep += scalar
                if "98765" in scalar:  # a number in a text column, or in what is nested deep
                    for word in re.findall(r"-?[0-9][0-9.]*(?:[eE][-+]?[0-9]+)?", scalar):
                        self.numbers.add(Decimal(word))

    def unchanged(self, mark: Mark) -> bool:
        """Tell whether a text that came out did so as it was; URLs, and what is nested deep, are not looked at."""
        texts = self.strings.get(str(mark.number), set())
        return type(mark) is not Mark or "://" in mark or clean(mark) in texts or any(text[0] in "[{" for text in texts)

    def __contains__(self, mark: Mark) -> bool:
        """Tell whether a mark came out."""
        if isinstance(mark, Number):
            return Decimal(mark) in self.numbers
        if isinstance(mark, Time):
            written = mark.instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            return str(mark) in self.times or written in self.times or str(mark) in self.deep
        return str(mark.number) in self.strings


def scalars(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:  # noqa: ANN401
    """Give every scalar and where it stands."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from scalars(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from scalars(item, (*path, index))
    else:
        yield path, value


def place(path: tuple[Any, ...], body: dict[str, Any]) -> tuple[list[str], str, tuple[Any, ...]]:
    """Give where a scalar stands: in which items of the lists, in which stream's object, and under which keys there."""
    if path[0] != "Instances":
        return [], "businesses", path
    items, rest = [f"Instances[{path[1]}]"], path[2:]
    instance = body["Instances"][path[1]]
    hooks = instance.get("Webhook") if rest and rest[0] == "Webhook" else None
    if not isinstance(hooks, (dict, list)):
        return items, "instances", rest
    index, keys = (0, rest[1:]) if isinstance(hooks, dict) else (rest[1], rest[2:])
    items.append(f"{items[0]}.Webhook[{index}]")
    hook = hooks if isinstance(hooks, dict) else hooks[index]
    if keys and keys[0] == "WebhookEvents" and isinstance(hook["WebhookEvents"], dict):
        return items, "webhook_events", keys[1:]
    return items, "webhooks", keys


def clean(text: str) -> str:
    """Give a text as UTF-8 and PostgreSQL can carry it."""
    return text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def is_secret(key: Any) -> bool:  # noqa: ANN401
    """Tell whether a key is a credential's."""
    return isinstance(key, str) and is_secret_name(clean(key))


def names(stream: str, keys: tuple[Any, ...]) -> set[str]:
    """Give the names under which a WARNING may name this place, or one around it."""
    result, name = set(), stream
    for key in keys:
        name += "[]" if isinstance(key, int) else f".{clean(key)}"
        result.add(name)
    return result


def check_fates(body: Any, done: Run, *, include_secrets: bool) -> None:  # noqa: ANN401
    """Check that every scalar is in a RECORD, withheld and named, or in an item that an ERROR names."""
    found = Found(check_messages(done))
    errors = "\n".join(done.lines("ERROR "))
    lost = set(re.findall(r"not emitted: (Instances\[\d+\](?:\.Webhook\[\d+\])?)(?=:| is )", errors))
    if not done.of("RECORD"):
        assert errors  # the business as a whole
        lost, body = {"Instances"}, {"Instances": [{"token": body}]}
    warnings = [line for line in done.lines("WARNING ") if "withheld as secrets" in line]
    withheld = set(json.loads(warnings[0].partition("emits them): ")[2])) if warnings else set()

    stay: dict[int, Mark] = {}  # what must be in no output, unless it also stands where it may leave
    leave: set[int] = set()
    for path, mark in scalars(body):
        if not isinstance(mark, Mark):
            continue
        RAN["scalars followed"] += 1
        items, stream, keys = place(path, body)
        column = column_of(stream, keys)
        excused = lost & {"Instances", *items}
        if not include_secrets and is_withheld(stream, keys, column, mark):
            stay |= {mark.number: mark, mark.hidden: Mark(mark.hidden, "")}
            assert excused or keys[:2] == ("Auth", "jwt") or withheld & names(stream, keys), f"not named: {path}"
            continue
        leave.add(mark.number)
        if include_secrets or (column == "text" and (stream, *keys) != ("webhooks", "url")):
            leave.add(mark.hidden)  # a URL as it is
        else:
            stay[mark.hidden] = Mark(mark.hidden, "")
        if "eyJ" in mark and mark not in found:  # wherever no column is
            assert excused or withheld & names(stream, keys), f"not named: {path}"
        elif not excused:
            assert mark in found, f"lost: {path}"
            assert found.unchanged(mark), f"changed: {path}"
    everything = done.stdout + done.stderr
    for number in stay.keys() - leave - {0}:
        RAN["secrets looked for"] += 1
        assert f"~{number}~" not in everything, f"leaked: {stay[number]}"
        assert digits(number) not in everything.replace(".", ""), f"leaked: {stay[number]}"
        assert not isinstance(stay[number], Time) or stay[number] not in found, f"leaked: {stay[number]}"


def is_withheld(stream: str, keys: tuple[Any, ...], column: str | None, mark: Mark) -> bool:
    """Tell whether this must not leave: under a credential's name, or in `Auth` where no column holds it."""
    if stream == "instances" and keys[:1] == ("Auth",):
        return not (column == "text" or (column == "time" and isinstance(mark, Time)))
    return any(map(is_secret, keys[:-1] if isinstance(mark, Time) else keys))  # a date-time leaves under any name


COLUMNS: Final = {
    f"{stream}.{path}": "secret" if column.secret else column.kind
    for stream in ("businesses", "instances", "webhooks", "webhook_events")
    for path, column in api_columns(stream).items()
}


def column_of(stream: str, keys: tuple[Any, ...]) -> str | None:
    """Give the kind of the column that is declared for this place, if one is."""
    whole = all(isinstance(key, str) and "." not in key for key in keys)
    return COLUMNS.get(f"{stream}.{'.'.join(keys)}") if whole else None


def test_a_loss_and_a_leak_would_be_seen() -> None:
    mark = Mark(7, "~7~")
    hidden = {"businessId": BUSINESS, "Instances": [{"instanceId": "i", "accessToken": mark, "name": "~7~"}]}
    with pytest.raises(AssertionError, match="leaked"):
        check_fates(hidden, run_on(dumps(hidden, ascii_only=True).encode()), include_secrets=False)
    named = {"businessId": BUSINESS, "Instances": [{"instanceId": "i", "name": mark}]}
    with pytest.raises(AssertionError, match="lost"):
        check_fates(named, run_on(b'{"Instances": [{"instanceId": "i"}]}'), include_secrets=False)


@fuzz(EXAMPLES)
@given(examples(), st.integers(0, 3), st.integers(0, 5))
def test_whatever_an_answer_holds_is_emitted_or_withheld_or_reported(
    example: Example, secrets: int, again: int
) -> None:
    include_secrets = secrets == 0
    done = run_on(example.raw, include_secrets=include_secrets)
    RAN["mutated bodies"] += 1
    check_log(done)
    check_fates(example.body, done, include_secrets=include_secrets)
    if again == 0:
        once_more = run_on(example.raw, include_secrets=include_secrets, state=done.state)
        check_log(once_more)
        check_messages(once_more)
        assert without_time(once_more.records("instances")) == without_time(done.records("instances"))


def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give rows without the time at which they were seen."""
    return [{**row, "observed_at": None} for row in rows]


@pytest.mark.parametrize("key", ["my.token.x", "token.of.it"])
def test_a_credential_with_a_dot_in_its_name_is_withheld(key: str) -> None:
    body = {"Instances": [{"instanceId": "i", key: Mark(8, "~8~"), "WhatsApp": {key: Mark(10, "~10~")}}]}
    check_fates(body, run_on(dumps(body, ascii_only=True).encode()), include_secrets=False)


# ----------------------------------------------------------------------------------------------------------- the way

PIECES: Final = [
    *(
        b"",
        b"\0",
        b"\xff",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\xc2\xa0",
        b" ",
        b"\n",
        b"\t",
        b"\x0b",
        b'"',
        b"'",
        b"\\",
    ),
    *(b"\\u", b"\\ud8", b"{", b"}", b"[", b"]", b",", b":", b"1", b"-", b"e", b".", b"//", b"NaN", b"Infinity", b"tru"),
]


@st.composite
def damaged(draw: Callable[[st.SearchStrategy[Any]], Any]) -> bytes:
    """Make bytes that were JSON: some are replaced, put in, or cut out."""
    data = GOOD
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        piece = draw(st.sampled_from(PIECES))
        data = data[:start] + piece + data[start + draw(st.sampled_from([0, 0, 1, 1, 2, 50])) :]
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


def parsed(data: bytes) -> Any:  # noqa: ANN401
    """Parse JSON as Python does, without its extensions; `None` if it is none."""
    try:
        return json.loads(data.decode(json.detect_encoding(data), "replace"), strict=False, parse_constant=int)
    except ValueError:
        return None


@fuzz(EXAMPLES // 4)
@given(damaged())
def test_damaged_bytes_are_read_whole_or_not_at_all(data: bytes) -> None:
    done = run_on(data)
    RAN["damaged byte strings"] += 1
    check_log(done)
    check_messages(done)
    body = parsed(data)
    whole = isinstance(body, dict) and isinstance(body.get("Instances"), list)
    assert len(done.records("businesses")) == whole
    if whole:
        unreadable = [item for item in body["Instances"] if not isinstance(item, dict) or not item.get("instanceId")]
        assert len(done.records("instances")) == len(body["Instances"]) - len(unreadable)


def cut(data: bytes, size: int) -> bytes:
    """Give a chunked body, in chunks of this size."""
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


DELIVERIES: Final[dict[str, Callable[[bytes], Act]]] = {
    "in one piece": lambda data: answer(200, data),
    "in chunks": lambda data: raw(head(Transfer_Encoding="chunked") + cut(data, 997)),
    "in gzip": lambda data: answer(200, gzip.compress(data), Content_Encoding="gzip"),
    "in gzip in chunks": lambda data: raw(
        head(Transfer_Encoding="chunked", Content_Encoding="gzip") + cut(gzip.compress(data), 97)
    ),
    "in pieces": lambda data: trickle(head(Content_Length=len(data)) + data, pieces=9, pause=0.001),
    "until the end": lambda data: raw(head(Content_Type="text/plain") + data),
}


@fuzz(EXAMPLES // 20)
@given(examples(), st.sampled_from(sorted(DELIVERIES)))
def test_what_comes_over_a_socket_has_the_same_fate(example: Example, delivery: str) -> None:
    with pytest.MonkeyPatch.context() as patch, FaultServer(DELIVERIES[delivery](example.raw)) as server:
        leave_surroundings(patch, "/nowhere")
        patch.setattr(run, "some", lambda paths: json.dumps(list(paths)))
        done = sync(tap_settings(server.url, max_retries=0, request_timeout=20))
    RAN["bodies over a socket"] += 1
    check_log(done)
    check_fates(example.body, done, include_secrets=False)
