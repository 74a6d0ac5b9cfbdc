"""Names made of secret words, in every spelling and at every depth: nothing of their values reaches any output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from tap_instances.redact import is_secret, is_secret_name, is_secret_text, mask_url
from tests.kit.checked import BUSINESS, read
from tests.kit.support import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kit.support import Run

# Words of names. The first are secret wherever they stand, the second as one word or two, the third at the end.
ANYWHERE: Final = (
    "token", "jwt", "secret", "password", "passwd", "passcode", "authorization", "credential", "credentials", "cookie",
    "pass", "pwd", "pw", "passphrase", "senha", "auth", "oauth", "authentication", "bearer", "cred", "creds",
    "signature", "sig", "hmac", "otp", "session",
)  # fmt: skip
COMPOUND: Final = ("pairing code", "api key", "private key", "signing key", "access key", "encryption key")
AT_THE_END: Final = ("key", "keys", "header", "headers")
HARMLESS: Final = ("method", "status", "type")
# Not "compass": "compassWebhook" contains "passw".
FILLERS: Final = (
    "my", "webhook", "user", "id", "name", "value", "data", "author", "keyword", "passenger", "public", "keyboard",
    "signal", "headline", "option", "chats", "set", "url", "code", "monkey",
)  # fmt: skip


def camel(words: list[str]) -> str:
    return words[0] + "".join(word.capitalize() for word in words[1:])


def capitals_first(words: list[str]) -> str:
    """Write ``OTPCode``, ``IDAuth``."""
    return "".join(word.upper() if index % 2 == 0 else word.capitalize() for index, word in enumerate(words))


SPELLINGS: Final[tuple[Callable[[list[str]], str], ...]] = (
    camel,
    capitals_first,
    lambda words: "".join(word.capitalize() for word in words),
    "_".join,
    lambda words: "_".join(words).upper(),
    "-".join,
    lambda words: "-".join(word.capitalize() for word in words),
    "_-".join,
)
LOOSE_SPELLINGS: Final[tuple[Callable[[list[str]], str], ...]] = (
    ".".join,
    lambda words: " ".join(words).title(),
    "2".join,
    lambda words: "".join(f"{word}{number}" for number, word in enumerate(words)),
)
ALL_SPELLINGS: Final = SPELLINGS + LOOSE_SPELLINGS


@st.composite
def secret_names(draw: st.DrawFn) -> str:
    """Draw a name that people would write for a secret."""
    before = draw(st.lists(st.sampled_from(FILLERS), max_size=2))
    after = draw(st.lists(st.sampled_from(FILLERS), max_size=2))
    kind = draw(st.sampled_from(["anywhere", "compound", "at the end"]))
    if kind == "compound":  # what is apart at dots, blanks or digits is another name
        words, spellings = draw(st.sampled_from(COMPOUND)).split(), SPELLINGS
    elif kind == "anywhere":
        words, spellings = [draw(st.sampled_from(ANYWHERE))], ALL_SPELLINGS
    else:
        words, spellings, after = [draw(st.sampled_from(AT_THE_END))], ALL_SPELLINGS, []
        before = [word for word in before if word != "public"]
    return draw(st.sampled_from(spellings))(before + words + after)


@st.composite
def harmless_names(draw: st.DrawFn) -> str:
    """Draw a name that holds no secret, or that says only how a secret is used."""
    words = draw(st.lists(st.sampled_from(FILLERS), min_size=1, max_size=3))
    if draw(st.booleans()):
        words.append(draw(st.sampled_from(ANYWHERE + AT_THE_END)))
        words.append(draw(st.sampled_from(HARMLESS)))
    elif words[-1] == "public":
        words.append("key")
    return draw(st.sampled_from(ALL_SPELLINGS))(words)


json_values = st.recursive(
    st.one_of(st.integers(), st.floats(allow_nan=False), st.text(max_size=9), st.none(), st.booleans()),
    lambda values: st.one_of(st.lists(values, max_size=3), st.dictionaries(st.text(max_size=5), values, max_size=3)),
    max_leaves=5,
)


@settings(max_examples=1000, deadline=None)
@given(secret_names(), json_values)
def test_a_name_made_of_a_secret_word_is_a_secrets(name: str, value: Any) -> None:  # noqa: ANN401
    assert is_secret_name(name)
    assume(not is_secret_text(name))  # as "Bearer my" is: then the value does not matter
    assert is_secret(name, value) is not (value is None or isinstance(value, bool))
    assert not is_secret(name, "2026-11-25T19:00:00.000Z")
    assert (
        mask_url(f"https://a.example/?a=1&{name}=2#{name}=3&b=4") == f"https://a.example/?a=1&{name}=***#{name}=***&b=4"
    )


@settings(max_examples=1000, deadline=None)
@given(harmless_names(), json_values)
def test_a_name_made_of_other_words_is_not(name: str, value: Any) -> None:  # noqa: ANN401
    assert not is_secret_name(name)
    assert not is_secret(name, value)


# ------------------------------------------------------------------------------------------------ the whole tap

HIDDEN: Final = "value-that-must-not-leave"
SEEN: Final = "value-that-leaves"
PLACES: Final = {
    "at the top": "businesses.{}",
    "of an instance": "instances.{}",
    "of WhatsApp": "instances.WhatsApp.{}",
    "of a webhook": "webhooks.{}",
    "of its events": "webhook_events.{}",
    "within an unknown object": "instances.proxy.{}",
    "within objects in lists": "webhooks.extra[][].of.{}",
    "within a misfit": "instances.state.{}",
}


def body(place: str, members: dict[str, Any]) -> dict[str, Any]:
    """Return a business with one instance and one webhook, and these members at a place."""
    at = {name: members if name == place else {} for name in PLACES}
    hook = {
        "webhookId": "w1",
        "url": f"https://h.example/p?a=1&senha={HIDDEN}&pwd={HIDDEN}#access_token={HIDDEN}&b=2",
        "extra": [[{"of": at["within objects in lists"]}]],
        "WebhookEvents": {"newJwt": True, **at["of its events"]},
        **at["of a webhook"],
    }
    instance = {
        "instanceId": "i1",
        "state": at["within a misfit"],
        "WhatsApp": {"pushName": "p", **at["of WhatsApp"]},
        "proxy": at["within an unknown object"],
        "Webhook": [hook],
        **at["of an instance"],
    }
    return {"businessId": BUSINESS, "Instances": [instance], **at["at the top"]}


def withheld(run: Run) -> str:
    """Return the one WARNING's paths."""
    [line] = [line for line in run.lines("WARNING") if "withheld as secrets" in line]
    return line.partition("emits them): ")[2]


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=4, deadline=None, phases=[Phase.generate])  # a run is slow: no shrinking
@given(data=st.data())
def test_no_secret_leaves_wherever_it_stands_and_each_is_named(place: str, data: st.DataObject) -> None:
    secret = data.draw(st.lists(secret_names(), min_size=1, max_size=5, unique=True), label="secret")
    other = data.draw(st.lists(harmless_names(), max_size=5, unique=True).map(lambda names: {*names} - KNOWN))
    shapes: list[Any] = [HIDDEN, [HIDDEN], {"a": HIDDEN}, {"a": [{"b": HIDDEN}]}, [[HIDDEN]]]
    members = dict(zip(secret, shapes, strict=False)) | dict.fromkeys(other, SEEN)
    run = read(body(place, members))
    assert run.returncode == 0
    assert HIDDEN not in run.stdout + run.stderr
    assert withheld(run).split(", ") == [PLACES[place].format(name) for name in secret]
    assert run.stdout.count(SEEN) == len(other)


