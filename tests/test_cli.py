"""The command line: what it says of itself, and ``--test``, which reaches every stream."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from singer_sdk.helpers._compat import warn_python_eol

from demo.codechat import Answer, Business, CodeChat, Request, World
from tap_instances.sdk import tap as sdk_tap
from tap_instances.settings import SETTINGS
from tap_instances.tap import TapInstances
from tests.kit.checked import BUSINESS, checked, command, settings
from tests.kit.support import TOKEN, Run, discover, logged, run_cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION = version("tap-instances")
OWN_SETTINGS = (
    "api_url", "business_id", "auth_token", "businesses", "businesses_file", "admin_token", "headers",
    "include_secrets", "concurrency", "request_timeout", "max_retries", "user_agent",
)  # fmt: skip


@pytest.fixture
def empty_first(connected: dict[str, Any]) -> Iterator[tuple[CodeChat, dict[str, Any]]]:
    """Serve an empty business, then one whose first instance has no webhooks; with the settings for both."""
    connected["Instances"].insert(0, {"instanceId": "i-0", "name": "no webhooks"})
    empty = {"businessId": "empty", "name": "new here", "Instances": []}
    world = World([Business("empty", "token-of-the-empty", empty), Business(BUSINESS, TOKEN, connected)])
    with CodeChat(world) as server:
        yield server, world.settings(server.url)


def emitted(run: Run) -> set[str]:
    return {message["stream"] for message in run.of("RECORD")}


def test_about_tells_the_settings_and_capabilities_as_text() -> None:
    run = command("--about")
    assert run.returncode == 0
    for name in OWN_SETTINGS:
        assert name in run.stdout
    assert not run.lines("ERROR")


def test_about_tells_them_as_json() -> None:
    run = command("--about", "--format=json")
    about = json.loads(run.stdout)
    assert about["name"] == "tap-instances"
    assert about["version"] == VERSION
    properties = about["settings"]["properties"]
    assert set(OWN_SETTINGS) <= set(properties)
    assert properties["auth_token"]["secret"]
    assert properties["concurrency"]["default"] == 4
    assert about["settings"]["required"] == ["api_url"]
    assert {
        "catalog", "state", "discover", "about", "stream-maps", "schema-flattening", "batch", "activate-version",
    } <= set(about["capabilities"])  # fmt: skip


def test_about_tells_them_as_markdown() -> None:
    run = command("--about", "--format=markdown")
    assert run.returncode == 0
    for name in OWN_SETTINGS:
        assert f"| {name} " in run.stdout
        assert SETTINGS["properties"][name]["description"].split(";")[0] in run.stdout


def test_the_version_and_the_help_are_told() -> None:
    assert VERSION in command("--version").stdout
    run = command("--help")
    assert run.returncode == 0
    for option in ("--config", "--catalog", "--state", "--discover", "--test", "--about"):
        assert option in run.stdout


def test_an_unknown_option_is_refused_without_a_traceback() -> None:
    run = command("--colour")
    assert run.returncode == 2
    assert "--colour" in run.stderr
    assert "Traceback" not in run.stderr


def test_without_settings_it_says_which_one_is_missing() -> None:
    run = run_cli(None)
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert "api_url is missing" in line


def test_the_console_script_is_the_module() -> None:
    entry = "from importlib.metadata import entry_points as e; [s] = e(group='console_scripts', name='tap-instances')"
    code = f"import sys; {entry}; sys.argv = ['tap-instances', '--version']; s.load()()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0
    assert VERSION in done.stdout


# -------------------------------------------------------------------------------------------------------- --test


def test_the_test_reaches_every_stream_and_ends_without_an_error(codechat: CodeChat) -> None:
    run = run_cli(settings(codechat), "--test")
    assert run.returncode == 0
    assert not run.lines("ERROR")
    assert "Traceback" not in run.stderr
    assert emitted(checked(run)) >= {"businesses", "instances", "webhooks", "webhook_events"}
    assert len(run.of("RECORD")) < 10
    assert len(codechat.requests) == 1


def test_the_test_goes_on_past_an_empty_business_and_an_instance_without_webhooks(
    empty_first: tuple[CodeChat, dict[str, Any]],
) -> None:
    server, config = empty_first
    run = run_cli(config, "--test")
    assert run.returncode == 0
    assert not run.lines("ERROR")
    assert emitted(checked(run)) >= {"businesses", "instances", "webhooks", "webhook_events"}
    assert len(server.requests) == 2


def test_the_test_asks_every_business_also_where_a_map_copies_a_stream() -> None:
    world = World.seeded(1, businesses=3)
    maps = {"instances": {"__filter__": "True"}, "copies": {"__source__": "instances", "copied": "name"}}
    with CodeChat(world) as server:
        run = run_cli({**world.settings(server.url), "stream_maps": maps}, "--test")
    assert run.returncode == 0
    assert len([line for line in run.lines("INFO") if ": ok, " in line]) == 3


def test_the_test_of_an_empty_server_is_no_error() -> None:
    world = World([Business(BUSINESS, TOKEN, {"businessId": BUSINESS, "Instances": []})])
    with CodeChat(world) as server:
        run = run_cli(settings(server), "--test")
    assert run.returncode == 0
    assert not run.lines("ERROR")
    assert emitted(run) == {"businesses", "observations"}


def test_the_test_with_a_wrong_token_exits_non_zero_and_says_so(codechat: CodeChat) -> None:
    run = run_cli(settings(codechat, auth_token="a-wrong-token"), "--test")
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert "401" in line
    assert "auth_token" in line
    assert "a-wrong-token" not in run.stdout + run.stderr
    assert not run.of("RECORD")


def test_the_test_of_the_schemas_asks_nothing(codechat: CodeChat) -> None:
    run = checked(run_cli(settings(codechat), "--test=schema"))
    assert run.returncode == 0
    assert len(run.of("SCHEMA")) == len(discover()["streams"])
    assert not run.of("RECORD")
    assert not codechat.requests


def test_the_test_remembers_nothing(codechat: CodeChat) -> None:
    run = run_cli(settings(codechat), "--test")
    assert all(not message["value"].get("bookmarks") for message in run.of("STATE"))


def test_a_run_tells_each_business_in_one_line(empty_first: tuple[CodeChat, dict[str, Any]]) -> None:
    _, config = empty_first
    run = checked(run_cli(config))
    assert run.returncode == 0
    lines = [line for line in run.lines("INFO") if "| business " in line]
    assert len(lines) == 2
    assert "business empty (1 of 2): 0 instances, 0 webhooks," in lines[0]
    assert f"business {BUSINESS} (2 of 2): 3 instances, 3 webhooks," in lines[1]


def test_a_failure_is_one_error_line_without_a_traceback(codechat: CodeChat) -> None:
    def respond(_: Request) -> Answer:
        return Answer(403, {"message": "no", "statusCode": 403})

    codechat.respond = respond
    run = checked(run_cli(settings(codechat)))
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert "403" in line
    assert "Traceback" not in run.stderr
    assert not run.of("RECORD")


# ------------------------------------------------------------------------------------------------------- what is logged


def test_the_log_of_a_good_run_is_a_line_per_business_and_one_that_sums_up(codechat: CodeChat) -> None:
    run = checked(run_cli(settings(codechat)))
    lines = [[cell.strip() for cell in line.split("|")] for line in run.stderr.splitlines()]
    assert {(level, name) for _, level, name, _ in lines} == {("INFO", "tap-instances")}
    business, *_, last = (text for *_, text in lines)
    assert business.endswith(" s")
    assert "businesses read in" in last


def test_the_sdk_does_not_warn_of_an_old_python_at_each_start(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    warn = partial(warn_python_eol, date(2026, 10, 1), (3, 10))
    warn()
    assert "Python 3.10" in str(recwarn.pop(FutureWarning).message)
    monkeypatch.setattr("singer_sdk.plugin_base.warn_python_eol", warn)
    discover()
    assert recwarn.list == []


def test_the_closing_line_counts_what_the_state_knows(codechat: CodeChat) -> None:
    first = checked(run_cli(settings(codechat)))
    second = checked(run_cli(settings(codechat), state=first.state))
    webhooks = len(first.records("webhooks"))
    assert webhooks > 0
    assert "emitted: 1 businesses" in second.stderr.splitlines()[-1]
    assert second.stderr.endswith(
        f"; unchanged since the given state, so left out: {webhooks} webhooks, {webhooks} webhook_events\n"
    )


def test_at_debug_the_sdk_tells_its_steps(codechat: CodeChat) -> None:
    run = checked(run_cli(settings(codechat), env={"TAP_INSTANCES_LOGLEVEL": "debug"}))
    assert "as child stream" in run.stderr
    assert "METRIC" in run.stderr


@pytest.mark.parametrize(
    ("variable", "args"),
    [("LOGLEVEL", ["--version"]), ("LOGLEVEL", ["--discover"]), ("TAP_INSTANCES_LOGLEVEL", ["--about"])],
)
def test_an_unknown_log_level_is_one_line_that_says_what_to_set(variable: str, args: list[str]) -> None:
    run = run_cli(None, *args, env={variable: "verbose"})
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr == f"{variable} must be DEBUG, INFO, WARNING, ERROR or CRITICAL: correct it, or unset it\n"


@pytest.mark.parametrize("content", [None, "folder", "[1", "{a: 1}", "version: 1\nroot: {handlers: [none]}"])
def test_a_logging_configuration_that_is_none_is_one_line_that_says_so(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "logging.yml"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content, encoding="utf-8")
    run = run_cli(None, "--version", env={"SINGER_SDK_LOG_CONFIG": str(path)})
    assert run.returncode == 1
    [line] = run.stderr.splitlines()
    assert line.startswith("SINGER_SDK_LOG_CONFIG must name a YAML file with a logging configuration")


def test_a_logging_configuration_is_used(tmp_path: Path) -> None:
    path = tmp_path / "logging.yml"
    lines = ["version: 1", "disable_existing_loggers: false", "formatters: {short: {format: 'SHORT %(message)s'}}",
             "handlers: {err: {class: logging.StreamHandler, formatter: short}}",
             "root: {handlers: [err]}"]  # fmt: skip
    path.write_text("\n".join(lines), encoding="utf-8")
    run = run_cli({}, env={"SINGER_SDK_LOG_CONFIG": str(path)})
    assert run.returncode == 1
    assert "SHORT api_url is missing" in run.stderr


@pytest.mark.parametrize("variable", ["LOGLEVEL", "TAP_INSTANCES_LOGLEVEL", "SINGER_SDK_LOG_CONFIG"])
def test_an_empty_variable_is_as_if_unset(codechat: CodeChat, variable: str) -> None:
    run = checked(run_cli(settings(codechat), env={variable: ""}))
    assert run.returncode == 0
    assert run.lines("INFO")


@pytest.mark.parametrize("arguments", [["--discover"], ["--about"], ["--version"]])
def test_a_closed_stdout_is_one_line(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    with logged("%(levelname)s %(message)s") as log, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", None)
        with pytest.raises(SystemExit) as end:
            TapInstances.get_singer_command().main(arguments)
    assert end.value.code == 1
    assert "stdout is closed" in log.getvalue()


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [(BrokenPipeError(), 141, []), (OSError(28, "No space left on device"), 1, ["[Errno 28] No space left on device"])],
)
def test_a_stdout_that_takes_nothing_more_is_let_go_before_the_exit(
    error: OSError, code: int, lines: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dropped: list[None] = []
    monkeypatch.setattr(sdk_tap, "drop_stdout", lambda: dropped.append(None))
    with pytest.raises(SystemExit) as end:
        sdk_tap.Command("tap-instances", callback=mock.Mock(side_effect=error)).main([])
    assert (end.value.code, dropped) == (code, [None])
    assert [record.getMessage() for record in caplog.records] == lines


def test_an_error_in_the_tap_itself_is_one_line_that_asks_to_report_it(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        sdk_tap.Command("tap-instances", callback=mock.Mock(side_effect=KeyError("of a bug"))).main([])
    assert end.value.code == 1
    assert [record.getMessage() for record in caplog.records] == ["unexpected KeyError: 'of a bug': please report it"]
