"""What users read is true: settings, streams, error lines, links, and every block that can be parsed or run."""

from __future__ import annotations

import html
import io
import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
import sqlglot
import yaml
from dotenv import dotenv_values
from packaging.requirements import Requirement

from demo.codechat import CodeChat, World
from demo.run import QUESTIONS, ROWS, SEED, TABLES, ask
from tap_instances.memory import read_bookmarks
from tap_instances.tap import TapInstances
from tests.kit.pages import (
    anchors,
    blocks,
    complaints,
    extractor,
    files,
    first_cells,
    fragments,
    links,
    meltano,
    pages,
    read,
    texts,
)
from tests.kit.story import queries
from tests.kit.support import refusals, run_cli, sync
from tests.kit.walk import bash, commands, tap_in
from tests.test_queries import load
from tools.docs import PARTS, ROOT, builtin, declared, kind, render

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.pages import Block
    from tests.kit.support import Run

KINDS = {"string": "string", "integer": "integer", "boolean": "boolean", "array": "array", "object": "object"}
# What would tie the project to one machine or registry; in two parts, so that this file holds none of them.
FOREIGN = ["".join(parts) for parts in (
    ("pypi", ".org"), ("python", "hosted"), ("npmjs", "."),
    ("/wo", "rk/"), ("/tm", "p/dev"), ("/ro", "ot/"), ("/ho", "me/"),
)]  # fmt: skip


def name_of(block: Block) -> str:
    """Name a block in a test's id."""
    return f"{block.page}: {block.text.splitlines()[0][:40]}"


# ------------------------------------------------------------------------------------------- the declared settings


@pytest.mark.parametrize("name", PARTS)
def test_what_files_repeat_of_a_declaration_is_up_to_date(name: str) -> None:
    assert read(name) == render(name, read(name)), "make docs writes it"


@pytest.mark.parametrize("name", PARTS)
def test_make_docs_replaces_the_marked_parts_and_leaves_the_rest(name: str) -> None:
    broken = read(name).replace(PARTS[name][part := next(iter(PARTS[name]))](), f"to be replaced in {part}")
    assert broken != read(name)
    assert render(name, broken) == read(name)


def test_the_readme_names_every_setting_of_the_sdk() -> None:
    assert {name for name in builtin() if f"`{name}`" not in read("README.md")} == set()


def test_about_shows_the_declared_settings_and_what_meltano_is_told() -> None:
    about = json.loads(run_cli(None, "--about", "--format=json").stdout)
    assert about["settings"]["properties"].keys() == declared().keys()
    assert set(about["capabilities"]) == set(extractor()["capabilities"])


def test_meltano_knows_every_setting_as_it_is_declared() -> None:
    settings = {setting["name"]: setting for setting in extractor()["settings"]}
    assert list(settings) == list(declared())
    for name, schema in declared().items():
        setting = settings[name]
        assert setting["kind"] == KINDS[kind(schema)], name
        assert setting.get("sensitive", False) == schema.get("secret", False), name
        assert "value" not in setting, f"{name}: the tap has the default"


def test_each_group_of_settings_is_enough_and_nothing_less_is(tmp_path: Path) -> None:
    file = tmp_path / "businesses.json"
    file.write_text('[{"business_id": "b", "auth_token": "t"}]', encoding="utf-8")
    values = {
        "api_url": "https://codechat.example.com",
        "business_id": "b",
        "auth_token": "t",
        "businesses": [{"business_id": "b", "auth_token": "t"}],
        "businesses_file": str(file),
        "admin_token": "t",
    }
    for group in extractor()["settings_group_validation"]:
        assert refusals({name: values[name] for name in group}) == []
        for less in group:
            assert refusals({name: values[name] for name in group if name != less})