KNOWN: Final = frozenset(("name", "url"))  # columns, where they are no unknown keys


def test_the_headers_of_a_webhook_are_withheld_whole() -> None:
    headers = {"X-Anything": HIDDEN, "Authorization": f"Bearer {HIDDEN}"}
    run = read(
        body("of a webhook", {"headers": headers, "customHeaders": [HIDDEN], "header": HIDDEN, "headersType": SEEN})
    )
    assert HIDDEN not in run.stdout + run.stderr
    assert withheld(run) == "webhooks.headers, webhooks.customHeaders, webhooks.header"
    assert run.records("webhooks")[0]["additional_properties"]["headersType"] == SEEN


def test_a_flag_leaves_whatever_its_name() -> None:
    run = read(body("of an instance", {"hasSession": True, "usesAuth": False, "pwd": HIDDEN}))
    assert HIDDEN not in run.stdout + run.stderr
    assert withheld(run) == "instances.pwd"
    kept = run.records("instances")[0]["additional_properties"]
    assert (kept["hasSession"], kept["usesAuth"]) == (True, False)


def test_a_secret_in_a_webhooks_url_is_hidden_and_the_rest_is_untouched() -> None:
    run = read(body("nowhere", {}))
    assert HIDDEN not in run.stdout + run.stderr
    [hook] = run.records("webhooks")
    assert hook["url"] == "https://h.example/p?a=1&senha=***&pwd=***#access_token=***&b=2"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("value", "leaves"),
    [
        (f"/hook?token={HIDDEN}", "/hook?token=***"),
        (f"h.example/in?a=1&token={HIDDEN}", "h.example/in?a=1&token=***"),
        (f"//user:{HIDDEN}@h.example/x", "//user:***@h.example/x"),
        (f"call https://user:{HIDDEN}@h.example/x now", "call https://user:***@h.example/x now"),
        (f"see https://h.example/in?a=1&token={HIDDEN}", "see https://h.example/in?a=1&token=***"),
        ("5511999999999:12@s.whatsapp.net", "5511999999999:12@s.whatsapp.net"),
        ("and/or: is the token=1 ?", "and/or: is the token=1 ?"),
    ],
)
def test_a_url_without_a_scheme_is_masked_under_any_name(place: str, value: str, leaves: str) -> None:
    run = read(body(place, {"note": value}))
    assert HIDDEN not in run.stdout + run.stderr
    assert json.dumps(leaves) in run.stdout


