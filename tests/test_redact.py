"""What is a secret, and what remains of a URL or a line once its secrets are hidden."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_instances.redact import JWT, ScrubbingFormatter, is_secret_name, mask_url, scrub

A_JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJleGFtcGxlIn0.not-a-signature"


@pytest.mark.parametrize(
    "name",
    [
        "token", "Token", "accessToken", "access_token", "ACCESS-TOKEN", "jwt", "newJwt", "JWT_old", "secret",
        "clientSecret", "password", "passwd", "passphraseword_passw", "apikey", "apiKey", "api_key", "api-key",
        "x-api-key", "a_p_i_k_e_y", "authorization", "Authorization", "credential", "awsCredentials", "cookie",
        "Set-Cookie", "refreshToken",
    ],
)  # fmt: skip
def test_a_credential_is_known_by_its_name(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["", "name", "key", "auth", "code", "sig", "author", "tok", "pass", "api", "chatsSet"])
def test_other_names_are_no_credentials(name: str) -> None:
    assert not is_secret_name(name)


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
        ("https://a.example/?api+key=1&+key+=2", "https://a.example/?api+key=1&+key+=***"),
        ("https://a.example/?x[token]=1", "https://a.example/?x[token]=***"),
        ("https://a.example/?a=1;token=2;b=3&c=4", "https://a.example/?a=1;token=***&c=4"),
        ("https://a.example/?token=1;b=2&c=3", "https://a.example/?token=***&c=3"),
        ("https://a.example/?a?token=1&token=2", "https://a.example/?a?token=***&token=***"),
        ("https://a.example/?token=1?x=2", "https://a.example/?token=***"),
        ("a.example?code=1", "a.example?code=***"),
        ("https://u:p@a.example/x?token=1#token=2", "https://u:***@a.example/x?token=***#token=2"),
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
        "https://a.example/?token", "https://a.example/?keys=1&author=2&coder=3", "https://a.example/token=1",
        "https://a.example/#token=1", "https://a.example/#/route?token=1", "https://a.example/?a=token=1",
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


@pytest.mark.parametrize("hostile", ["-eyJ", "eyJ", "://:", "u:", "?;=", "eyJaaaaaa."])
def test_hiding_takes_no_longer_than_the_text_is_long(hostile: str) -> None:
    text = hostile * 100_000  # what grew with the square of it would take minutes
    assert len(scrub(text)) > 0
    assert len(mask_url(text)) > 0


@pytest.mark.parametrize(
    ("line", "scrubbed"),
    [
        (f"Bearer {A_JWT}, and more", "Bearer ***, and more"),
        (f"token={A_JWT}", "token=***"),
        (f'"{A_JWT}"', '"***"'),
        (f"{A_JWT} {A_JWT}", "*** ***"),
        ("see https://user:password@a.example/x now", "see https://user:***@a.example/x now"),
        ("the token is s3cr3t-long-token.", "the token is ***."),
        ("tokens-long-token-s3cr3t-long-token-x", "tokens-long-token-***-x"),
        ("the", "the"),
        ("eyJ is no token, eyJhbGci.x neither", "eyJ is no token, eyJhbGci.x neither"),
    ],
)
def test_a_line_loses_its_secrets(line: str, scrubbed: str) -> None:
    assert scrub(line, ["s3cr3t-long-token"]) == scrubbed


def test_a_short_token_is_hidden_where_it_stands_alone() -> None:
    assert scrub("abc, abcd, 'abc' and x-abc", ["abc"]) == "***, abcd, '***' and x-abc"


def test_a_secret_with_signs_that_mean_something_in_a_pattern_is_hidden() -> None:
    assert scrub("it is a.b*c(d[e+ here", ["a.b*c(d[e+"]) == "it is *** here"


def test_a_log_line_and_its_traceback_lose_their_secrets() -> None:
    formatter = ScrubbingFormatter(logging.Formatter("%(levelname)s %(message)s"), ["s3cr3t-long-token"])
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
    assert not JWT.search("x-eyJhbGciOiJIUzI1NiJ9.payload")  # not within a run of its characters: linear