def test_the_example_environment_has_every_setting_and_only_settings() -> None:
    example = {name: value or "" for name, value in dotenv_values(stream=io.StringIO(uncommented())).items()}
    known: dict[str, Any] = {}
    for plugins in meltano()["plugins"].values():
        for plugin in plugins:
            prefix = plugin["name"].upper().replace("-", "_")
            known |= {f"{prefix}_{setting['name'].upper()}": setting for setting in plugin["settings"]}
    assert example.keys() - known.keys() == set()
    for name, schema in declared().items():
        variable = f"TAP_INSTANCES_{name.upper()}"
        if name not in builtin():
            assert variable in example
        if "default" in schema:
            assert example[variable] == json.dumps(schema["default"])


def uncommented() -> str:
    """Return the example environment with every setting set."""
    return re.sub(r"^# (?=[A-Z]+_[A-Z_]+=)", "", read(".env.example"), flags=re.MULTILINE)


def test_the_example_environment_is_one_that_the_tap_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TAP_INSTANCES_")]:
        monkeypatch.delenv(name)
    for name in dotenv_values(stream=io.StringIO(uncommented())):
        monkeypatch.setenv(name, "")  # so that what the tap reads into the environment is taken out after the test
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text(uncommented().replace("…", "x"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    config = TapInstances(parse_env_config=True).config
    assert config["businesses"] == [{"business_id": "x", "auth_token": "x"}]
    assert config["headers"] == {"apikey": "x"}


# -------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("page", ["docs/failures.md", "docs/inicio-rapido.pt-BR.md"])
def test_every_documented_line_is_one_that_the_tap_says(page: str) -> None:
    said = list(texts())
    unknown = {
        line: part for line in first_cells(page) for part in fragments(line) if not any(part in text for text in said)
    }
    assert unknown == {}


def test_every_warning_and_error_is_documented() -> None:
    page = read("docs/failures.md")
    missing = {text: part for text in complaints() for part in fragments(text) if part not in page}
    assert missing == {}, "put it into docs/failures.md"


# ----------------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("block", blocks("json"), ids=name_of)
def test_json_parses_and_settings_are_ones_that_the_tap_takes(block: Block) -> None:
    value = json.loads(block.text)
    if value.keys() & declared().keys():
        complete = {"api_url": "https://codechat.example.com", "business_id": "b", "auth_token": "t"}
        assert value.keys() <= declared().keys()
        assert refusals(value if "api_url" in value else complete | value) == []


def test_the_state_that_is_shown_is_one_that_the_tap_understands(caplog: pytest.LogCaptureFixture) -> None:
    [state] = [json.loads(block.text) for block in blocks("json") if "bookmarks" in block.text]
    streams = TapInstances(config={}, validate_config=False).discover_streams()
    read = read_bookmarks(state, {stream.name: stream.bookmark_type for stream in streams}, set())
    assert read.keys() == state["bookmarks"].keys()
    assert caplog.messages == []


@pytest.mark.parametrize("block", [block for block in blocks("json") if "stream_maps" in block.text], ids=name_of)
def test_stream_maps_that_are_shown_work_for_deleted_rows_too(block: Block) -> None:
    world = World.seeded(7)
    with CodeChat(world) as server:
        settings = world.settings(server.url) | json.loads(block.text)
        first = sync(settings)
        world.step()
        second = sync(settings, state=first.state)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert [row["url"] for row in second.records("webhooks") if row["deleted_at"]] == [None, None]


def test_the_example_on_personal_data_lets_none_of_it_out() -> None:
    [block] = [block for block in blocks("json") if block.page == "SECURITY.md"]
    world = World.seeded(7)
    with CodeChat(world) as server:
        run = sync(world.settings(server.url) | json.loads(block.text))
    connected = [instance for business in world.businesses.values() for instance in business.connected]
    assert len(run.records("instances")) == len(connected) > 0
    for instance in connected:
        personal = [instance["WhatsApp"][key] for key in ("remoteJid", "pushName", "pictureUrl")]
        urls = [webhook["url"] for webhook in instance["Webhook"]]
        assert [value for value in personal + urls if value and value in run.stdout] == []
    hashed = {row["whatsapp_remote_jid"] for row in run.records("instances")}
    assert len(hashed) == len(connected), "still one value a number: rows can be joined by it"


@pytest.mark.parametrize("block", blocks("yaml"), ids=name_of)
def test_yaml_parses(block: Block) -> None:
    assert yaml.safe_load(block.text)


@pytest.mark.parametrize("block", blocks("sql"), ids=name_of)
def test_sql_parses(block: Block) -> None:
    if block.page == "docs/inicio-rapido.pt-BR.md":
        assert block.text in queries().values(), "one of those that are run"
    elif block.page == "docs/warehouses.md":  # about a user: no query, and Snowflake's own
        assert sqlglot.tokenize(block.text, read="snowflake")
    else:
        assert sqlglot.parse_one(block.text, read="postgres")


@pytest.mark.parametrize("block", blocks("sh", "bash"), ids=name_of)
def test_commands_are_ones_that_exist(block: Block) -> None:
    assert subprocess.run(["bash", "-n"], input=block.text, text=True, check=False).returncode == 0  # noqa: S607
    plugins = {plugin["name"]: plugin for kinds in meltano()["plugins"].values() for plugin in kinds}
    for line in block.text.splitlines():
        words = line.split()
        if words[:1] == ["make"]:
            assert [target for target in words[1:] if not has_target(target)] == []
        if words[:1] == ["tap-instances"]:
            assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options()
        if "meltano" in words and "run" in words:
            ran = [word for word in words[words.index("run") + 1 :] if not word.startswith("-")]
            assert {word.partition(":")[0] for word in ran} <= plugins.keys()
        for variable in re.findall(r"\b((?:TAP|TARGET)_[A-Z_]+)=", line):
            plugin = next((name for name in plugins if variable.startswith(name.upper().replace("-", "_") + "_")), None)
            assert plugin, variable
            setting = variable.removeprefix(plugin.upper().replace("-", "_") + "_").lower()
            assert setting in {each["name"] for each in plugins[plugin]["settings"]}, variable


def options() -> set[str]:
    """Return the command line's options."""
    return {option for parameter in TapInstances.get_singer_command().params for option in parameter.opts}


def has_target(name: str) -> bool:
    """Tell whether the Makefile has a target."""
    return re.search(rf"^{re.escape(name)}:", read("Makefile"), re.MULTILINE) is not None


def test_a_wrong_option_exits_with_the_documented_code() -> None:
    assert run_cli(None, "--no-such-option").returncode == 2


@pytest.mark.parametrize(
    ("page", "token"), [("README.md", "the-business-token"), ("docs/inicio-rapido.pt-BR.md", "o-token-do-business")]
)
def test_the_commands_of_the_first_page_work_with_the_settings_beside_them(
    page: str, token: str, tmp_path: Path
) -> None:
    config = next(block.text for block in blocks("json") if block.page == page)
    world = World.seeded(7, businesses=1)
    [business] = world.businesses.values()
    with CodeChat(world) as server:
        config = config.replace("https://codechat.example.com", server.url).replace(token, business.token)
        config = config.replace("9531985d-5d9d-49f8-9818-e811892f902b", business.id)
        (tmp_path / "config.json").write_text(config, encoding="utf-8")
        done = bash(commands(page, "--config config.json"), tmp_path, path=(tap_in(tmp_path / "bin"),))
    assert done.returncode == 0, done.stdout
    assert f"business {business.id}: ok, {len(business.connected)} instances" in done.stdout
    messages = (tmp_path / "messages.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(messages[-1])["type"] == "STATE"


def test_a_file_of_businesses_is_read_as_the_page_writes_it(tmp_path: Path) -> None:
    world = World.seeded(7, businesses=2)
    shown = commands("docs/many-businesses.md", "cat >businesses.json")
    ids = ("9531985d-5d9d-49f8-9818-e811892f902b", "8d118e37-8172-4a07-bbab-27f604b8157d")
    for business_id, business in zip(ids, world.businesses.values(), strict=True):
        shown = shown.replace(business_id, business.id).replace("the-business-token", business.token, 1)
    with CodeChat(world) as server:
        environment = {"TAP_INSTANCES_API_URL": server.url}
        script = f"{shown}\ntap-instances --config=ENV --test\n"
        done = bash(script, tmp_path, path=(tap_in(tmp_path / "bin"),), environment=environment)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": ok, ") == 2


@pytest.fixture(scope="module")
def demo_runs() -> list[Run]:
    """Return the two runs of the demo."""
    world = World.seeded(SEED)
    with CodeChat(world) as server:
        settings = world.settings(server.url)
        first = sync(settings)
        world.step()
        return [first, sync(settings, state=first.state)]


TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


def test_the_sample_in_the_readme_is_what_the_demo_shows(
    demo_runs: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [block for block in blocks("text") if "gone_at" in block.text]
    assert [block.page for block in shown] == ["README.md", "docs/inicio-rapido.pt-BR.md"]
    [query] = [block.text for block in blocks("sql") if block.page == "README.md"]
    with duckdb.connect() as connection:
        for run in demo_runs:
            load(connection, run.messages)
        question, sql = QUESTIONS[0]
        assert set(connection.sql(query).fetchall()) == set(connection.sql(sql).fetchall())
        ask(connection, question, sql)
    rows = re.sub(TIME, "…", capsys.readouterr().out.rpartition(";\n\n")[2]).rstrip()
    assert "disconnected" not in rows
    assert len(rows.splitlines()) == 4, "the names, a rule, and two numbers that dropped"
    for block in shown:
        assert re.sub(TIME, "…", block.text).rstrip() == rows


def test_the_rows_in_the_picture_are_rows_of_the_demo(demo_runs: list[Run]) -> None:
    lines: dict[str, list[str]] = {}
    for y, text in re.findall(r'<text x="[\d.]+" y="([\d.]+)">(.*)</text>', read("docs/img/demo.svg")):
        lines.setdefault(y, []).append(html.unescape(text))
    assert len(lines) == len(TABLES) * ROWS
    rows = [message["record"] for run in demo_runs for message in run.of("RECORD")]
    values = [{json.dumps(v) if isinstance(v, dict) else str(v) for v in row.values()} for row in rows]
    for cells in lines.values():
        seen = {cell for cell in cells if not re.fullmatch(TIME, cell)}  # it may be made at any time
        assert any(seen <= row for row in values), cells


# ------------------------------------------------------------------------------------------------- links and names


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
        name = str(target.relative_to(ROOT))
        if not target.exists() or (anchor and anchor not in anchors(name)):
            broken.append(link)
    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, ahead = {"README.md"}, ["README.md"]
    while ahead:
        page = ahead.pop()
        for link in links(page):
            target = (ROOT / page).parent.joinpath(link.partition("#")[0]).resolve()
            name = str(target.relative_to(ROOT)) if target.is_relative_to(ROOT) else ""
            if name.endswith(".md") and target.is_file() and name not in reached:
                reached.add(name)
                ahead.append(name)
    assert {page for page in pages() if page.startswith("docs/") or "/" not in page} <= reached


def test_no_file_names_a_registry_or_somebodys_machine() -> None:
    found = []
    for name in files():
        text = (ROOT / name).read_bytes().decode("utf-8", "replace")
        found += [(name, word) for word in FOREIGN if word in text]
    assert found == []


def test_each_dependency_is_argued() -> None:
    page, project = read("CONTRIBUTING.md"), read("pyproject.toml")
    listed = re.findall(r'^    "([^"]+)",$', project.partition("[project.scripts]")[0], re.MULTILINE)
    required = {Requirement(line).name for line in listed if re.match(r"[a-z-]+>=", line)}
    assert required >= {"singer-sdk", "msgspec"}
    assert {name for name in required if f"| {name} |" not in page} == set()
