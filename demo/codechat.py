"""A small, honest CodeChat on a real socket: a business's connected instances, and the list of businesses.

Two parts, and a command line that puts them together:

- `World` is what is true: businesses, their instances, which phones are connected.
  It is plain data, and knows no HTTP. Its randomness comes from one seed, its clock
  is its own, so a run can be repeated to the byte. `World.step` lets an hour pass.
- `CodeChat` serves a world: HTTP/1.1 on 127.0.0.1, a port that is free, daemon
  threads, stopped when its `with` block ends.

    with CodeChat(World.seeded(7)) as server:
        ...  # ask server.url, then look at server.requests
        server.world.step()

By hand: `python -m demo.codechat --port 8080`, ended by Ctrl-C. It prints the
settings with which the tap reads it, for each way to name businesses.

The answers have the documented shapes: 200 with the whole list, 400 for a business
that is not known, 401 for a token that is not that business's, 404 elsewhere. The
list of businesses is known from clients of the API only. With `gateway`, requests
need these headers too, or get the page of a gateway.
"""

from __future__ import annotations

import argparse
import base64
import errno
import json
import random
import shlex
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from typing_extensions import Self

# In the order of the API's page.
FLAGS = (
    "qrcodeUpdate",
    "stateInstance",
    "messagesSet",
    "messagesUpsert",
    "messagesUpdate",
    "sendMessage",
    "contactsSet",
    "contactsUpsert",
    "contactsUpdate",
    "presenceUpdate",
    "chatsSet",
    "chatsUpdate",
    "chatsUpsert",
    "groupsUpsert",
    "groupUpdate",
    "groupParticipantsUpdate",
    "connectionUpdate",
    "callUpsert",
    "newJwt",
)
# A flag that some servers have, and the documented body does not.
UNDOCUMENTED_FLAG = "chatsDeleted"

# (name of the business, what its WhatsApp users typed as their name)
COMPANIES = (
    ("Padaria São João", "Padaria São João 🥖"),
    ("Clínica Boa Vista", "Clínica Boa Vista 🩺"),
    ("Auto Peças Horizonte", "Horizonte Peças 🔧"),
    ("Escola Girassol", "Escola Girassol 🌻"),
    ("Pet Shop Amigo Fiel", "Amigo Fiel 🐶"),
    ("Livraria Entrelinhas", "Entrelinhas 📚"),
)
DESKS = (
    "atendimento",
    "vendas",
    "cobranca",
    "entregas",
    "suporte",
    "agenda",
    "financeiro",
    "posvenda",
)
# (name of the webhook, its URL); some carry what must not reach a warehouse.
HOOKS = (
    ("crm", "https://crm.example.com/hooks/codechat/{key}"),
    ("erp", "https://erp.example.com/whatsapp?account={key}"),
    ("alerts", "https://alerts.example.com/in?team=ops&token=not-a-real-token-{key}"),
    ("chatbot", "https://bot:not-a-real-password@bot.example.com/{key}"),
    ("bi", "https://events.example.com/codechat/{key}"),
)
ADMIN_TOKEN = "not-a-real-admin-token-5e0c"  # noqa: S105
GATEWAY = {"apikey": "not-a-real-gateway-key-91d2"}  # what `--gateway` wants
BEGINNING = datetime(2025, 6, 1, 8, tzinfo=timezone.utc)


@dataclass
class Business:
    """A tenant: the token that opens it, and its 200 body with every instance.

    `body` holds all instances, `away` the ids of those whose phone is not connected:
    these the endpoint leaves out.
    """

    id: str
    token: str
    body: dict[str, Any]
    away: set[str] = field(default_factory=set)
    deleted_at: str | None = None

    @property
    def name(self) -> str:
        """The business's name."""
        return str(self.body.get("name"))

    @property
    def instances(self) -> list[dict[str, Any]]:
        """Every instance as the API's object, connected or not; the list itself."""
        instances: list[dict[str, Any]] = self.body["Instances"]
        return instances

    @property
    def connected(self) -> list[dict[str, Any]]:
        """The instances that the endpoint lists now."""
        return [i for i in self.instances if i["instanceId"] not in self.away]

    def answer(self) -> dict[str, Any]:
        """Give the 200 body. Without a phone away it is `body` itself, however odd."""
        return {**self.body, "Instances": self.connected} if self.away else self.body

    def listed(self) -> dict[str, Any]:
        """Give the business as an item of the server's list."""
        return {
            "businessId": self.id,
            "name": self.name,
            "businessToken": self.token,
            "attributes": {},
            "createdAt": _time(BEGINNING),
            "updatedAt": _time(BEGINNING),
            "deletedAt": self.deleted_at,
        }


