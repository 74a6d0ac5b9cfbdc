"""Wrong settings are refused before the first request: by name, with what to do, and never with a secret's value."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from singer_sdk.exceptions import ConfigValidationError

from demo.codechat import CodeChat, World
from tap_instances.settings import SETTINGS
from tap_instances.tap import TapInstances
from tests.kit.checked import BUSINESS, checked, command, read, settings
from tests.kit.support import TOKEN, run_cli, sync

if TYPE_CHECKING:
    from pathlib import Path

RIGHT: Final = {"api_url": "https://codechat.example.com", "business_id": "b-1", "auth_token": "s3cr3t-token"}
URL: Final = {"api_url": RIGHT["api_url"]}
ONE: Final = {"business_id": "b-1", "auth_token": "s3cr3t-1"}
TWO: Final = {"business_id": "b-2", "auth_token": "s3cr3t-2"}


def refusals(config: dict[str, Any]) -> list[str]:
    """Return the lines with which a configuration is refused; none if it is taken."""
    try:
        TapInstances(config=config)
    except ConfigValidationError as error:
        return error.errors
    return []


# What is changed in the right settings (None: taken away) -> what each line names, and what it says to do.
WRONG: Final[list[tuple[dict[str, Any], list[tuple[str, str]]]]] = [
    ({"api_url": None}, [("api_url", "missing: set it")]),
    ({"api_url": ""}, [("api_url", "must be a web address such as")]),
    ({"api_url": " "}, [("api_url", "must be a web address such as")]),
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
    ({"api_url": "https://a.example:0"}, [("api_url", "must be a web address such as")]),
    ({"api_url": "https://[::1"}, [("api_url", "must be a web address such as")]),
    ({"batch_config": {"encoding": {"compression": "none"}}}, [("batch_config.encoding.compression", "must be gzip")]),
    ({"api_url": "https://u:s3cr3t@a.example"}, [("api_url", "must not hold a user or a password")]),
    ({"api_url": "https://s3cr3t@a.example"}, [("api_url", "must not hold a user or a password")]),
    ({"api_url": "https://a.example/?token=s3cr3t"}, [("api_url", "give the base URL only")]),
    ({"api_url": "https://a.example/?"}, [("api_url", "give the base URL only")]),
    ({"api_url": "https://a.example/#s3cr3t"}, [("api_url", "give the base URL only")]),
    ({"api_url": "https://a.example/api/v2"}, [("api_url", "give the base URL only")]),
    ({"api_url": "https://a.example/api/v2/business/b-1/instance/connected"}, [("api_url", "give the base URL only")]),
    ({"api_url": 7}, [("api_url", "must be of type string")]),
    ({"api_url": ["s3cr3t"]}, [("api_url", "must be of type string")]),
    ({"business_id": None}, [("business_id", "missing: set it, or use businesses")]),
    ({"business_id": ""}, [("business_id", "missing: set it, or use businesses")]),
    ({"business_id": "."}, [("business_id", "must be an id")]),
    ({"business_id": ".."}, [("business_id", "must be an id")]),
    ({"business_id": "b\n1"}, [("business_id", "must be an id")]),
    ({"business_id": "b\x00"}, [("business_id", "must be an id")]),
    ({"business_id": 17}, [("business_id", "must be of type string")]),
    ({"auth_token": None}, [("auth_token", "missing: set it, or use businesses")]),
    ({"auth_token": ""}, [("auth_token", "missing: set it, or use businesses")]),
    ({"auth_token": "Bearer s3cr3t"}, [("auth_token", "the bare token")]),
    ({"auth_token": "s3cr3t\n"}, [("auth_token", "the bare token")]),
    ({"auth_token": "s3cr3t\r\nX-Evil: 1"}, [("auth_token", "the bare token")]),
    ({"auth_token": "s3cr3té"}, [("auth_token", "the bare token")]),
    ({"auth_token": 5318008}, [("auth_token", "must be of type string")]),
    ({"auth_token": {"value": "s3cr3t"}}, [("auth_token", "must be of type string")]),
    ({"business_id": None, "auth_token": None}, [("business_id", "missing"), ("auth_token", "missing")]),
    ({"businesses": [TWO]}, [("businesses", "are both given: keep one of the two ways")]),
    ({"businesses": [TWO], "auth_token": None}, [("businesses", "are both given: keep one of the two ways")]),
    ({"businesses": []}, [("businesses", "are both given"), ("businesses", "is empty: list at least one")]),
    ({"include_secrets": "yes"}, [("include_secrets", "must be of type boolean")]),
    ({"include_secrets": 1}, [("include_secrets", "must be of type boolean")]),
    ({"concurrency": 0}, [("concurrency", "must be at least 1")]),
    ({"concurrency": 101}, [("concurrency", "must be at most 100")]),
    ({"concurrency": "4"}, [("concurrency", "must be of type integer")]),
    ({"concurrency": 1.5}, [("concurrency", "must be of type integer")]),
    ({"concurrency": True}, [("concurrency", "must be of type integer")]),
    ({"request_timeout": 0}, [("request_timeout", "must be at least 1")]),
    ({"request_timeout": -1}, [("request_timeout", "must be at least 1")]),
    ({"max_retries": -1}, [("max_retries", "must be at least 0")]),
    ({"max_retries": 1000}, [("max_retries", "must be at most 100")]),
    ({"user_agent": "a\nb"}, [("user_agent", "must be plain ASCII text")]),
    ({"user_agent": "agênt"}, [("user_agent", "must be plain ASCII text")]),
    ({"user_agent": 7}, [("user_agent", "must be of type string")]),
    ({"emit_activate_version_messages": "true"}, [("emit_activate_version_messages", "must be of type boolean")]),
    ({"stream_maps": "s3cr3t"}, [("stream_maps", "must be of type object")]),
    ({"flattening_enabled": "s3cr3t"}, [("flattening_enabled", "must be of type boolean")]),
    ({"batch_config": "s3cr3t"}, [("batch_config", "must be of type object")]),
    (
        {"concurrency": 0, "max_retries": -1, "include_secrets": "s3cr3t", "api_url": None},
        [("api_url", "missing"), ("concurrency", "least"), ("include_secrets", "boolean"), ("max_retries", "least")],
    ),
]
WRONG_BUSINESSES: Final[list[tuple[Any, list[tuple[str, str]]]]] = [
    ([], [("businesses", "is empty: list at least one {business_id, auth_token}")]),
    ("s3cr3t", [("businesses", "must be of type array")]),
    ({"business_id": "b", "auth_token": "s3cr3t"}, [("businesses", "must be of type array")]),
    (["s3cr3t"], [("businesses[0]", "must be of type object")]),
    ([ONE, None], [("businesses[1]", "must be of type object")]),
    ([{}], [("businesses[0].auth_token", "missing: set it"), ("businesses[0].business_id", "missing: set it")]),
    ([ONE, {"auth_token": "s3cr3t"}], [("businesses[1].business_id", "missing: set it")]),
    ([ONE, {"business_id": "b-2"}], [("businesses[1].auth_token", "missing: set it")]),
    ([ONE, TWO | {"auth_token": ""}], [("businesses[1].auth_token", "missing: set it")]),
    ([ONE, TWO | {"business_id": ""}], [("businesses[1].business_id", "missing: set it")]),
    (
        [ONE | {"business_id": ""}] * 2,
        [("businesses[0].business_id", "missing"), ("businesses[1].business_id", "missing")],
    ),
    ([ONE, TWO | {"auth_token": None}], [("businesses[1].auth_token", "must be of type string")]),
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
    {"api_url": "HTTPS://CODECHAT.EXAMPLE.COM"},
    {"business_id": "../b/1 ?#%"},
    {"business_id": "..."},
    {"business_id": "negócio 🥖"},
    {"auth_token": "!#$%&'*+-.^_`|~:/?=@[]{}<>\\\""},
    {"concurrency": 100, "max_retries": 0, "request_timeout": 1},
    {"user_agent": "my-pipeline/1.0 (ops@example.com)"},
    {"include_secrets": True},
    {"emit_activate_version_messages": True},
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


def test_the_declaration_marks_what_is_secret() -> None:
    properties = SETTINGS["properties"]
    secret = {name for name, schema in properties.items() if schema.get("secret") or schema.get("writeOnly")}
    assert secret == {"auth_token", "businesses"}
    assert properties["businesses"]["items"]["properties"]["auth_token"]["secret"]


def test_every_setting_is_described() -> None:
    assert set(SETTINGS["properties"]) >= {
        "api_url", "business_id", "auth_token", "businesses", "include_secrets", "concurrency", "request_timeout",
        "max_retries", "user_agent",
    }  # fmt: skip
    for name, schema in SETTINGS["properties"].items():
        assert schema["title"], name
        assert len(schema["description"]) > 15, name
    defaults = {name: schema["default"] for name, schema in SETTINGS["properties"].items() if "default" in schema}
    assert defaults.items() >= {
        "include_secrets": False, "concurrency": 4, "request_timeout": 60, "max_retries": 5,
    }.items()  # fmt: skip


def test_a_plain_http_address_that_is_not_loopback_is_warned_of() -> None:
    for url, warned in (
        ("http://codechat.example.com", True), ("http://10.0.0.7", True), ("https://codechat.example.com", False),
        ("http://localhost:8080", False), ("http://127.0.0.2", False), ("http://[::1]", False),
        ("http://localhost.example.com", True), ("http://127.0.0.1.example.com", True),
    ):  # fmt: skip
        tap = TapInstances(config=RIGHT | {"api_url": url})
        messages: list[str] = []
        tap.logger.addFilter(keep := (lambda record, into=messages: not into.append(record.getMessage())))
        try:
            assert tap.client.api_url == url
        finally:
            tap.logger.removeFilter(keep)
        assert any("plain http" in message for message in messages) == warned, url


# ------------------------------------------------------------------------------------------------ as a process


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
        ("CONCURRENCY", "1.5", "TAP_INSTANCES_CONCURRENCY must be an integer"),
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
