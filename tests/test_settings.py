"""Wrong settings are refused before the first request: by name, with what to do, and never with a secret's value."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any, Final

import pytest
from singer_sdk.exceptions import ConfigValidationError

from demo.codechat import CodeChat, World
from tap_instances.columns import column_names
from tap_instances.settings import SETTINGS, secrets
from tap_instances.tap import TapInstances
from tests.kit.checked import BUSINESS, STREAMS, checked, command, read, settings
from tests.kit.support import TOKEN, Run, discover, logged, refusals, run_cli, sync

RIGHT: Final = {"api_url": "https://codechat.example.com", "business_id": "b-1", "auth_token": "s3cr3t-token"}
URL: Final = {"api_url": RIGHT["api_url"]}
ONE: Final = {"business_id": "b-1", "auth_token": "s3cr3t-1"}
TWO: Final = {"business_id": "b-2", "auth_token": "s3cr3t-2"}


# What is changed in the right settings (None: taken away) -> what each line names, and what it says to do.
WRONG: Final[list[tuple[dict[str, Any], list[tuple[str, str]]]]] = [
    ({"api_url": None}, [("api_url", "missing: set it")]),
    ({"api_url": ""}, [("api_url", "missing: set it")]),
    ({"api_url": " "}, [("api_url", "missing: set it")]),
    ({"api_url": "codechat.example.com"}, [("api_url", "must be a web address such as")]),
    ({"api_url": "localhost:8080"}, [("api_url", "must be a web address such as")]),
    ({"api_url": "ftp://codechat.example.com"}, [("api_url", "must be a web address such as")]),
    ({"api_url": "https://"}, [("api_url", "must be a web address such as")]),
    ({"api_url": "https:///path"}, [("api_url", "must be a web address such as")]),
    ({"api_url": "https://a b.example"}, [("api_url", "must be a web address such as")]),
    ({"api_url": "https://a.example\n.example"}, [("api_url", "must be a web address such as")]),
    ({"api_url": "https:\\\\a.example"}, [("api_url", "must be a web address such as")]),
    ({"api_url": "https://a.example:port"}, [("api_url", "must be a web address such as")]),
    ({"api_url": "https://a.example:99999"}, [("api_url", "must be a web address such as")]),
    ({"api_url": "https://a.example:65536"}, [("api_url", "must be a web address such as")]),
    ({"api_url": "https://a.example:0"}, [("api_url", "must be a web address such as")]),
    ({"api_url": "https://[::1"}, [("api_url", "must be a web address such as")]),
    ({"api_url": "https://u:s3cr3t@a.example"}, [("api_url", "must not hold a user or a password")]),
    ({"api_url": "https://s3cr3t@a.example"}, [("api_url", "must not hold a user or a password")]),
    ({"api_url": "https://a.example/?token=s3cr3t"}, [("api_url", "give the base URL only")]),
    ({"api_url": "https://a.example/?"}, [("api_url", "give the base URL only")]),
    ({"api_url": "https://a.example/#s3cr3t"}, [("api_url", "give the base URL only")]),
    ({"api_url": "https://a.example/api/v2"}, [("api_url", "give the base URL only")]),
    ({"api_url": "https://a.example/api/v2/business/b-1/instance/connected"}, [("api_url", "give the base URL only")]),
    ({"api_url": 7}, [("api_url", "must be of type string")]),
    ({"api_url": ["s3cr3t"]}, [("api_url", "must be of type string")]),
    ({"concurrency": {}}, [("concurrency", "must be of type integer")]),
    ({"business_id": None}, [("business_id", "missing: set it, with auth_token, or use")]),
    ({"business_id": ""}, [("business_id", "missing: set it, with auth_token, or use")]),
    ({"business_id": "."}, [("business_id", "must be an id")]),
    ({"business_id": ".."}, [("business_id", "must be an id")]),
    ({"business_id": "b\n1"}, [("business_id", "must be an id")]),
    ({"business_id": "b\x00"}, [("business_id", "must be an id")]),
    ({"business_id": 17}, [("business_id", "must be of type string")]),
    ({"auth_token": None}, [("auth_token", "missing: set it, or admin_token, which finds it")]),
    ({"auth_token": ""}, [("auth_token", "missing: set it, or admin_token, which finds it")]),
    ({"auth_token": "Bearer s3cr3t"}, [("auth_token", "the bare token")]),
    ({"auth_token": "s3cr3t\ns3cr3t"}, [("auth_token", "the bare token")]),
    ({"auth_token": "s3cr3t\r\nX-Evil: 1"}, [("auth_token", "the bare token")]),
    ({"auth_token": "s3cr3té"}, [("auth_token", "the bare token")]),
    ({"auth_token": 5318008}, [("auth_token", "must be of type string")]),
    ({"auth_token": {"value": "s3cr3t"}}, [("auth_token", "must be of type string")]),
    (
        {"business_id": None, "auth_token": None},
        [("business_id", "missing: set it, with auth_token, or use businesses, businesses_file or admin_token")],
    ),
    ({"business_id": None, "admin_token": "s3cr3t"}, [("business_id", "missing: set it, with auth_token, or use")]),
    ({"admin_token": "Bearer s3cr3t"}, [("admin_token", "the bare token")]),
    ({"admin_token": 5318008}, [("admin_token", "must be of type string")]),
    ({"businesses": [TWO]}, [("businesses", "and business_id/auth_token are both given: keep one")]),
    (
        {"businesses": [TWO], "auth_token": None},
        [("businesses", "and business_id/auth_token are both given: keep one")],
    ),
    ({"businesses": []}, [("businesses", "are both given"), ("businesses", "must list at least one")]),
    ({"businesses_file": "list.json"}, [("businesses_file", "and business_id/auth_token are both given: keep one")]),
    (
        {"business_id": None, "auth_token": None, "businesses": [TWO], "businesses_file": "list.json"},
        [("businesses", "and businesses_file are both given: keep one")],
    ),
    ({"businesses_file": 7, "business_id": None, "auth_token": None}, [("businesses_file", "must be of type string")]),
    (
        {"businesses_file": '[{"auth_token": "s3cr3t"}]', "business_id": None, "auth_token": None},
        [("businesses_file", "must be the path of a file; a list itself goes into businesses")],
    ),
    ({"include_secrets": "yes"}, [("include_secrets", "must be of type boolean")]),
    ({"include_secrets": 1}, [("include_secrets", "must be of type boolean")]),
    ({"concurrency": 0}, [("concurrency", "must be at least 1")]),
    ({"concurrency": 101}, [("concurrency", "must be at most 100")]),
    ({"concurrency": "4"}, [("concurrency", "must be of type integer")]),
    ({"concurrency": 1.5}, [("concurrency", "must be of type integer")]),
    ({"concurrency": True}, [("concurrency", "must be of type integer")]),
    ({"request_timeout": 0}, [("request_timeout", "must be at least 1")]),
    ({"request_timeout": -1}, [("request_timeout", "must be at least 1")]),
    ({"request_timeout": 1e308}, [("request_timeout", "must be at most 86400")]),
    ({"max_retries": -1}, [("max_retries", "must be at least 0")]),
    ({"max_retries": 1000}, [("max_retries", "must be at most 100")]),
    ({"user_agent": "a\nb"}, [("user_agent", "must be plain ASCII text")]),
    ({"user_agent": "agênt"}, [("user_agent", "must be plain ASCII text")]),
    ({"user_agent": 7}, [("user_agent", "must be of type string")]),
    ({"emit_activate_version_messages": "true"}, [("emit_activate_version_messages", "must be of type boolean")]),
    ({"stream_maps": "s3cr3t"}, [("stream_maps", "must be of type object")]),
    ({"stream_maps": {"__else__": "s3cr3t"}}, [("stream_maps", "is not of the right shape: see --about")]),
    ({"flattening_enabled": "s3cr3t"}, [("flattening_enabled", "must be of type boolean")]),
    ({"flattening_enabled": True}, [("flattening_max_depth", "is required when flattening is enabled")]),
    ({"batch_config": "s3cr3t"}, [("batch_config", "must be of type object")]),
    (
        {"concurrency": 0, "max_retries": -1, "include_secrets": "s3cr3t", "api_url": None},
        [("api_url", "missing"), ("concurrency", "least"), ("include_secrets", "boolean"), ("max_retries", "least")],
    ),
]
WRONG_BUSINESSES: Final[list[tuple[Any, list[tuple[str, str]]]]] = [
    ([], [("businesses", "must list at least one {business_id, auth_token}")]),
    ("s3cr3t", [("businesses", "must be of type array")]),
    ({"business_id": "b", "auth_token": "s3cr3t"}, [("businesses", "must be of type array")]),
    (["s3cr3t"], [("businesses[0]", "must be of type object")]),
    ([ONE, None], [("businesses[1]", "must be of type object")]),
    ([{}], [("businesses[0].business_id", "missing: set it")]),
    ([{"busines_id": "b"}], [("businesses[0].business_id", "did you mean 'business_id'?")]),
    ([ONE, {"auth_token": "s3cr3t"}], [("businesses[1].business_id", "missing: set it")]),
    ([ONE, {"business_id": "b-2"}], [("businesses[1].auth_token", "missing: set it")]),
    ([ONE, TWO | {"auth_token": ""}], [("businesses[1].auth_token", "missing: set it")]),
    ([ONE, TWO | {"business_id": ""}], [("businesses[1].business_id", "missing: set it")]),
    (
        [ONE | {"business_id": ""}] * 2,
        [("businesses[0].business_id", "missing"), ("businesses[1].business_id", "missing")],
    ),
    ([ONE, TWO | {"auth_token": None}], [("businesses[1].auth_token", "missing: set it, or admin_token")]),
    (
        [ONE, {"business_id": "b-2", "auth_tokn": "s3cr3t"}],
        [("businesses[1].auth_token", "did you mean 'auth_token'?")],
    ),
    ([ONE | {"business_id": 1}], [("businesses[0].business_id", "must be of type string")]),
    ([ONE | {"business_id": ".."}], [("businesses[0].business_id", "must be an id")]),
    ([ONE | {"auth_token": "Bearer s3cr3t"}], [("businesses[0].auth_token", "the bare token")]),
    ([ONE, TWO, ONE], [("businesses[2].business_id", "same as businesses[0].business_id: list a business once")]),
    ([ONE, ONE | {"auth_token": "s3cr3t-3"}], [("businesses[1].business_id", "list a business once")]),
    (
        [ONE, ONE, ONE],
        [("businesses[1].business_id", "list a business once"), ("businesses[2].business_id", "list a business once")],
    ),
]


def assert_refused(config: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    lines = sorted(refusals(config))
    assert len(lines) == len(expected), lines
    for line, (name, what) in zip(lines, sorted(expected), strict=True):
        assert line.startswith(f"{name} "), lines
        assert what in line, lines
        assert "\n" not in line
    assert "s3cr3t" not in "".join(lines)
    assert "5318008" not in "".join(lines)


@pytest.mark.parametrize(("change", "expected"), WRONG)
def test_a_wrong_setting_is_named_with_what_to_do_and_without_its_value(
    change: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    config = {name: value for name, value in (RIGHT | change).items() if value is not None}
    assert_refused(config, expected)


@pytest.mark.parametrize(("businesses", "expected"), WRONG_BUSINESSES)
def test_wrong_businesses_are_named_by_their_place(businesses: Any, expected: list[tuple[str, str]]) -> None:  # noqa: ANN401
    assert_refused({**URL, "businesses": businesses}, expected)


RIGHT_CHANGES: Final[list[dict[str, Any]]] = [
    {},
    {"api_url": "https://codechat.example.com/"},
    {"api_url": " https://codechat.example.com "},
    {"api_url": "http://localhost:8080"},
    {"api_url": "http://[::1]:8080/base/path/"},
    {"api_url": "http://[fe80::1%25eth0]"},
    {"api_url": "HTTPS://CODECHAT.EXAMPLE.COM"},
    {"business_id": "../b/1 ?#%"},
    {"business_id": "..."},
    {"business_id": "negócio 🥖"},
    {"auth_token": "!#$%&'*+-.^_`|~:/?=@[]{}<>\\\""},
    {"concurrency": 100, "max_retries": 0, "request_timeout": 1},
    {"user_agent": "my-pipeline/1.0 (ops@example.com)"},
    {"include_secrets": True},
    {"emit_activate_version_messages": True},
    {"business_id": " b-1 ", "auth_token": "s3cr3t\n"},
    {"auth_token": None, "admin_token": " s3cr3t "},
    {"business_id": None, "auth_token": None, "admin_token": "s3cr3t"},
    {"headers": {"apikey": "s3cr3t s3cr3t", "CF-Access-Client-Id": "x", "X-!#$%&'*+.^_`|~9": "~"}},
    {"headers": {}},
]


@pytest.mark.parametrize("change", RIGHT_CHANGES)
def test_right_settings_are_taken(change: dict[str, Any]) -> None:
    assert refusals(RIGHT | change) == []


@pytest.mark.parametrize("name", sorted(set(SETTINGS["properties"]) - {"api_url", "business_id", "auth_token"}))
def test_a_setting_that_is_null_is_as_not_set(name: str) -> None:
    assert refusals({**RIGHT, name: None}) == []


def test_settings_of_one_business_that_are_null_leave_room_for_businesses() -> None:
    assert refusals({**URL, "businesses": [ONE], "business_id": None, "auth_token": None}) == []


def test_a_required_setting_that_is_null_is_missing() -> None:
    assert_refused({**RIGHT, "api_url": None}, [("api_url", "missing")])


@pytest.mark.parametrize("name", ["concurrency", "max_retries", "request_timeout"])
def test_a_whole_number_with_a_fraction_of_zero_is_an_integer(name: str) -> None:
    world = World.seeded(5, businesses=2, instances=1)
    with CodeChat(world) as server:
        run = checked(sync({**world.settings(server.url), name: 2.0}))
    assert run.returncode == 0
    assert len(run.records("businesses")) == 2


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("busines_id", "business_id"),
        ("token", "auth_token"),
        ("api-url", "api_url"),
        ("start_date", None),
        ("max_retry", "max_retries"),
    ],
)
def test_an_unknown_setting_is_warned_of_with_the_one_that_may_be_meant(name: str, suggestion: str | None) -> None:
    unknown: dict[str, Any] = {name: "s3cr3t"}
    run = read({"Instances": []}, **unknown)
    assert run.returncode == 0
    [line] = run.lines("WARNING")
    assert repr(name) in line
    assert ("did you mean" in line) == bool(suggestion)
    assert suggestion is None or repr(suggestion) in line
    assert "s3cr3t" not in run.stdout + run.stderr


def test_an_empty_variable_hides_nothing_of_the_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {**os.environ, "TAP_INSTANCES_BUSINESS_ID": " "})
    (tmp_path / ".env").write_text("TAP_INSTANCES_BUSINESS_ID=b-17\n", encoding="utf-8")
    given = {name: value for name, value in RIGHT.items() if name != "business_id"}
    businesses = TapInstances(config=given, parse_env_config=True).config["businesses"]
    assert [business["business_id"] for business in businesses] == ["b-17"]


@pytest.mark.parametrize("name", ["auth_token", "admin_token", "headers"])
def test_a_secret_with_half_a_pair_is_refused_by_name(name: str) -> None:
    value: Any = {"apikey": "s3cr3t-\ud800"} if name == "headers" else "s3cr3t-\ud800"
    [line] = refusals(RIGHT | {name: value})
    assert line.startswith(name)
    assert "s3cr3t" not in line


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_an_unknown_variable_is_warned_of_as_a_setting_of_a_file_is(
    codechat: CodeChat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    variables = {
        "TAP_INSTANCES_MAX_RETRYS": "s3cr3t",
        "TAP_INSTANCES_START_DATE": " ",
        "TAP_INSTANCES_LOGLEVEL": "INFO",
        "TAP_INSTANCES__SELECT": "Meltano's",
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {**os.environ, **(variables if place == "environment" else {})})
    if place == ".env":
        lines = [f'{name}="{text}"' for name, text in variables.items()]
        (tmp_path / ".env").write_text("\n".join(lines), encoding="utf-8")
    with logged("%(levelname)s %(message)s") as log:
        TapInstances(config=settings(codechat), parse_env_config=True)
    [line] = log.getvalue().splitlines()
    assert line == "WARNING setting 'max_retrys' is not known and is ignored: did you mean 'max_retries'?"


def test_the_declaration_marks_what_is_secret() -> None:
    properties = SETTINGS["properties"]
    secret = {name for name, schema in properties.items() if schema.get("secret") or schema.get("writeOnly")}
    assert secret == {"auth_token", "businesses", "admin_token", "headers"}
    assert properties["businesses"]["items"]["properties"]["auth_token"]["secret"]


def test_every_setting_is_described() -> None:
    assert set(SETTINGS["properties"]) >= {
        "api_url", "business_id", "auth_token", "businesses", "businesses_file", "admin_token", "headers",
        "include_secrets", "concurrency", "request_timeout", "max_retries", "user_agent",
    }  # fmt: skip
    for name, schema in SETTINGS["properties"].items():
        assert schema["title"], name
        assert len(schema["description"]) > 15, name
    defaults = {name: schema["default"] for name, schema in SETTINGS["properties"].items() if "default" in schema}
    assert defaults.items() >= {
        "include_secrets": False, "concurrency": 4, "request_timeout": 60, "max_retries": 5,
    }.items()  # fmt: skip


def test_a_plain_http_address_that_is_not_loopback_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for url, warned in (
        ("http://codechat.example.com", True), ("http://10.0.0.7", True), ("https://codechat.example.com", False),
        ("http://localhost:8080", False), ("http://127.0.0.2", False), ("http://[::1]", False),
        ("http://localhost.example.com", True), ("http://127.0.0.1.example.com", True),
    ):  # fmt: skip
        caplog.clear()
        assert TapInstances(config=RIGHT | {"api_url": url}).client.api_url == url
        assert ("plain http" in caplog.text) == warned, url


# ------------------------------------------------------------------------------------------------ as a process


@pytest.mark.parametrize("mode", [(), ("--test",), ("--test=schema",)])
def test_a_wrong_setting_is_one_line_also_where_warnings_are_shown(mode: tuple[str, ...]) -> None:
    run = run_cli({"business_id": "b"}, *mode, state={}, catalog={"streams": []}, env={"PYTHONWARNINGS": "once"})
    assert run.returncode == 1
    [line] = run.stderr.splitlines()  # Meltano sets this: a file left open would be three lines more
    assert "api_url is missing" in line


def test_each_wrong_setting_is_one_error_line_and_nothing_is_asked(codechat: CodeChat) -> None:
    wrong = {"concurrency": 0, "max_retries": "s3cr3t", "include_secrets": "s3cr3t", "auth_token": ["s3cr3t"]}
    run = run_cli(settings(codechat) | wrong)
    assert run.returncode == 1
    assert run.stdout == ""
    lines = run.lines("ERROR")
    assert len(lines) == len(wrong) == len([line for line in run.stderr.splitlines() if "must be" in line])
    for name in wrong:
        assert sum(f"| {name} must be" in line for line in lines) == 1
    assert "Traceback" not in run.stderr
    assert "s3cr3t" not in run.stderr
    assert not codechat.requests


def test_the_environment_is_a_configuration(codechat: CodeChat) -> None:
    env = {
        "TAP_INSTANCES_API_URL": codechat.url,
        "TAP_INSTANCES_BUSINESSES": json.dumps([{"business_id": BUSINESS, "auth_token": TOKEN}]),
        "TAP_INSTANCES_INCLUDE_SECRETS": "true",
        "TAP_INSTANCES_CONCURRENCY": "2",
        "TAP_INSTANCES_STREAM_MAPS": '{"webhooks": null}',
        "TAP_INSTANCES_USER_AGENT": "my-pipeline/1",
        "TAP_INSTANCES_MAX_RETRIES": "",
    }
    run = checked(run_cli(None, "--config=ENV", env=env))
    assert run.returncode == 0
    assert run.records("instances")[0]["auth_jwt"].startswith("eyJ")
    assert not run.records("webhooks")
    assert codechat.requests[0].headers["user-agent"] == "my-pipeline/1"
    assert TOKEN not in run.stdout + run.stderr


def test_a_wrong_environment_is_refused_by_the_variables_name(codechat: CodeChat) -> None:
    env = {
        "TAP_INSTANCES_API_URL": codechat.url,
        "TAP_INSTANCES_BUSINESSES": '[{"business_id": "b", "auth_token": "s3cr3t"',
        "TAP_INSTANCES_INCLUDE_SECRETS": "s3cr3t",
        "TAP_INSTANCES_CONCURRENCY": "s3cr3t",
        "TAP_INSTANCES_STREAM_MAPS": "s3cr3t",
    }
    run = run_cli(None, "--config=ENV", env=env)
    assert run.returncode == 1
    whats = {
        "BUSINESSES": "JSON",
        "INCLUDE_SECRETS": "true or false",
        "CONCURRENCY": "an integer",
        "STREAM_MAPS": "JSON",
    }
    lines = run.lines("ERROR")
    assert len(lines) == len(whats)
    for name, what in whats.items():
        assert sum(line.endswith(f"TAP_INSTANCES_{name} must be {what}") for line in lines) == 1
    assert "s3cr3t" not in run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    assert not codechat.requests


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("BUSINESSES", '{"business_id": "b", "auth_token": "s3cr3t"}', "businesses must be of type array"),
        ("BUSINESSES", '"s3cr3t"', "businesses must be of type array"),
        ("BUSINESSES", "s3cr3t,s3cr3t", "TAP_INSTANCES_BUSINESSES must be JSON"),
        ("CONCURRENCY", "0", "concurrency must be at least 1"),
        ("CONCURRENCY", "1.5", "concurrency must be of type integer"),
        ("HEADERS", "apikey: s3cr3t", "TAP_INSTANCES_HEADERS must be JSON"),
        ("HEADERS", '["s3cr3t"]', "headers must be of type object"),
    ],
)
def test_environment_values_of_another_shape_are_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, what: str
) -> None:
    env = {"API_URL": "https://codechat.example.com", "BUSINESSES": '[{"business_id": "b", "auth_token": "t"}]'}
    for name, text in (env | {variable: value}).items():
        monkeypatch.setenv(f"TAP_INSTANCES_{name}", text)
    with pytest.raises(ConfigValidationError) as refused:
        TapInstances(parse_env_config=True)
    assert refused.value.errors == [what]


WORDS: Final = {
    "true": True,
    "TRUE": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "Off": False,
}


@pytest.mark.parametrize(("text", "value"), WORDS.items())
def test_the_environments_words_for_true_and_false(
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    value: bool,  # noqa: FBT001
) -> None:
    for name, setting in (RIGHT | {"include_secrets": text}).items():
        monkeypatch.setenv(f"TAP_INSTANCES_{name.upper()}", setting)
    assert TapInstances(parse_env_config=True).config["include_secrets"] is value


def test_the_environment_goes_before_a_config_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAP_INSTANCES_CONCURRENCY", "7")
    monkeypatch.setenv("TAP_INSTANCES_MAX_RETRIES", "7")
    config = TapInstances(config=RIGHT | {"concurrency": 2}, parse_env_config=True).config
    assert (config["concurrency"], config["max_retries"]) == (7, 7)


@pytest.mark.parametrize(
    ("option", "content"),
    [
        *(
            (option, content)
            for option in ("config", "catalog")
            for content in (None, "{", '"s3cr3t"', b"\xff", "folder")
        ),
        ("catalog", "[]"),
        ("catalog", '{"steams": []}'),
        ("catalog", '{"streams": {}}'),
        ("catalog", json.dumps(RIGHT)),  # the other file
        ("catalog", '{"streams": [{"stream": "s3cr3t"}]}'),
        ("catalog", '{"streams": ["s3cr3t"]}'),
    ],
)
def test_a_file_that_is_missing_or_unreadable_is_named_in_one_error_line(
    tmp_path: Path, codechat: CodeChat, option: str, content: str | bytes | None
) -> None:
    path = tmp_path / f"the-{option}.json"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content, encoding="utf-8")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(settings(codechat)), encoding="utf-8")
    run = command("--config", str(config), f"--{option}", str(path))
    assert run.returncode in {1, 2}
    assert "Traceback" not in run.stderr
    [line] = run.lines("ERROR") + run.lines("Error:")  # the second is the command line's own
    assert f"the-{option}.json" in line
    assert ("(line 1, column 2)" in line) is (content == "{")
    assert "s3cr3t" not in run.stdout + run.stderr
    assert not codechat.requests


def test_files_of_settings_may_be_several_and_the_later_one_counts(tmp_path: Path, codechat: CodeChat) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"user_agent": "the later one"}), encoding="utf-8")
    run = checked(run_cli(settings(codechat, user_agent="the first one"), "--config", str(other)))
    assert run.returncode == 0
    assert codechat.requests[0].headers["user-agent"] == "the later one"


# ------------------------------------------------------------------------------------------------- misspelled, unread


MISSPELLED: Final[list[tuple[dict[str, Any], list[str]]]] = [
    ({"api-url": "x", "business_id": "b", "auth_token": "s3cr3t"}, ["api_url"]),
    ({**URL, "bussines_id": "b", "auth_token": "s3cr3t"}, ["business_id"]),
    ({**URL, "business_id": "b", "auth_tokn": "s3cr3t"}, ["auth_token"]),
    ({**URL, "busines_id": "b", "auth_tokn": "s3cr3t"}, ["business_id", "auth_token"]),
    ({**URL, "businesess": [ONE]}, ["businesses"]),
    ({**URL, "business_file": "b.json"}, ["businesses_file"]),
    ({**URL, "admin_tokn": "s3cr3t"}, ["admin_token"]),
    ({**URL, "businessId": "b", "businessToken": "s3cr3t"}, ["business_id", "auth_token"]),  # as the API has them
    ({**URL, "businesses": [{"business_id": "b", "business_token": "s3cr3t"}]}, ["auth_token"]),
    ({**URL, "business_id": "b", "businesstoken": "s3cr3t"}, ["auth_token"]),  # from the environment
]


@pytest.mark.parametrize(("config", "meant"), MISSPELLED)
def test_a_misspelled_setting_is_named_where_it_makes_a_required_one_missing(
    config: dict[str, Any], meant: list[str]
) -> None:
    lines = refusals(config)
    for name in meant:
        assert sum(f"did you mean {name!r}?" in line for line in lines) == 1, lines
    assert "s3cr3t" not in "".join(lines)


def test_a_setting_that_is_given_is_not_told_to_be_missing() -> None:
    [line] = refusals({**URL, "auth_token": "s3cr3t", "auth_tokens": "s3cr3t"})
    assert line.startswith("business_id is missing: set it")


def test_a_setting_in_the_environment_is_told_of_beside_another_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TAP_INSTANCES_BUSINESS_ID", "b")
    [line] = refusals({})
    assert line.startswith("api_url is missing")
    assert "--config=ENV" in line


@pytest.mark.parametrize(
    ("name", "config"), [("api_url", {}), ("business_id", URL), ("auth_token", URL | {"business_id": "b"})]
)
def test_settings_in_the_environment_that_are_not_read_are_told(
    monkeypatch: pytest.MonkeyPatch, name: str, config: dict[str, Any]
) -> None:
    monkeypatch.setenv(f"TAP_INSTANCES_{name.upper()}", "s3cr3t")
    [line] = refusals(config)
    assert line.startswith(f"{name} is missing")
    assert "--config=ENV" in line
    assert "s3cr3t" not in line


def test_settings_in_a_dotenv_that_is_not_read_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("TAP_INSTANCES_API_URL=s3cr3t\n", encoding="utf-8")
    [line] = refusals({})
    assert line == "api_url is missing: set it (TAP_INSTANCES_… are in .env, which --config=ENV reads)"
    (tmp_path / ".env").write_bytes(b"TAP_INSTANCES_API_URL=\xff\n")
    assert refusals({}) == [line]
    (tmp_path / ".env").write_text("TAP_INSTANCES_API_URL= \n", encoding="utf-8")
    assert refusals({}) == ["api_url is missing: set it"]


@pytest.mark.parametrize("place", ["the environment", ".env"])
def test_a_misspelled_variable_is_named_where_it_makes_a_setting_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if place == ".env":
        (tmp_path / ".env").write_text("TAP_INSTANCES_BUSINES_ID=s3cr3t\n", encoding="utf-8")
    else:
        monkeypatch.setenv("TAP_INSTANCES_BUSINES_ID", "s3cr3t")
    right, wrong = "TAP_INSTANCES_BUSINESS_ID", "TAP_INSTANCES_BUSINES_ID"
    [line] = refusals({**URL, "auth_token": "s3cr3t"})  # as Meltano gives them
    assert line == f"business_id is missing, but {wrong} is in {place}: did you mean {right}?"


def test_a_variable_that_is_no_setting_is_not_said_to_be_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAP_INSTANCES_FOLDER", "x")
    assert refusals({}) == ["api_url is missing: set it"]


def test_without_such_variables_the_line_does_not_speak_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAP_INSTANCES_LOGLEVEL", "INFO")
    assert ["--config=ENV" in line for line in refusals({})] == [False]


def test_settings_in_the_environment_that_were_read_are_not_said_to_be_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAP_INSTANCES_BUSINESS_ID", "b")
    with pytest.raises(ConfigValidationError, match="api_url is missing") as refused:
        TapInstances(parse_env_config=True)
    assert "--config=ENV" not in str(refused.value)


# ------------------------------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Authorization", "use auth_token"),
        ("authorization", "use auth_token"),
        ("User-Agent", "use user_agent"),
        *((name, "the tap sets it itself") for name in (
            "Host", "content-length", "Transfer-Encoding", "Connection", "TE", "Upgrade", "Expect", "Range",
            "Accept-Encoding", "If-Match", "if-none-match", "Proxy-Authorization", "proxy-connection",
        )),
    ],
)  # fmt: skip
def test_a_header_that_is_not_the_users_is_refused_by_name(name: str, what: str) -> None:
    [line] = refusals(RIGHT | {"headers": {name: "s3cr3t", "apikey": "s3cr3t"}})
    assert line.startswith(f"headers.{name} ")
    assert what in line


def test_a_header_that_is_given_in_two_cases_is_refused_by_both_names() -> None:
    lines = refusals(RIGHT | {"headers": {"apikey": "s3cr3t", "ApiKey": "s3cr3t", "other": "x"}})
    assert [line.split()[0] for line in lines] == ["headers.apikey", "headers.ApiKey"]


@pytest.mark.parametrize(
    "value", ["", " s3cr3t", "s3cr3t ", "s3cr3t\n", "s3\r\ncr3t: 1", "s3cr3té", "s3\x00cr3t", "a\tb"]
)
def test_a_header_whose_value_cannot_be_sent_as_it_is_is_refused_by_name(value: str) -> None:
    [line] = refusals(RIGHT | {"headers": {"X-Key": value}})
    assert line == "headers.X-Key must be printable ASCII without blanks at its ends"


@pytest.mark.parametrize("value", [7, True, ["s3cr3t"], {"a": "s3cr3t"}])
def test_a_header_that_is_no_text_is_refused_by_name(value: Any) -> None:  # noqa: ANN401
    assert refusals(RIGHT | {"headers": {"X-Key": value}}) == ["headers.X-Key must be of type string"]


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\nb", "a\n", "é", "(a)", "Cookie: s3cr3t"])
def test_a_header_name_that_http_does_not_know_is_refused_and_not_quoted(name: str) -> None:
    for value in ("x", 7):
        [line] = refusals(RIGHT | {"headers": {name: value}})
        assert line == "headers must have names that HTTP allows, such as apikey"


# ------------------------------------------------------------------------------------------------ a file of businesses


def from_file(path: Path | str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the settings as the tap has them, once it has read the file."""
    return dict(TapInstances(config={**URL, "businesses_file": str(path), **more}).config)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_businesses_is_read_as_if_the_list_were_the_setting(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(json.dumps([ONE, TWO], indent=1).replace("\n", "\r\n").encode(encoding))
    config = from_file(path)
    assert config["businesses"] == [ONE, TWO]
    assert "businesses_file" not in config


def test_a_file_of_businesses_may_be_a_link_in_the_working_folder_or_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "list.json").write_text(json.dumps([ONE]))
    (tmp_path / "list.json").symlink_to("..data/list.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("list.json", "./list.json", "~/list.json", " list.json "):
        assert from_file(path)["businesses"] == [ONE]


def test_a_file_of_businesses_may_lack_tokens_where_there_is_an_admin_token(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps([ONE, {"business_id": "b-2"}]))
    assert from_file(path, admin_token="s3cr3t")["businesses"] == [ONE, {"business_id": "b-2"}]


BAD_FILES: Final[list[tuple[str | bytes | None, str]]] = [
    (None, "cannot be read: No such file or directory"),
    ("folder", "cannot be read: Is a directory"),
    ("", "is not a JSON list of {business_id, auth_token} (line 1, column 1)"),
    ('[\n{"auth_token": s3cr3t}]', "is not a JSON list of {business_id, auth_token} (line 2, column 16)"),
    (b"\xff\xfes3cr3t", "is not a JSON list of {business_id, auth_token}"),
    ('"s3cr3t"', "is not a JSON list of {business_id, auth_token}"),
    ('{"business_id": "b", "auth_token": "s3cr3t"}', "is not a JSON list of {business_id, auth_token}"),
    ("[" * 100_000, "is not a JSON list of {business_id, auth_token}"),
    ("[]", ": businesses must list at least one {business_id, auth_token}"),
    ('["s3cr3t"]', ": businesses[0] must be of type object"),
    ('[{"business_id": "b"}]', ": businesses[0].auth_token is missing: set it, or admin_token, which finds it"),
    ('[{"business_id": "b", "auth_token": "Bearer s3cr3t"}]', ": businesses[0].auth_token must be the bare token"),
    (json.dumps([ONE, ONE]), ": businesses[1].business_id is the same as businesses[0].business_id"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "what"), BAD_FILES)
def test_of_a_bad_file_of_businesses_the_line_has_the_name_and_no_content(
    tmp_path: Path, content: str | bytes | None, what: str
) -> None:
    path = tmp_path / "list.json"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    [line] = refusals({**URL, "businesses_file": str(path)})
    assert line.startswith(f"businesses_file {path}")
    assert what in line
    assert "s3cr3t" not in line


@pytest.mark.parametrize("place", ["fifo", "/dev/stdin"])
def test_a_file_of_businesses_that_can_be_read_once_only_is_enough(
    tmp_path: Path, codechat: CodeChat, place: str
) -> None:
    many = json.dumps([{"business_id": BUSINESS, "auth_token": TOKEN}])
    path = place
    if place == "fifo":
        os.mkfifo(path := str(tmp_path / "list"))
        Thread(target=Path(path).write_text, args=(many,), daemon=True).start()
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"api_url": codechat.url, "businesses_file": path}))
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "tap_instances", "--config", str(config)],
        input=many if place != "fifo" else "", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(checked(Run(0, done.stdout, done.stderr)).records("instances")) == 2