class World:
    """Businesses and their instances, with a clock and chance of their own."""

    def __init__(self, businesses: Iterable[Business], *, seed: int = 0) -> None:
        """Take the businesses as they are; `seed` decides what `step` will do."""
        self.businesses = {business.id: business for business in businesses}
        self.now = BEGINNING
        self._chance = random.Random(seed)  # noqa: S311 - repeatable, not secret

    @classmethod
    def from_body(
        cls,
        body: dict[str, Any],
        token: str,
        *,
        business_id: str | None = None,
    ) -> World:
        """Serve one 200 body verbatim; its `businessId` unless another id is given."""
        return cls([Business(business_id or body["businessId"], token, body)])

    @classmethod
    def seeded(cls, seed: int = 7, *, businesses: int = 3, instances: int = 8) -> World:
        """Make a world up. Of several businesses the last has no instance yet."""
        world = cls([], seed=seed)
        for number in range(businesses):
            name, push_name = COMPANIES[number % len(COMPANIES)]
            if number >= len(COMPANIES):
                name = f"{name} {number // len(COMPANIES) + 1}"
            business_id = world.new_id()
            last_of_several = number == businesses - 1 > 0
            made = [world.new_instance(index, push_name) for index in range(0 if last_of_several else instances)]
            business = Business(
                id=business_id,
                token=f"not-a-real-business-token-{world.new_key()}",
                body={"businessId": business_id, "name": name, "Instances": made},
            )
            # Every fourth phone is away at first: it can come back, and bring
            # webhooks that were last changed long ago.
            business.away = {i["instanceId"] for i in made[3::4]}
            world.businesses[business_id] = business
        return world

    def body(self, business_id: str) -> dict[str, Any]:
        """Give the 200 body of a business: only its connected instances."""
        return self.businesses[business_id].answer()

    def settings(self, api_url: str) -> dict[str, Any]:
        """Give the tap's settings for reading every business of this world."""
        return {
            "api_url": api_url,
            "businesses": [
                {"business_id": business.id, "auth_token": business.token} for business in self.businesses.values()
            ],
        }

    def step(self) -> None:
        """Let an hour pass. In each business that has instances, one of each kind.

        A phone that was away comes back, another drops; of the webhooks of those
        connected one is switched off or on, one has a flag toggled, one is deleted and
        one created.
        """
        self.now += timedelta(hours=1)
        for business in self.businesses.values():
            came_back = self._come_back(business)
            self._drop(business, spare=came_back)
            self._switch_a_webhook(business)
            self._toggle_a_flag(business)
            self._delete_a_webhook(business)
            self._create_a_webhook(business)

    def _come_back(self, business: Business) -> str | None:
        if not business.away:
            return None
        back = self._chance.choice(sorted(business.away))
        business.away.remove(back)
        instance = next(i for i in business.instances if i["instanceId"] == back)
        if instance.get("Auth"):  # a new session, a new credential
            instance["Auth"]["jwt"] = self._jwt(str(instance["name"]))
            instance["Auth"]["updatedAt"] = _time(self.now)
        return back

    def _drop(self, business: Business, *, spare: str | None) -> None:
        stable = [i["instanceId"] for i in business.connected]
        stable = [instance_id for instance_id in stable if instance_id != spare]
        if len(stable) > 1:  # somebody stays, so that the next moves have a webhook
            business.away.add(self._chance.choice(stable))

    def _switch_a_webhook(self, business: Business) -> None:
        for webhook in self._some_webhook(business):
            webhook["enabled"] = not webhook["enabled"]
            webhook["updatedAt"] = _time(self.now)

    def _toggle_a_flag(self, business: Business) -> None:
        for webhook in self._some_webhook(business):
            events = webhook["WebhookEvents"]
            flag = self._chance.choice(FLAGS)
            events[flag] = not events[flag]
            events["updatedAt"] = _time(self.now)  # the webhook's own stands still

    def _delete_a_webhook(self, business: Business) -> None:
        for webhook in self._some_webhook(business):
            for instance in business.connected:
                if webhook in instance["Webhook"]:
                    instance["Webhook"].remove(webhook)

    def _create_a_webhook(self, business: Business) -> None:
        if business.connected:
            instance = self._chance.choice(business.connected)
            instance["Webhook"].append(self.new_webhook(instance["instanceId"], created=self.now))

    def _some_webhook(self, business: Business) -> list[dict[str, Any]]:
        """Choose one webhook of a connected instance; none where there is none."""
        webhooks = [w for i in business.connected for w in i["Webhook"]]
        return [self._chance.choice(webhooks)] if webhooks else []

    def new_id(self) -> str:
        """Make a UUID that was never given before."""
        return str(uuid.UUID(int=self._chance.getrandbits(128), version=4))

    def new_key(self) -> str:
        """Make 16 hexadecimal digits."""
        return f"{self._chance.getrandbits(64):016x}"

    def new_instance(self, index: int, push_name: str) -> dict[str, Any]:
        """Make up an instance that is some months old, with up to three webhooks."""
        instance_id = self.new_id()
        desk = DESKS[index % len(DESKS)]
        name = desk if index < len(DESKS) else f"{desk}-{index // len(DESKS) + 1}"
        created = self._months_ago()
        phone = f"55119{self._chance.randrange(10**8):08d}"
        picture = f"https://pps.example.net/v/t61/{self.new_key()}.jpg"
        return {
            "instanceId": instance_id,
            "name": name,
            "state": "active",
            "connection": "open",
            "createdAt": _time(created),
            "deletedAt": None,
            "Auth": {
                "authId": self.new_id(),
                "jwt": self._jwt(name),
                "createdAt": _time(created + timedelta(milliseconds=17)),
                "updatedAt": _time(created + timedelta(days=20)),
            },
            "WhatsApp": {
                "whatsappId": self.new_id(),
                "remoteJid": f"{phone}@s.whatsapp.net",
                "pictureUrl": picture if self._likely(80) else None,
                "pushName": push_name,
                "createdAt": _time(created + timedelta(minutes=2)),
            },
            "Webhook": [
                self.new_webhook(instance_id, created=created + timedelta(minutes=5))
                for _ in range(self._chance.choice((1, 1, 2, 2, 3, 0)))
            ],
        }

    def new_webhook(self, instance_id: str, *, created: datetime) -> dict[str, Any]:
        """Make up a webhook; every third has a flag that the API's page has not."""
        name, url = self._chance.choice(HOOKS)
        flags = {flag: self._likely(30 if flag == "newJwt" else 70) for flag in FLAGS}
        if self._chance.randrange(3) == 0:
            flags[UNDOCUMENTED_FLAG] = True
        return {
            "name": name,
            "url": url.format(key=self.new_key()[:8]),
            "enabled": self._likely(80),
            "webhookId": self.new_id(),
            "createdAt": _time(created),
            "updatedAt": _time(created),
            "instanceInstanceId": instance_id,
            "WebhookEvents": {
                **flags,
                "webhookEventsId": self.new_id(),
                "createdAt": _time(created),
                "updatedAt": _time(created),
            },
        }

    def _likely(self, percent: int) -> bool:
        return self._chance.randrange(100) < percent

    def _months_ago(self) -> datetime:
        minutes = self._chance.randrange(30 * 24 * 60, 400 * 24 * 60)
        return BEGINNING - timedelta(minutes=minutes, milliseconds=minutes % 1000)

    def _jwt(self, instance_name: str) -> str:
        """Make what looks like a JWT, and says of itself that it opens nothing."""
        issued = int(self.now.timestamp())
        claims = {"instanceName": instance_name, "iat": issued, "sub": "example-only"}
        head = _base64url({"alg": "HS256", "typ": "JWT"})
        return f"{head}.{_base64url(claims)}.not-a-real-signature-{self.new_key()}"


