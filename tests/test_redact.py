"""What is a secret, and what remains of a URL or a line once its secrets are hidden."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_instances.redact import (
    JWT,
    SECRET_ENDINGS,
    SECRET_PARTS,
    SECRET_WORDS,
    ScrubbingFormatter,
    is_plain_text,
    is_secret,
    is_secret_name,
    is_secret_text,
    mask_text,
    mask_url,
    scrub,
    scrub_logs,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

A_JWT: Final = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJleGFtcGxlIn0.not-a-signature"


# Each part stands once, in a name that is no secret without it.
PARTS: Final = {
    "token": "mytokens",
    "jwt": "newjwts",
    "secret": "clientsecrets",
    "passw": "dbpasswd",
    "passcode": "mypasscodes",
    "pairingcode": "pairingcodes",
    "apikey": "apikeyid",
    "privatekey": "privatekeyid",
    "signingkey": "signingkeyid",
    "accesskey": "accesskeyid",
    "encryptionkey": "encryptionkeyid",
    "authorization": "authorizations",
    "credential": "awscredentials",
    "cookie": "setcookies",
}
WORDS: Final = (
    *("pass", "pwd", "pw", "passphrase", "senha", "auth", "oauth", "authentication", "bearer", "cred", "creds"),
    *("signature", "sig", "hmac", "otp", "session"),
)
ENDINGS: Final = ("key", "keys", "header", "headers")


def test_the_rule_has_no_further_words() -> None:
    assert {*SECRET_PARTS} == {*PARTS}
    assert {*WORDS} == SECRET_WORDS
    assert {*ENDINGS} == SECRET_ENDINGS


def test_the_page_on_security_names_each_word_of_the_rule() -> None:
    page = (Path(__file__).parent.parent / "SECURITY.md").read_text("utf-8")
    rows = [line.split("|")[2] for line in page.splitlines() if re.match(r"\| (it contains|one of|its last)", line)]
    told = [set(re.findall(r"`(\w+)`", row)) for row in rows]
    assert told == [{*PARTS}, {*WORDS}, {*ENDINGS, "publicKey"}]
    assert "whose last word is " + ", ".join(f"`{word}`" for word in ("method", "status")) + " or `type`" in page


@pytest.mark.parametrize("part", PARTS)
def test_a_name_with_a_part_that_tells_is_a_secrets(part: str) -> None:
    name = PARTS[part]
    assert [known for known in SECRET_PARTS if known in name] == [part]
    for spelled in (name, name.upper(), name.title(), f"my_{name}_2", f"a.{name}.b", "-".join(name), "_".join(name)):
        assert is_secret_name(spelled), spelled


@pytest.mark.parametrize("word", WORDS)
def test_a_name_with_a_word_that_tells_is_a_secrets(word: str) -> None:
    capital = word.capitalize()
    for name in (
        *(
            word,
            word.upper(),
            capital,
            f"x-{word}",
            f"{word}_id",
            f"X_{word.upper()}_ID",
            f"my {word} x",
            f"a.{word}.b",
        ),
        *(f"the{capital}", f"{word}Value", f"{word.upper()}Value", f"the{word.upper()}", f"{word}2", f"2{word}2x"),
    ):
        assert is_secret_name(name), name
    for name in (f"x{word}", f"{word}x", f"my{word}value"):
        assert not is_secret_name(name) or word == "passphrase", name


@pytest.mark.parametrize("word", ENDINGS)
def test_a_name_that_ends_in_a_word_that_tells_is_a_secrets(word: str) -> None:
    for name in (word, word.upper(), f"webhook_{word}", f"my-{word}-2", f"my{word.capitalize()}", f"my.{word}"):
        assert is_secret_name(name), name
    for name in (f"{word}Id", f"{word}_name", f"{word}board", f"mon{word}", f"{word}.id"):
        assert not is_secret_name(name), name


@pytest.mark.parametrize(
    "name",
    [
        "Token", "accessToken", "access_token", "ACCESS-TOKEN", "JWT_old", "clientSecret", "password", "x-api-key",
        "a_p_i_k_e_y", "APIKey", "X_API_KEY", "accessKeyId", "Authorization", "Set-Cookie", "x-auth", "OTPCode",
        "HTTPAuth", "userPW", "OAuth2", "oAuth", "HMac", "PaSs", "KEYs", "user[pass]", "user/pass", "Auth.jwt",
        "publicKeyPass", "public.secret.key", "publisherKey", "X-Hub-Signature-256", "methodKey", "newKey",
        "tokentype", "tókén", "\uff54\uff4f\uff4b\uff45\uff4e", "\u017fecret", "to\u200bken", "to\0ken", "to\u00adken",
        "tok\ud800en", "\u212aey", "\u0442Key",
    ],
)  # fmt: skip
def test_a_credential_is_known_by_its_name(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "-", "_.1", "é", "鍵", "name", "code", "author", "authorName", "tok", "api", "chatsSet", "keyword",
        "passenger", "compass", "passé", "trépass", "signal", "design", "significant", "option", "sessions",
        "obsession", "publicKey", "public_key", "publickey", "PUBLIC-KEY", "Public Key", "publicKeys",
        "serverPublicKey", "keyId", "keys.name", "headerName", "headline", "bearers", "accreditation", "monkey", "swim",
        "authMethod", "sessionStatus", "tokenType", "auth_method", "SESSION-STATUS", "token.type", "passwordType2",
        "authMETHOD", "keyType", "headers_status", "credência", "opçãoPassível", "sigüência",
    ],
)  # fmt: skip
def test_other_names_are_no_credentials(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "value", ["", "x", "123456", 0, 1795600000, 1.5, [], ["x"], {}, {"a": "b"}, "true", "2026-01-01", "12:00"]
)
def test_what_has_a_secrets_name_is_withheld(value: Any) -> None:  # noqa: ANN401
    assert is_secret("authToken", value)
    assert is_secret("headers", value)
    assert not is_secret("name", value)


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, "2026-11-25T19:00:00Z", "2026-11-25t19:00:00.123456789z", "2026-11-25 19:00:00,5 +03:00",
        "2026-11-25T19:00:00.000+0300", "2026-11-25T19:00:00-03", "2026-11-25T19:00", "2026-11-25T19:00:00",
    ],
)  # fmt: skip
def test_a_flag_and_a_date_time_leave_under_a_secrets_name(value: Any) -> None:  # noqa: ANN401
    assert not is_secret("tokenExpiresAt", value)


@pytest.mark.parametrize(
    "value",
    [
        "x2026-11-25T19:00:00Z", "2026-11-25T19:00:00Zx", "2026-11-25T19:00:00Z\n", "2026-11-25T", "2026-11-25T19",
        "2026-11-25T19:00:00.1234567890Z", "12026-11-25T19:00:00Z", "2026-11-25T19:00:00Z 2026-11-25T19:00:00Z",
        "2026-11-25-19:00", "\u0662026-11-25T19:00:00Z",
    ],
)  # fmt: skip
def test_what_only_begins_or_ends_as_a_date_time_is_withheld(value: str) -> None:
    assert is_secret("token", value)


PEM: Final = "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        A_JWT, f"it is {A_JWT}.", f'{{"a":"{A_JWT}"}}', f"Bearer {A_JWT}", f"x={A_JWT}", f"jwt_{A_JWT}", f"a-b-{A_JWT}",
        f"Bearer%20{A_JWT}", f"a\\n{A_JWT}", f"a\n{A_JWT}", "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl",
        "eyJhbGciOiJkaXIifQ..aXZpdml2.Y2lwaGVy.dGFn",
        PEM, PEM.replace("PRIVATE", "RSA PRIVATE"), PEM.replace("PRIVATE", "ENCRYPTED PRIVATE"), f"key: {PEM}",
        "-----BEGIN OPENSSH PRIVATE KEY-----", "-----BEGIN PGP PRIVATE KEY BLOCK-----", f"{PEM}\n{PEM}",
        "Bearer x", "bearer abc.def", "BEARER  abc", " Bearer abc ", "Bearer\tabc", "Bearer\u00a0abc",
        "Basic dXNlcjpwYXNz", "basic dXNlcjpwYXNzd29yZA==", "BASIC YWJjOg==", "Basic +/+/+/+/", "Basic abcdefgh\n",
    ],
)  # fmt: skip
def test_a_text_that_is_a_credential_is_withheld_under_any_name(text: str) -> None:
    assert is_secret_text(text)
    assert is_secret("note", text)
    assert is_secret("authMethod", text)
    assert is_secret(text, True)  # noqa: FBT003 (the name is the credential)
    assert not is_secret("note", [text])  # its items are looked at one by one


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "eyJ", "eyJhbGciOiJIUzI1NiJ9", "eyJhbGciOiJIUzI1NiJ9.", "eyJhbGciOiJIUzI1NiJ9.a.b", "eyJab.abcdef",
        "heyJohnny.example", "my eyJ.x is none", "-----BEGIN PUBLIC KEY-----", "-----BEGIN CERTIFICATE-----",
        "a PRIVATE KEY is secret", "-----BEGIN " + "A" * 41 + "PRIVATE KEY-----",
        "Bearer", "Bearer ", "Bearer of news", "the Bearer x", "bearers x", "Bearerx",
        "Basic", "Basic plan", "Basic abcdefg", "Basic abcdefgh ijkl", "the Basic abcdefgh", "Basic a-b-c-d-e-f",
        "Basicabcdefgh", "Basic abcdefgh===", "Basic ========",
    ],
)  # fmt: skip
def test_other_texts_are_no_credentials(text: str) -> None:
    assert not is_secret_text(text)
    assert not is_secret("note", text)


@pytest.mark.parametrize("text", ["", "ext-0", "business-0", "Loja São João nº 1", "5511@s.whatsapp.net"])
def test_most_texts_need_no_second_look(text: str) -> None:
    assert is_plain_text(text)


@given(st.text("htps:/Bear sicde@?=yJ.-tok", max_size=40) | st.sampled_from([A_JWT, "Bearer x", "//u:p@a.example"]))
def test_nothing_is_hidden_in_a_text_that_needs_no_second_look(text: str) -> None:
    assert not is_plain_text(text) or (mask_text(text) == text and not is_secret("note", text))


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        # the password of user:password@
        ("https://user:password@a.example/x", "https://user:***@a.example/x"),
        ("https://user:p@ss:word@a.example/x", "https://user:***@a.example/x"),
        ("https://:password@a.example", "https://:***@a.example"),
        ("https://user:@a.example", "https://user:***@a.example"),
        ("https://user:p%40ss@a.example:8080/x?a=b#c", "https://user:***@a.example:8080/x?a=b#c"),
        ("https://user:password@[::1]:8080/", "https://user:***@[::1]:8080/"),
        ("HTTPS://USER:PASSWORD@A.EXAMPLE", "HTTPS://USER:***@A.EXAMPLE"),
        (" https://user:password@a.example", " https://user:***@a.example"),
        ("//user:password@a.example", "//user:***@a.example"),
        ("https:///user:password@a.example", "https:///user:***@a.example"),
        ("user:password@a.example/x", "user:***@a.example/x"),
        ("amqp+ssl://user:password@a.example", "amqp+ssl://user:***@a.example"),
        ("https://a.example/?to=https://user:pass word@b.example", "https://a.example/?to=https://user:***@b.example"),
        # query parameters by name
        ("https://a.example/?token=1", "https://a.example/?token=***"),
        ("https://a.example/?a=1&accessToken=2&b=3", "https://a.example/?a=1&accessToken=***&b=3"),
        ("https://a.example/?API-KEY=1", "https://a.example/?API-KEY=***"),
        ("https://a.example/?key=1&auth=2&sig=3&signature=4&code=5",
         "https://a.example/?key=***&auth=***&sig=***&signature=***&code=***"),
        ("https://a.example/?Key=1&CODE=2", "https://a.example/?Key=***&CODE=***"),
        ("https://a.example/?token=a=b==", "https://a.example/?token=***"),
        ("https://a.example/?token=", "https://a.example/?token=***"),
        ("https://a.example/?%74oken=1", "https://a.example/?%74oken=***"),
        ("https://a.example/?api%5Fkey=1", "https://a.example/?api%5Fkey=***"),
        ("https://a.example/?api+key=1&+key+=2&+code+=3", "https://a.example/?api+key=***&+key+=***&+code+=***"),
        ("https://a.example/?x[token]=1", "https://a.example/?x[token]=***"),
        ("https://a.example/?a=1;token=2;b=3&c=4", "https://a.example/?a=1;token=***&c=4"),
        ("https://a.example/?token=1;b=2&c=3", "https://a.example/?token=***&c=3"),
        ("https://a.example/?a?token=1&token=2", "https://a.example/?a?token=***&token=***"),
        ("https://a.example/?token=1?x=2", "https://a.example/?token=***"),
        ("a.example?code=1", "a.example?code=***"),
        ("a.example?code=1=2", "a.example?code=***"),
        ("a.example?a=1?code=2", "a.example?a=1?code=***"),
        ("a.example#a#code=2", "a.example#a#code=***"),
        ("https://a.example/?senha=1&pwd=2&pass=3&pw=4&otp=5&session=6&a=7",
         "https://a.example/?senha=***&pwd=***&pass=***&pw=***&otp=***&session=***&a=7"),
        ("https://a.example/?keys=1&user[pass]=2&authType=3", "https://a.example/?keys=***&user[pass]=***&authType=3"),
        ("https://a.example/?next=/b?token=1&c=2", "https://a.example/?next=/b?token=***&c=2"),
        # fragment parameters by name
        ("https://a.example/#access_token=1&b=2", "https://a.example/#access_token=***&b=2"),
        ("https://a.example/p?a=1#b=2;senha=3&c=4", "https://a.example/p?a=1#b=2;senha=***&c=4"),
        ("https://a.example/#/route?token=1&b=2", "https://a.example/#/route?token=***&b=2"),
        ("https://a.example/#/token?code=1", "https://a.example/#/token?code=***"),
        ("https://a.example/#%63ode=1", "https://a.example/#%63ode=***"),
        ("https://u:p@a.example/x?token=1#token=2", "https://u:***@a.example/x?token=***#token=***"),
    ],
)  # fmt: skip
def test_a_secret_in_a_url_is_hidden_and_the_rest_is_untouched(url: str, masked: str) -> None:
    assert mask_url(url) == masked
    assert mask_url(masked) == masked


@pytest.mark.parametrize(
    "url",
    [
        "", "?", "#", "&", "https://a.example", "https://a.example:8080/x;y=1?a=b&&c=&=d&e#f", "https://user@a.example/",
        "https://a.example/user:name@x", "https://a.example?a:b@c", "https://a.example/#a:b@c", "no address at all",
        "https://a.example/?token", "https://a.example/?keyword=1&author=2&coder=3", "https://a.example/token=1",
        "https://a.example/#token", "https://a.example/#/token/x?a=1", "https://a.example/?a=token=1", "#a=1?b#c=2",
        "https://a.example/?publicKey=1&token_type=2#author=3", "https://a.example/token;key=1",
        "https://a.example/%zz?%zz=1", "https://ä.example/ü?ö=ß", "https://[::1]:80/?a=1", "http://[bad/?a=1",
    ],
)  # fmt: skip
def test_a_url_without_a_secret_stays_as_it_is_to_the_byte(url: str) -> None:
    assert mask_url(url) == url


@given(st.text("https:/u:p@.?#&;=%4token key", max_size=40))
def test_masking_twice_is_masking_once(url: str) -> None:
    assert mask_url(mask_url(url)) == mask_url(url)


@given(password=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=8), rest=st.text("/?#a=b&@:"))
def test_no_password_and_no_token_remains(password: str, rest: str) -> None:
    secret = f"Zq9{password}"
    assert secret not in mask_url(f"https://user:{secret}@a.example")
    assert secret not in mask_url(f"https://a.example/x?a=b&access_token={secret}&c=d#{rest}")


@pytest.mark.parametrize("start", ["", "https://a.example/#", "Basic "])
@pytest.mark.parametrize(
    "hostile",
    [
        *("-eyJ", "eyJ", "://:", "u:", "?;=", "eyJaaaaaa.", "-eyJaaaaaa", "_eyJa.", "%20eyJ.", "a.", "?a=", "#a", "aB"),
        *("-----BEGIN ", "-----BEGIN PRIVATE ", "Bearer ", "= ", "A", "\u0315\u0316", "&token", "\ufdfa"),
    ],
)
def test_hiding_takes_no_longer_than_the_text_is_long(start: str, hostile: str) -> None:
    text = start + hostile * 20_000  # what grew with the square of it would take minutes
    for secret in (text + "=", text + ".aaaaaa "):
        assert len(scrub(secret)) > 0
        assert len(mask_url(secret)) > 0
        assert is_secret_text(secret) in {False, True}
    assert is_secret_name.__wrapped__(text) in {False, True}


@pytest.mark.parametrize(
    ("line", "scrubbed"),
    [
        (f"Bearer {A_JWT}, and more", "Bearer ***, and more"),
        (f"token={A_JWT}", "token=***"),
        (f'"{A_JWT}"', '"***"'),
        (f"{A_JWT} {A_JWT}", "*** ***"),
        (f"Bearer%20{A_JWT}", "Bearer%20eyJhbGciOiJIUzI1NiJ9.***"),
        ("eyJhbGciOiJkaXIifQ..aXZpdml2.Y2lwaGVy.dGFn eyJhbGciOiJkaXIifQ.a2V5a2V5.aXZpdml2.Y2lwaGVy.dGFn", "*** ***"),
        (
            "see https://a.example/?senha=1&b=2#access_token=3&c=4",
            "see https://a.example/?senha=***&b=2#access_token=***&c=4",
        ),
        ('"/x?pwd=1", "/y;session=2" and #key=3', '"/x?pwd=***", "/y;session=***" and #key=***'),
        ("/x?author=1&publicKey=2&token_type=3", "/x?author=1&publicKey=2&token_type=3"),
        ("see https://user:password@a.example/x now", "see https://user:***@a.example/x now"),
        ("the token is s3cr3t-long-token.", "the token is ***."),
        ("tokens-long-token-s3cr3t-long-token-x", "tokens-long-token-***-x"),
        ("the", "the"),
        ("eyJ is no token, eyJhbGci.x neither", "eyJ is no token, eyJhbGci.x neither"),
    ],
)
def test_a_line_loses_its_secrets(line: str, scrubbed: str) -> None:
    scrub_logs(["s3cr3t-long-token"])
    assert scrub(line) == scrubbed


def test_a_short_token_is_hidden_where_it_stands_alone() -> None:
    scrub_logs(["abc"])
    assert scrub("abc, abcd, 'abc' and x-abc") == "***, abcd, '***' and x-abc"


def test_a_secret_with_signs_that_mean_something_in_a_pattern_is_hidden() -> None:
    scrub_logs(["a.b*c(d[e+"])
    assert scrub("it is a.b*c(d[e+ here") == "it is *** here"


def test_a_log_line_and_its_traceback_lose_their_secrets() -> None:
    scrub_logs(["s3cr3t-long-token"])
    formatter = ScrubbingFormatter(logging.Formatter("%(levelname)s %(message)s"))
    trace = (ValueError, ValueError("s3cr3t-long-token is wrong"), None)
    record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "got %s", ("s3cr3t-long-token",), trace)
    line = formatter.format(record)
    assert "got ***" in line
    assert "ValueError: *** is wrong" in line
    assert "s3cr3t" not in line


def test_a_jwt_is_known_by_its_shape() -> None:
    assert JWT.search(A_JWT)
    assert JWT.search(A_JWT.rpartition(".")[0])
    assert not JWT.search("eyJhbGciOiJIUzI1NiJ9")


def test_a_secret_is_hidden_in_a_url_and_in_json_too() -> None:
    secret = 'a"b/c d\\e'
    scrub_logs([secret])
    line = scrub(f"{secret} and a%22b%2Fc%20d%5Ce and a%22b/c%20d%5Ce and a%22b%2fc%20d%5ce")
    assert line == "*** and *** and *** and ***"
    assert scrub(r'{"x": "a\"b/c d\\e"}') == '{"x": "***"}'


def test_the_longer_of_two_secrets_is_hidden_first() -> None:
    scrub_logs(["secret-one", "secret-one-two", "a-secret-one-more"])
    assert scrub("secret-one-two, a-secret-one-more") == "***, ***"


def test_secrets_that_begin_alike_are_all_hidden() -> None:
    tokens = [f"Token-{number}" for number in range(8, 12)]
    scrub_logs([*tokens, "Token", "to"])
    line = " / ".join([*map(str.upper, tokens), "token", "TO", "together"])
    assert scrub(line) == " / ".join(["***"] * 6 + ["together"])


def test_a_token_of_eight_characters_is_hidden_within_a_word_too() -> None:
    scrub_logs(["abcd1234", "abc1234"])
    assert scrub("xabcd1234x, xabc1234x") == "x***x, xabc1234x"


def test_a_token_is_a_secret_in_rows_too_and_what_a_header_says_is_not() -> None:
    scrub_logs(["token-of-this-run"], ["value-of-a-header"])
    assert scrub("token-of-this-run, value-of-a-header") == "***, ***"
    assert (is_secret_text("token-of-this-run"), is_secret_text("value-of-a-header")) == (True, False)


def test_an_empty_secret_hides_nothing() -> None:
    scrub_logs(["", "x"])
    assert scrub("x and y") == "*** and y"


@pytest.fixture
def handler() -> Iterator[logging.StreamHandler[io.StringIO]]:
    """Give a handler of a logger that no other test has."""
    logger = logging.getLogger("tests.redact")
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def test_secrets_that_are_found_later_are_hidden_as_well(handler: logging.StreamHandler[io.StringIO]) -> None:
    logger = logging.getLogger("tests.redact")
    scrub_logs(["the-first-secret"])
    logger.warning("the-first-secret, the-second-secret")
    scrub_logs(["the-second-secret"])
    scrub_logs([])
    logger.warning("the-first-secret, the-second-secret")
    assert handler.stream.getvalue() == "WARNING: ***, the-second-secret\nWARNING: ***, ***\n"
    formatter = handler.formatter
    assert isinstance(formatter, ScrubbingFormatter)
    assert not isinstance(formatter.inner, ScrubbingFormatter), "each call would make a line slower"


def test_a_handler_without_a_formatter_hides_secrets(handler: logging.StreamHandler[io.StringIO]) -> None:
    handler.setFormatter(None)
    scrub_logs(["the-first-secret"])
    logging.getLogger("tests.redact").warning("it is the-first-secret")
    assert handler.stream.getvalue() == "it is ***\n"


def test_what_is_logged_without_any_handler_holds_no_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("tests.alone")
    monkeypatch.setattr(logger, "propagate", False)
    scrub_logs(["the-first-secret"])
    logger.warning("it is the-first-secret")
    assert capsys.readouterr().err == "it is ***\n"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me@mail.com:hidden@h.example.com/x", "https://me@mail.com:***@h.example.com/x"),
        ("see http://u:hidden@a.example.com, http://v:hidden@b.example.com", None),
        ("https://h.example.com/?next=https://u:hidden@i.example.com/x", None),
        ("https://h.example.com:8443/a@b", "https://h.example.com:8443/a@b"),
    ],
)
def test_the_password_is_hidden_whoever_the_user_is_and_wherever_the_url_stands(url: str, shown: str | None) -> None:
    assert mask_url(url) == (shown or url.replace("hidden", "***"))
    assert "hidden" not in scrub(url)
