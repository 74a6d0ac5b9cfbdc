"""A server that misbehaves on purpose: a raw socket on loopback, and what it does with each request.

An *act* gets the connection of one request, sends whatever bytes it likes, as slowly as it likes, and returns; then the
connection is closed. `FaultServer(act, act)` gives the first request the first act, and all later ones the last; with
`businesses={"b-1": [act], "b-2": [act]}` each of these has its own, and LIST names the list of businesses. What was
asked is in `server.requests`.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from tests.kit.support import CONNECTED

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    import pytest
    from typing_extensions import Self

    Act = Callable[["Connection"], None]

BUSINESS: Final = "b-17"
LIST: Final = "business"  # what stands in a business's place in the path of the server's list
TOKEN: Final = "not-a-real-token-of-b-17"
GOOD: Final = json.dumps(json.loads(CONNECTED.read_text(encoding="utf-8")) | {"businessId": BUSINESS}).encode()
HEADER_MARK: Final = "mark-of-a-header"  # in each answer's head: must reach no output
PATIENCE: Final = 30  # seconds; how long a stalled connection stays open at most
SURROUNDINGS: Final = (  # what requests reads from the environment
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
)


@dataclass(frozen=True)
class Request:
    """A request as it came; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def business(self) -> str:
        """The business that is asked for, or an empty string."""
        parts = urlsplit(self.target).path.split("/")
        return unquote(parts[4]) if len(parts) > 4 else ""

    @property
    def token(self) -> str:
        """The bearer token that came with it, or an empty string."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")


class Connection:
    """One request's connection, in an act's hands."""

    def __init__(self, wire: socket.socket, request: Request, over: threading.Event) -> None:
        self.wire, self.request, self._over = wire, request, over

    def send(self, data: bytes) -> None:
        """Send bytes at once."""
        self.wire.sendall(data)

    def wait(self, seconds: float = PATIENCE) -> None:
        """Do nothing for so long, or until the server is stopped."""
        self._over.wait(seconds)

    def reset(self) -> None:
        """Break the connection off: the other side sees a reset instead of an end."""
        self.wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wire.close()


# -------------------------------------------------------------------------------------------------------------- acts


def head(status: int = 200, /, **headers: Any) -> bytes:  # noqa: ANN401
    """Give an answer's status line and headers; `_` in a name is `-`, None takes a default away."""
    every = {"Content_Type": "application/json", "Connection": "close", "X_Mark": HEADER_MARK} | headers
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in every.items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status} ", *lines, "", ""]).encode("latin-1")


def answer(status: int = 200, body: bytes | object = GOOD, /, **headers: Any) -> Act:  # noqa: ANN401
    """Answer in full; a body that is not bytes goes out as JSON."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return raw(head(status, **({"Content_Length": len(payload)} | headers)) + payload)


def raw(data: bytes) -> Act:
    """Send these bytes, whatever they are."""
    return lambda connection: connection.send(data)


def reset(after: bytes = b"") -> Act:
    """Send these bytes, then break off."""

    def act(connection: Connection) -> None:
        connection.send(after)
        connection.wait(0.05)  # a reset overtakes what the other side has not read
        connection.reset()

    return act


def stall(after: bytes = b"") -> Act:
    """Send these bytes, then nothing more."""

    def act(connection: Connection) -> None:
        connection.send(after)
        connection.wait()

    return act


def trickle(data: bytes, pieces: int, pause: float) -> Act:
    """Send these bytes in so many pieces, with a pause after each."""

    def act(connection: Connection) -> None:
        size = -(-len(data) // pieces)
        for start in range(0, len(data), size):
            connection.send(data[start : start + size])
            connection.wait(pause)

    return act


def redirect(target: str, status: int = 302) -> Act:
    """Answer that it is elsewhere; `{token}` in the target is the one that was sent."""

    def act(connection: Connection) -> None:
        answer(status, b"", Location=target.replace("{token}", connection.request.token))(connection)

    return act


def echo(status: int) -> Act:
    """Answer with all that was sent, token included: in the message, in headers, in the body."""

    def act(connection: Connection) -> None:
        token = connection.request.token
        said = [dict(connection.request.headers), f"no such token: {token}", token]
        body = {"message": said, "error": token, "token": token, "raw": f"<{token}>"}
        answer(status, body, X_Echo=token)(connection)

    return act


# ------------------------------------------------------------------------------------------------------------ server


class FaultServer:
    """Acts on a port of loopback, for as long as the `with` block lasts."""

    def __init__(
        self,
        *acts: Act,
        businesses: Mapping[str, Sequence[Act]] | None = None,
        tls: ssl.SSLContext | None = None,
        any_bytes: bool = False,
    ) -> None:
        """Take the acts; with `any_bytes`, whatever comes first is a request (a TLS handshake, for one)."""
        self.requests: list[Request] = []
        self._scripts = businesses or {}
        self._turns: Counter[int] = Counter()  # of each script
        self.acts = acts
        self._tls, self._any_bytes = tls, any_bytes
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._thread = threading.Thread(target=self._listen, name="faults", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """The tap's `api_url`."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def asked(self, business: str = BUSINESS) -> int:
        """Count the requests for a business."""
        return sum(request.business == business for request in self.requests)

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and end all waiting."""
        self._over.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends accept()
        self._socket.close()
        self._thread.join(timeout=5)

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                wire, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(wire,), daemon=True).start()

    def _serve(self, wire: socket.socket) -> None:
        wire.settimeout(PATIENCE)
        with suppress(OSError):  # the other side went away, as it may
            if self._tls:
                wire = self._tls.wrap_socket(wire, server_side=True)
            with wire:
                request = _read_request(wire) if not self._any_bytes else wire.recv(1) and Request("", "", {})
                if request:
                    self._act(request)(Connection(wire, request, self._over))

    def _act(self, request: Request) -> Act:
        with self._lock:
            self.requests.append(request)
            acts = self._scripts.get(request.business, self.acts)
            self._turns[id(acts)] += 1
            return acts[min(self._turns[id(acts)], len(acts)) - 1]


def _read_request(wire: socket.socket) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := wire.recv(65536)):
            return None
        data += more
    first, *lines = data.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Request(method, target, headers)


@contextmanager
def refusing() -> Iterator[str]:
    """Give a URL at which every connection is refused."""
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


# --------------------------------------------------------------------------------------------------------- the tap's


def config(server: FaultServer, businesses: Iterable[str], **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Give the settings that read these businesses."""
    entries = [{"business_id": business, "auth_token": f"token-of-{business}"} for business in businesses]
    return {"api_url": server.url, "businesses": entries, "max_retries": 0, **more}


def settings(url: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Give the settings that read BUSINESS from this URL."""
    return {"api_url": url, "business_id": BUSINESS, "auth_token": TOKEN, "request_timeout": 1, "max_retries": 2} | more


def leave_surroundings(patch: pytest.MonkeyPatch, home: str) -> None:
    """Take away what this machine says about proxies, certificates and passwords."""
    for name in SURROUNDINGS:
        patch.delenv(name, raising=False)
        patch.delenv(name.lower(), raising=False)
    patch.setenv("HOME", home)