def _time(moment: datetime) -> str:
    """Write a time as the API does: UTC, three digits of milliseconds, Z."""
    text = moment.astimezone(timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _base64url(value: dict[str, Any]) -> str:
    text = json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


@dataclass(frozen=True)
class Request:
    """A request as it came: the path as sent, header names in lower case."""

    path: str
    headers: dict[str, str]
    at: float  # of time.monotonic()


@dataclass(frozen=True)
class Answer:
    """What goes back. A body that is not bytes is sent as JSON."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)

    def payload(self) -> bytes:
        """Give the body's bytes."""
        if isinstance(self.body, bytes):
            return self.body
        # UTF-8, but a lone surrogate as its \u escape: so does JSON.stringify.
        return json.dumps(self.body, ensure_ascii=False).encode(errors="backslashreplace")


def error(status: HTTPStatus, message: object) -> Answer:
    """Give an error as the API documents it."""
    text = {"message": message, "error": status.phrase, "statusCode": status.value}
    return Answer(status, text)


class CodeChat:
    """A world on a socket of 127.0.0.1, for as long as the `with` block lasts.

    `respond`, if given, sees each request first, in the thread that answers it (so it
    may wait), and gives an `Answer`, or bytes that go to the socket as they are before
    it is closed (a body cut short; `b""` is a dropped connection), or None for the
    honest answer. With `step_between_calls` the world steps after each 200.
    """

    def __init__(
        self,
        world: World,
        *,
        port: int = 0,
        step_between_calls: bool = False,
        respond: Callable[[Request], Answer | bytes | None] | None = None,
        gateway: dict[str, str] | None = None,
    ) -> None:
        """Bind the port, 0 for any that is free; requests are taken from `with` on."""
        self.world = world
        self.gateway = gateway or {}
        self.step_between_calls = step_between_calls
        self.respond = respond
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), self)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            # How often it looks whether it shall stop.
            kwargs={"poll_interval": 0.05},
            name="codechat",
            daemon=True,
        )

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The tap's `api_url`."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        """Begin to answer."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, and give the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def answer(self, request: Request) -> Answer | bytes:
        """Note the request, then answer it."""
        with self._lock:
            self.requests.append(request)
        injected = self.respond(request) if self.respond else None
        return self._honest(request) if injected is None else injected

    def _honest(self, request: Request) -> Answer:
        if any(request.headers.get(name.lower()) != value for name, value in self.gateway.items()):
            return Answer(HTTPStatus.FORBIDDEN, b"<html><h1>403 Forbidden</h1></html>", {"Content-Type": "text/html"})
        # Split before decoding: an encoded slash belongs to the id.
        parts = [unquote(part) for part in urlsplit(request.path).path.split("/")]
        match parts:
            case ["", "api", "v2", "business", business_id, "instance", "connected"]:
                token = request.headers.get("authorization", "")
                return self._connected(business_id, token)
            case ["", "api", "v2", "admin", "business"]:
                if request.headers.get("authorization") != f"Bearer {ADMIN_TOKEN}":
                    return error(HTTPStatus.UNAUTHORIZED, ["Unauthorized"])
                return Answer(HTTPStatus.OK, [business.listed() for business in self.world.businesses.values()])
            case _:
                return error(HTTPStatus.NOT_FOUND, f"Cannot GET {request.path}")

    def _connected(self, business_id: str, authorization: str) -> Answer:
        with self._lock:  # a body is one consistent snapshot
            business = self.world.businesses.get(business_id)
            if business is None:
                return error(HTTPStatus.BAD_REQUEST, [_why_unknown(business_id)])
            if authorization != f"Bearer {business.token}":
                return error(HTTPStatus.UNAUTHORIZED, ["Unauthorized"])
            # To bytes while the world stands still.
            body = Answer(HTTPStatus.OK, business.answer()).payload()
            if self.step_between_calls:
                self.world.step()
            return Answer(HTTPStatus.OK, body)