def test_discovery_reads_no_file_of_businesses(tmp_path: Path) -> None:
    run = run_cli({**URL, "businesses_file": str(tmp_path / "missing.json")}, "--discover")
    assert run.returncode == 0
    assert not run.lines("ERROR")


# ------------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    "config",
    [
        {"auth_token": "s3cr3t-value"},
        {"auth_token": ["s3cr3t-value"]},
        {"admin_token": {"value": "s3cr3t-value"}},
        {"headers": {"apikey": "s3cr3t-value"}},
        {"headers": {"X-Auth": "Basic s3cr3t-value"}},
        {"headers": ["s3cr3t-value"]},
        {"businesses": [{"business_id": "b", "auth_token": "s3cr3t-value"}]},
        {"businesses": {"b": "s3cr3t-value"}},
        {"businesses": ["s3cr3t-value"]},
        {"businesses": "s3cr3t-value"},
    ],
)
def test_every_secret_of_the_settings_is_hidden_in_logs_also_of_wrong_ones(config: dict[str, Any]) -> None:
    tokens, of_headers = secrets(config)
    assert "s3cr3t-value" in (of_headers if "headers" in config else tokens)


def test_what_is_no_secret_stays_legible_in_logs() -> None:
    entry = {"business_id": "b-17", "auth_token": "s3cr3t", "name": "bakery"}
    config = {"businesses": [entry], "headers": {"X-Short": "1234567"}, "user_agent": "agent"}
    assert secrets(config) == (["s3cr3t"], [])


