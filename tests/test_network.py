"""The way to the server: certificates, proxies, redirects, passwords that lie around, and what is sent on it.

The token goes to the configured scheme, host and port, to nothing else, and nothing on this machine replaces it.
"""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme
from singer_sdk.exceptions import ConfigValidationError

from demo.codechat import CodeChat, World
from tap_instances import client
from tests.kit.faults import (
    BUSINESS,
    GOOD,
    TOKEN,
    FaultServer,
    answer,
    head,
    leave_surroundings,
    raw,
    redirect,
    refusing,
    reset,
    settings,
    stall,
)
from tests.kit.support import run_cli, sync

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.kit.faults import Act, Connection

HOST: Final = "codechat.example"  # has no address: is reached through proxies only
HEADERS: Final = {"Apikey": "not-a-real-gateway-key", "X-Team": "ops-and-others", "Cookie": "not-a-real-cookie=1"}
PATH: Final = f"/api/v2/business/{BUSINESS}/instance/connected"


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leave_surroundings(monkeypatch, str(tmp_path))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_BACKOFF", 0.0)


# ------------------------------------------------------------------------------------------------------ certificates


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def tls(authority: trustme.CA) -> Callable[..., ssl.SSLContext]:
    """Make a server's side of TLS, for these names."""

    def make(*names: str, not_after: datetime | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(*names, not_after=not_after).configure_cert(context)
        return context

    return make


@pytest.mark.parametrize("setting", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_private_ca_is_trusted_once_it_is_named(
    setting: str, tls: Callable[..., ssl.SSLContext], ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(setting, ca_file)
    with FaultServer(answer(), tls=tls("127.0.0.1")) as server:
        run = sync(settings(server.url))
    assert run.returncode == 0
    assert len(run.records("webhooks")) == 3


@pytest.mark.parametrize("setting", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_what_is_set_for_curl_gives_way(
    setting: str, tls: Callable[..., ssl.SSLContext], ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURL_CA_BUNDLE", "/nowhere.pem")
    monkeypatch.setenv(setting, ca_file)
    with FaultServer(answer(), tls=tls("127.0.0.1")) as server:
        assert sync(settings(server.url)).returncode == 0


def test_the_process_itself_trusts_a_private_ca(tls: Callable[..., ssl.SSLContext], ca_file: str) -> None:
    with FaultServer(answer(), tls=tls("127.0.0.1")) as server:
        assert run_cli(settings(server.url), env={"SSL_CERT_FILE": ca_file}).returncode == 0
        assert run_cli(settings(server.url)).returncode == 1
        assert server.asked() == 1


@pytest.mark.parametrize(
    ("names", "not_after", "trusted", "why"),
    [
        (["127.0.0.1"], None, False, "unable to get local issuer certificate"),
        (["127.0.0.1"], datetime(2020, 1, 1, tzinfo=timezone.utc), True, "certificate has expired"),
        ([HOST], None, True, "certificate is not valid for '127.0.0.1'"),
    ],
    ids=["unknown authority", "expired", "of another host"],
)
def test_a_certificate_that_does_not_verify_is_not_retried_and_says_what_helps(  # noqa: PLR0913
    names: list[str],
    not_after: datetime | None,
    trusted: bool,  # noqa: FBT001
    why: str,
    tls: Callable[..., ssl.SSLContext],
    ca_file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", ca_file)
    with FaultServer(answer(), tls=tls(*names, not_after=not_after)) as server:
        run = sync(settings(server.url))
        assert server.asked() == 0
    assert run.returncode == 1
    assert not any("; try " in line for line in run.lines("WARNING"))
    [line] = run.lines("ERROR")
    assert "the server's certificate does not verify" in line
    assert why in line
    assert "REQUESTS_CA_BUNDLE (or SSL_CERT_FILE)" in line


@pytest.mark.parametrize("setting", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize(
    "content",
    [None, "", "no certificate\n", "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n"],
    ids=["missing", "empty", "no PEM", "broken PEM"],
)
def test_a_ca_file_that_is_none_is_named(
    setting: str,
    content: str | None,
    tls: Callable[..., ssl.SSLContext],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(setting, str(path))
    with FaultServer(answer(), tls=tls("127.0.0.1")) as server:
        run = sync(settings(server.url))
    assert run.returncode == 1
    assert not any("; try " in line for line in run.lines("WARNING"))
    [line] = run.lines("ERROR")
    assert line.endswith("no CA certificates: let REQUESTS_CA_BUNDLE or SSL_CERT_FILE name an existing PEM file")


def test_https_to_a_plain_port_says_to_change_the_scheme() -> None:
    with CodeChat(World.seeded(1)) as server:
        run = sync(settings(server.url.replace("http:", "https:")))
    assert not any("; try " in line for line in run.lines("WARNING"))
    [line] = run.lines("ERROR")
    assert line.endswith("the server does not speak TLS on this port: change https to http in api_url")


@pytest.mark.parametrize("act", [raw(b""), reset(), stall()], ids=["closed", "reset", "stalled"])
def test_a_tls_handshake_that_fails_says_what_may_be_wrong(act: Act) -> None:
    """The server takes it for a request: its head ends in an empty line, as a random part of the handshake may not."""
    with FaultServer(act, any_bytes=True) as server:
        run = sync(settings(server.url.replace("http:", "https:"), max_retries=0))
    [line] = run.lines("ERROR")
    assert line.endswith("; if this port has no TLS, change https to http in api_url")


def test_plain_http_to_a_tls_port_says_to_change_the_scheme(tls: Callable[..., ssl.SSLContext]) -> None:
    with FaultServer(answer(), tls=tls("127.0.0.1")) as server:
        run = sync(settings(server.url.replace("https:", "http:"), max_retries=0))
    [line] = run.lines("ERROR")
    assert line.endswith("; if this port has TLS, change http to https in api_url")


def test_a_connection_that_ends_in_a_body_says_nothing_of_the_scheme() -> None:
    with FaultServer(reset(head(Content_Length=9) + b"{")) as server:
        run = sync(settings(server.url, max_retries=0))
    [line] = run.lines("ERROR")
    assert line.endswith("see that the server is up and that this machine can reach it")


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://{host}", True),
        ("http://10.0.0.1", True),
        ("http://127.0.0.1.example", True),
        ("http://127.0.0.1:{port}", False),
        ("http://127.3.4.5:{port}", False),
        ("http://LOCALHOST:{port}", False),
        ("http://[::1]:{port}", False),
        ("https://{host}", False),
    ],
)
def test_plain_http_to_another_machine_is_warned_of(url: str, warned: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    with FaultServer(answer(401, b"")) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        run = sync(settings(url.format(host=HOST, port=proxy.port), max_retries=0))
    assert len([line for line in run.lines("WARNING") if "api_url is plain http" in line]) == warned


# ----------------------------------------------------------------------------------------------------------- proxies


def tunnel(port: int) -> Act:
    """Answer CONNECT, then pass bytes to and from a port of loopback."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def act(connection: Connection) -> None:
        with socket.create_connection(("127.0.0.1", port)) as upstream:
            connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=pump, args=(upstream, connection.wire), daemon=True)
            back.start()
            pump(connection.wire, upstream)
            back.join(timeout=5)

    return act


def test_http_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(answer()) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        run = sync(settings(f"http://{HOST}"))
        [request] = proxy.requests
    assert run.returncode == 0
    assert request.target == f"http://{HOST}{PATH}"
    assert request.token == TOKEN


def test_https_goes_through_the_proxy_as_a_tunnel_that_sees_no_token(
    tls: Callable[..., ssl.SSLContext], ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)
    with FaultServer(answer(), tls=tls(HOST)) as server, FaultServer(tunnel(server.port)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//user:password-of-the-proxy@"))
        run = sync(settings(f"https://{HOST}"))
        [asked], [connect] = server.requests, proxy.requests
    assert run.returncode == 0
    assert (connect.method, connect.target) == ("CONNECT", f"{HOST}:443")
    assert connect.headers["proxy-authorization"].startswith("Basic ")
    assert connect.token == ""
    assert (asked.target, asked.token) == (PATH, TOKEN)
    assert "proxy-authorization" not in asked.headers


@pytest.mark.parametrize("names", ["127.0.0.1", "*", f"{HOST},127.0.0.0/8"])
def test_no_proxy_is_honoured(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(answer()) as server, refusing() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("NO_PROXY", names)
        assert sync(settings(server.url)).returncode == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_down_is_retried_and_named(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing() as proxy:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.replace("//", "//user:password-of-the-proxy@"))
        run = sync(settings(f"{scheme}://{HOST}"))
    [line] = run.lines("ERROR")
    assert (
        "the connection failed (Connection refused), at the proxy (3 tries): check HTTP_PROXY and HTTPS_PROXY" in line
    )
    assert "password-of-the-proxy" not in run.stderr


def test_a_proxy_that_closes_the_connection_is_named_and_not_the_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(raw(b"")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        [line] = sync(settings(f"https://{HOST}", max_retries=0)).lines("ERROR")
    assert "check HTTP_PROXY and HTTPS_PROXY, or name the server in NO_PROXY" in line
    assert "change https to http" not in line


def test_a_proxy_that_wants_a_password_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(answer(407, b"")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        [plain] = sync(settings(f"http://{HOST}", max_retries=0)).lines("ERROR")
        [secure] = sync(settings(f"https://{HOST}")).lines("ERROR")
    assert "407 Proxy Authentication Required: put the proxy's user and password into HTTP_PROXY" in plain
    assert "Tunnel connection failed: 407" in secure
    assert "tries" not in secure  # it would not pass by itself
    assert "check HTTP_PROXY and HTTPS_PROXY" in secure


@pytest.mark.parametrize(("status", "tries"), [(403, 1), (407, 1), (408, 3), (429, 3), (502, 3)])
def test_a_tunnel_is_asked_for_again_where_the_refusal_can_pass(
    status: int, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(answer(status, b"")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        [line] = sync(settings(f"https://{HOST}")).lines("ERROR")
        assert len(proxy.requests) == tries
    assert f"Tunnel connection failed: {status}" in line


@pytest.mark.parametrize("proxy", ["foo://127.0.0.1:1", "http://", "http://user:password-of-the-proxy@", "socks5://a"])
def test_a_proxy_that_is_no_web_address_is_refused(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    run = sync(settings(f"http://{HOST}"))
    [line] = run.lines("ERROR")
    assert "not an http(s) address: check api_url, HTTP_PROXY and HTTPS_PROXY" in line
    assert "password-of-the-proxy" not in run.stderr
    assert not any("; try " in line for line in run.lines("WARNING"))


# --------------------------------------------------------------------------------------------------------- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["?again", "/elsewhere", "{url}/elsewhere"], ids=["query", "path", "URL"])
def test_a_redirect_within_the_server_carries_the_token(status: int, target: str) -> None:
    with FaultServer() as server:
        server.acts = (redirect(target.format(url=server.url), status), answer())
        assert sync(settings(server.url)).returncode == 0
        assert [request.token for request in server.requests] == [TOKEN, TOKEN]


@pytest.mark.parametrize("origin", ["port", "host", "scheme", "scheme down"])
def test_a_redirect_to_another_port_host_or_scheme_carries_no_token_and_says_so(
    origin: str, tls: Callable[..., ssl.SSLContext], ca_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)
    (tmp_path / ".netrc").write_text("default login nobody password of-the-netrc\n")
    context = tls("127.0.0.1")
    with (
        FaultServer(answer(401, {"message": "Unauthorized"}), tls=context if origin == "scheme" else None) as second,
        FaultServer(tls=context if origin == "scheme down" else None) as first,
    ):
        target = second.url.replace("127.0.0.1", "localhost") if origin == "host" else second.url
        first.acts = (redirect(target + PATH),)
        run = sync(settings(first.url))
        [asked], [other] = first.requests, second.requests
    assert asked.token == TOKEN
    assert "authorization" not in other.headers
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert "401 Unauthorized: check auth_token" in line
    assert f"(redirected to {target}, which does not get the token: set api_url)" in line


@pytest.mark.parametrize("target", ["{url}/elsewhere", "?again"])
def test_configured_headers_stay_on_the_server_in_a_redirect(target: str) -> None:
    with FaultServer() as server:
        server.acts = (redirect(target.format(url=server.url)), answer())
        assert sync(settings(server.url, headers=HEADERS)).returncode == 0
        for request in server.requests:
            assert HEADERS.items() <= {name.title(): value for name, value in request.headers.items()}.items()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_configured_headers_do_not_leave_the_server_in_a_redirect(host: str) -> None:
    with FaultServer(redirect("?again"), answer(401, b"")) as second, FaultServer() as first:
        first.acts = (redirect(second.url.replace("127.0.0.1", host) + PATH),)
        run = sync(settings(first.url, headers=HEADERS))
        assert [HEADERS.keys() <= {name.title() for name in request.headers} for request in first.requests] == [True]
        assert len(second.requests) == 2
        sent = [value for request in second.requests for value in request.headers.values()]
    assert [value for value in HEADERS.values() if value in sent] == []
    assert [value for value in HEADERS.values() if value in run.stderr] == []


def test_a_proxy_sees_no_header_of_a_tunnelled_request(
    tls: Callable[..., ssl.SSLContext], ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)
    with FaultServer(answer(), tls=tls(HOST)) as server, FaultServer(tunnel(server.port)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert sync(settings(f"https://{HOST}", headers=HEADERS)).returncode == 0
        [asked], [connect] = server.requests, proxy.requests
    assert asked.headers["apikey"] == HEADERS["Apikey"]
    assert [value for value in HEADERS.values() if value in connect.headers.values()] == []


def test_a_redirect_to_another_server_that_is_down_names_it() -> None:
    with refusing() as nowhere, FaultServer(redirect(f"{nowhere}/x")) as server:
        run = sync(settings(server.url))
        assert server.asked() == 3
    [line] = run.lines("ERROR")
    assert "the connection failed (Connection refused) (3 tries)" in line
    assert f"(redirected to {nowhere}, which does not get the token: set api_url)" in line


def test_the_token_does_not_come_back_from_another_server() -> None:
    with FaultServer() as second, FaultServer(redirect(second.url), answer(401, b"")) as first:
        second.acts = (redirect(f"{first.url}{PATH}?back"),)
        sync(settings(first.url))
        assert [request.token for request in first.requests] == [TOKEN, ""]


# -------------------------------------------------------------------------------------------- what is, and is not, sent


@pytest.mark.parametrize("place", ["HOME", "NETRC"])
@pytest.mark.parametrize("machine", ["machine 127.0.0.1", "default"])
def test_a_netrc_never_replaces_the_token(
    place: str, machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / (".netrc" if place == "HOME" else "passwords")
    path.write_text(f"{machine} login nobody password of-the-netrc\n")
    if place == "NETRC":
        monkeypatch.setenv("NETRC", str(path))
    with FaultServer(redirect("?again"), answer()) as server:
        assert sync(settings(server.url)).returncode == 0
        assert [request.headers["authorization"] for request in server.requests] == [f"Bearer {TOKEN}"] * 2


def test_the_user_agent_names_the_tap_and_its_version() -> None:
    with FaultServer(answer()) as server:
        sync(settings(server.url))
        [request] = server.requests
    assert request.headers["user-agent"] == f"tap-instances/{version('tap-instances')}"
    assert request.headers["accept"] == "application/json"


def test_the_user_agent_can_be_set() -> None:
    with FaultServer(answer()) as server:
        sync(settings(server.url, user_agent="night-job (ops@example.com)"))
        [request] = server.requests
    assert request.headers["user-agent"] == "night-job (ops@example.com)"


@pytest.mark.parametrize(
    ("business", "sent"),
    [
        ("9531985d-5d9d-49f8-9818-e811892f902b", "9531985d-5d9d-49f8-9818-e811892f902b"),
        ("../../admin", "..%2F..%2Fadmin"),
        ("..%2Fadmin", "..%252Fadmin"),
        ("%2e%2e", "%252e%252e"),
        ("a b", "a%20b"),
        ("a+b", "a%2Bb"),
        ("a?b=c#d", "a%3Fb%3Dc%23d"),
        ("a;b,c@d:e&f", "a%3Bb%2Cc%40d%3Ae%26f"),
        ("a\\b", "a%5Cb"),
        ("São João 🥖", "S%C3%A3o%20Jo%C3%A3o%20%F0%9F%A5%96"),
        ("{business_id}", "%7Bbusiness_id%7D"),
        ("...", "..."),
        ("~.-_", "~.-_"),
    ],
)
def test_a_business_id_stays_one_segment_of_the_path(business: str, sent: str) -> None:
    with FaultServer(answer()) as server:
        run = sync(settings(server.url, business_id=business))
        [request] = server.requests
    assert request.target == f"/api/v2/business/{sent}/instance/connected"
    assert [row["business_id"] for row in run.records("businesses")] == [business]


@pytest.mark.parametrize("business", [".", "..", "a\nb", "a\x00b", "\ud800"])
def test_a_business_id_that_no_path_can_hold_is_refused(business: str) -> None:
    with FaultServer(answer()) as server:
        with pytest.raises(ConfigValidationError, match="business_id must be an id"):
            sync(settings(server.url, business_id=business))
        assert server.requests == []


@pytest.mark.parametrize("url", ["{}", "{}/", "{}//", " {}\n"])
def test_a_slash_at_the_end_of_api_url_makes_no_difference(url: str) -> None:
    with FaultServer(answer()) as server:
        assert sync(settings(url.format(server.url))).returncode == 0
        assert [request.target for request in server.requests] == [PATH]


def test_a_path_in_api_url_is_kept() -> None:
    with FaultServer(answer()) as server:
        sync(settings(f"{server.url}/whatsapp/"))
        assert [request.target for request in server.requests] == [f"/whatsapp{PATH}"]


def test_cookies_of_one_business_are_not_sent_for_another() -> None:
    businesses = [{"business_id": f"b-{number}", "auth_token": f"token-of-{number}"} for number in range(4)]
    many: dict[str, Any] = {"businesses": businesses, "concurrency": 1}
    config = {name: value for name, value in settings("").items() if name not in {"business_id", "auth_token"}} | many
    with FaultServer(answer(200, GOOD, Set_Cookie="session=of-the-first; Path=/")) as server:
        assert sync(config | {"api_url": server.url}).returncode == 0
        assert [request.token for request in server.requests] == [f"token-of-{number}" for number in range(4)]
        assert [request.headers.get("cookie") for request in server.requests] == [None] * 4