def _why_unknown(business_id: str) -> str:
    with suppress(ValueError):
        uuid.UUID(business_id)
        return "Business not found"
    return "businessId must be a UUID"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], codechat: CodeChat) -> None:
        self.codechat = codechat
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Stay silent about a client that went away, as a killed tap does."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60  # a connection that says nothing does not hold its thread for ever
    wbufsize = -1  # head and body in one write: no waiting for a delayed ACK
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer one request."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.codechat.answer(Request(self.path, headers, time.monotonic()))
        if isinstance(answer, bytes):
            self.wfile.write(answer)
            self.close_connection = True
            return
        payload = answer.payload()
        self.send_response(answer.status)
        for name, value in {
            "Content-Type": "application/json; charset=utf-8",
            "Content-Length": str(len(payload)),
            **answer.headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: `CodeChat.requests` has it."""


def ways(world: World, api_url: str, *, gateway: bool) -> str:
    """Give the tap's settings as shell commands, for each way to name businesses; all but one as comments."""
    entries = world.settings(api_url)["businesses"]
    many = json.dumps(entries)
    settings: tuple[tuple[str, dict[str, str]], ...] = (
        ("", {"api_url": api_url}),
        ("all businesses of this server, by a list", {"businesses": many}),
        ("or one of them", {name: entries[0][name] for name in ("business_id", "auth_token")} if entries else {}),
        ("or the list in a file (write it first)", {"businesses_file": "businesses.json"}),
        ("or all that the server lists", {"admin_token": ADMIN_TOKEN}),
        ("what a gateway in front may want (python -m demo.codechat --gateway)", {"headers": json.dumps(GATEWAY)}),
    )
    lines = []
    for title, values in settings:
        lines += [f"# {title}:"] if title else []
        if "businesses_file" in values:
            lines.append(f"# printf %s {shlex.quote(many)} > businesses.json")
        wanted = {"api_url", "businesses", *(["headers"] if gateway else [])}
        for name, value in values.items():
            comment = "" if name in wanted else "# "
            lines.append(f"{comment}export TAP_INSTANCES_{name.upper()}={shlex.quote(value)}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a seeded world until it is stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.codechat",
        description="A small CodeChat on 127.0.0.1. End it with Ctrl-C.",
    )
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--port-file", type=Path, help="write the port here when ready")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--businesses", type=int, default=3)
    parser.add_argument("--instances", type=int, default=8, help="of each business")
    parser.add_argument("--steps", type=int, default=0, help="hours that have passed")
    parser.add_argument(
        "--step-between-calls",
        action="store_true",
        help="let an hour pass after each answer",
    )
    parser.add_argument("--gateway", action="store_true", help="ask for one more header, as a gateway does")
    options = parser.parse_args(arguments)
    world = World.seeded(options.seed, businesses=options.businesses, instances=options.instances)
    for _ in range(options.steps):
        world.step()
    try:
        server = CodeChat(
            world,
            port=options.port,
            step_between_calls=options.step_between_calls,
            gateway=GATEWAY if options.gateway else None,
        )
    except (OSError, OverflowError) as problem:
        if isinstance(problem, OverflowError):
            why = "is not between 0 and 65535"
        elif problem.errno == errno.EADDRINUSE:
            why = "is taken"
        else:
            why = f"cannot be used ({problem.strerror})"
        print(f"port {options.port} {why}: give another --port", file=sys.stderr)
        return 1
    with server:
        print(ways(world, server.url, gateway=options.gateway), flush=True)
        if options.port_file:
            options.port_file.write_text(f"{server.port}\n", encoding="utf-8")
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