# -------------------------------------------------------------------------------------------------------- what goes out


BATCH: Final[dict[str, Any]] = {
    "encoding": {"format": "jsonl", "compression": "gzip"}, "storage": {"root": "file:///batches"}
}  # fmt: skip
WRONG_BATCHES: Final[list[tuple[dict[str, Any], str]]] = [
    ({"encoding": {"format": "jsonl", "compression": "none"}}, "batch_config.encoding.compression must be gzip"),
    ({"encoding": {"format": "csv"}}, "batch_config.encoding.format must be one of jsonl, parquet"),
    ({"encoding": {}}, "batch_config.encoding.format is missing: set it"),
    ({"encoding": None}, "batch_config.encoding must be of type object"),
    ({"encoding": {"format": "jsonl", "level": 9}}, "batch_config.encoding may hold format, compression, and nothing"),
    ({"storage": {"root": "file:///b", "folder": "x"}}, "batch_config.storage may hold root, prefix, and nothing"),
    ({"size": 5}, "batch_config may hold batch_size, encoding, storage, and nothing else"),
    ({"batch_size": 0}, "batch_config.batch_size must be at least 1"),
    ({"batch_size": -1}, "batch_config.batch_size must be at least 1"),
    ({"batch_size": 1.5}, "batch_config.batch_size must be of type integer"),
    ({"batch_size": "x"}, "batch_config.batch_size must be of type integer"),
    ({"storage": {}}, "batch_config.storage.root is missing: set it"),
    ({"encoding": {"format": "parquet"}}, "batch_config needs a library beside the tap: No module named 'pyarrow'"),
    ({"storage": {"root": "s3://bucket"}}, "batch_config needs a library beside the tap: Install s3fs"),
    ({"storage": {"root": "nonsense://bucket"}}, "batch_config needs a library beside the tap: Protocol"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "what"), WRONG_BATCHES)