PEM: Final = f"-----BEGIN PRIVATE KEY-----\n{HIDDEN}\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", [f"Bearer {HIDDEN}", PEM, f"eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ.{HIDDEN}"])
def test_a_credential_is_withheld_under_any_name_and_in_lists(place: str, value: str) -> None:
    run = read(body(place, {"note": value, "notes": [SEEN, value, [value]], "new": {"a": value}, "authMethod": value}))
    assert run.returncode == 0
    assert HIDDEN not in run.stdout + run.stderr
    names = ("note", "notes[]", "notes[][]", "new.a", "authMethod")
    assert sorted(withheld(run).split(", ")) == sorted(PLACES[place].format(name) for name in names)
    assert run.stdout.count(SEEN) == 1


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_of_the_settings_is_withheld_under_any_name(place: str) -> None:
    run = read(body(place, {"note": TOKEN, "new": {"a": [TOKEN, SEEN]}, TOKEN: 1}))
    assert run.returncode == 0
    assert TOKEN not in run.stdout + run.stderr
    paths = [PLACES[place].format(name) for name in ("note", "new.a[]", "***")]
    assert sorted(withheld(run).split(", ")) == sorted(paths)
    assert run.stdout.count(SEEN) == 1


@pytest.mark.parametrize("place", PLACES)
def test_a_credential_in_the_place_of_a_key_is_not_named_either(place: str) -> None:
    run = read(body(place, {f"Bearer {HIDDEN}": 1, "new": {f"Bearer {HIDDEN}": SEEN}}))
    assert HIDDEN not in run.stdout + run.stderr
    assert sorted(withheld(run).split(", ")) == sorted(PLACES[place].format(name) for name in ("***", "new.***"))


def test_a_date_time_leaves_whatever_its_name() -> None:
    times = {"tokenExpiresAt": "2026-11-25T19:00:00.000Z", "sessionSince": "2026-11-25 19:00:00+03:00"}
    run = read(body("of a webhook", {**times, "tokenExpiry": 1795600000, "auth": f"2026-11-25 {HIDDEN}"}))
    assert withheld(run) == "webhooks.tokenExpiry, webhooks.auth"
    assert HIDDEN not in run.stdout + run.stderr
    assert run.records("webhooks")[0]["additional_properties"].items() >= times.items()


def test_a_key_that_is_spelled_like_a_path_into_auth_is_judged_by_its_name() -> None:
    time = "2026-11-25T19:00:00.000Z"
    item = {"instanceId": "i", "Auth.jwt": time, "Auth.on": True, "Auth.x": HIDDEN, "Auth": {"x": time, "on": True}}
    run = read({"Instances": [item]})
    assert run.records("instances")[0]["additional_properties"] == {"Auth.jwt": time, "Auth.on": True}
    assert withheld(run).split(", ") == ["instances.Auth.x", "instances.Auth.on"]
    assert HIDDEN not in run.stdout + run.stderr


def test_with_include_secrets_all_of_it_leaves() -> None:
    members = {"headers": {"X-Anything": HIDDEN}, "pwd": HIDDEN, "note": f"Bearer {HIDDEN}"}
    run = read(body("of a webhook", members), include_secrets=True)
    [hook] = run.records("webhooks")
    assert hook["additional_properties"] == {"extra": [[{"of": {}}]], **members}
    assert hook["url"].count(HIDDEN) == 3
    assert "withheld" not in run.stderr


def test_the_password_in_a_profile_pictures_url_is_hidden(connected: dict[str, Any]) -> None:
    connected["Instances"][0]["WhatsApp"]["pictureUrl"] = (
        "https://u:hidden-one@p.example.com/a.jpg?oe=1&token=hidden-two"
    )
    shown = read(connected).records("instances")[0]["whatsapp_picture_url"]
    assert shown == "https://u:***@p.example.com/a.jpg?oe=1&token=***"
    every = read(connected, include_secrets=True).records("instances")[0]["whatsapp_picture_url"]
    assert every == connected["Instances"][0]["WhatsApp"]["pictureUrl"]


def test_a_key_that_is_a_secret_itself_is_not_named(connected: dict[str, Any]) -> None:
    connected["Instances"][0]["Bearer value-that-must-not-leave"] = "x"
    run = read(connected)
    assert "value-that-must-not-leave" not in run.stdout + run.stderr
    assert "instances.***" in run.stderr