def test_batches_that_cannot_be_written_are_refused_with_what_to_install(change: dict[str, Any], what: str) -> None:
    for module in ("pyarrow", "s3fs"):
        assert find_spec(module) is None, "this test needs an environment without it"
    [line] = refusals(RIGHT | {"batch_config": BATCH | change})
    assert what in line


def test_whole_batches_are_taken() -> None:
    storage = {"root": "file:///batches", "prefix": "codechat-"}
    assert refusals(RIGHT | {"batch_config": BATCH | {"batch_size": 1, "storage": storage}}) == []
    assert refusals(RIGHT | {"batch_config": BATCH | {"batch_size": None, "storage": storage | {"prefix": None}}}) == []


@pytest.mark.parametrize("nothing", [None, {}, ""])
def test_an_empty_batch_config_is_as_if_unset(nothing: object) -> None:
    assert refusals(RIGHT | {"batch_config": nothing}) == []


def test_batches_need_an_encoding_and_a_storage() -> None:
    lines = refusals(RIGHT | {"batch_config": {"batch_size": 5}})
    assert lines == ["batch_config.encoding is missing: set it", "batch_config.storage is missing: set it"]


def test_a_flattening_that_would_rename_a_column_is_refused() -> None:
    longest = max(len(column) for stream in STREAMS for column in column_names(stream, include_secrets=True))
    flattening = {"flattening_enabled": True, "flattening_max_depth": 1}
    for length, lines in ((longest, [f"flattening_max_key_length must be at least {longest + 1}"]), (longest + 1, [])):
        assert refusals({**RIGHT, **flattening, "flattening_max_key_length": length}) == lines


# ---------------------------------------------------------------------------------------------------------------- .env


def test_the_env_file_of_the_working_folder_is_read_and_the_environment_goes_before_it(
    tmp_path: Path, codechat: CodeChat
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / ".env").write_text("TAP_INSTANCES_INCLUDE_SECRETS=true\n")  # of the folder above: not read
    lines = ["# comment", f"TAP_INSTANCES_API_URL={codechat.url}", f"TAP_INSTANCES_BUSINESS_ID={BUSINESS}",
             f"TAP_INSTANCES_AUTH_TOKEN='{TOKEN}'", "TAP_INSTANCES_USER_AGENT=of the file"]  # fmt: skip
    (folder / ".env").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAP_INSTANCES_")}
    done = subprocess.run(
        [sys.executable, "-m", "tap_instances", "--config=ENV"], cwd=folder, text=True, capture_output=True,
        env=environment | {"TAP_INSTANCES_USER_AGENT": "of the environment"}, check=False, timeout=60,
    )  # fmt: skip
    run = checked(Run(done.returncode, done.stdout, done.stderr))
    assert run.returncode == 0, run.stderr
    assert "auth_jwt" not in run.records("instances")[0]
    assert codechat.requests[0].headers["user-agent"] == "of the environment"


def test_an_env_file_that_is_no_text_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_bytes(b"TAP_INSTANCES_AUTH_TOKEN=s3cr3t\xff")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigValidationError, match=r"\.env must be text in UTF-8"):
        TapInstances(parse_env_config=True)


@pytest.mark.parametrize("option", ["config", "catalog"])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(
    tmp_path: Path, codechat: CodeChat, option: str
) -> None:
    inputs = {"config": settings(codechat), "catalog": discover()}
    command_line = []
    for name, value in inputs.items():
        text = json.dumps(value, indent=1).replace("\n", "\r\n")
        (tmp_path / name).write_bytes(text.encode("utf-8-sig" if name == option else "utf-8"))
        command_line += [f"--{name}", str(tmp_path / name)]
    run = checked(command(*command_line))
    assert run.returncode == 0, run.stderr
    assert len(run.records("instances")) == 2
