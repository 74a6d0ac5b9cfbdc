"""What the pages tell somebody to type in the first hour works as it is written."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import duckdb
import psycopg
import pytest
import yaml

from demo.codechat import ADMIN_TOKEN, CodeChat, World
from tests.kit.pages import blocks, read
from tests.kit.walk import bash, clone, commands
from tools.docs import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e
MELTANO = ROOT / ".venv-meltano" / "bin"


@pytest.fixture(scope="module")
def codechat() -> Iterator[CodeChat]:
    """Serve one business."""
    with CodeChat(World.seeded(7, businesses=1)) as server:
        yield server


def own(text: str, server: CodeChat) -> str:
    """Fill the made-up server's settings in where a page has an example's."""
    [business] = server.world.businesses.values()
    text = text.replace("https://codechat.example.com", server.url)
    return text.replace("9531985d-5d9d-49f8-9818-e811892f902b", business.id).replace(
        "the-business-token", business.token
    )


@pytest.mark.usefixtures("plugins")
def test_the_tutorial_works_as_it_is_written(tmp_path: Path) -> None:
    steps = [block.text for block in blocks("sh") if block.page == "docs/tutorial.md"]
    script = "".join(steps[:-1]).replace("make demo\n", "")
    assert script.rstrip().endswith("kill %1")
    done = bash(script, clone(tmp_path))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": ok, ") == 3
    assert "unchanged since the given state, so left out: " in done.stdout
    assert "@s.whatsapp.net" in done.stdout.rpartition("gone_at")[2], "a number that dropped"
    assert "not-a-real" not in done.stdout, "no token, JWT or URL password"


@pytest.mark.usefixtures("plugins")
def test_the_readme_with_meltano_works_as_it_is_written(codechat: CodeChat, tmp_path: Path) -> None:
    folder = clone(tmp_path)
    [business] = codechat.world.businesses.values()
    example = own(read(".env.example"), codechat)
    example = example.replace("# TAP_INSTANCES_BUSINESS_ID=", f"TAP_INSTANCES_BUSINESS_ID={business.id}")
    example = example.replace("# TAP_INSTANCES_AUTH_TOKEN=", f"TAP_INSTANCES_AUTH_TOKEN={business.token}")
    (folder / ".env").write_text(example, encoding="utf-8")
    done = bash(commands("README.md", "meltano run"), folder)
    assert done.returncode == 0, done.stdout
    assert f"business {business.id}: ok, " in done.stdout
    # docs/warehouses.md: another file has another state, so it lacks nothing.
    again = bash(commands("docs/warehouses.md", "mine.duckdb"), folder, path=(MELTANO,))
    assert again.returncode == 0, again.stdout
    assert rows(folder / "output" / "mine.duckdb") == rows(folder / "output" / "tap_instances.duckdb")
    assert rows(folder / "output" / "mine.duckdb")["webhooks"] > 0


def rows(database: Path) -> dict[str, int]:
    """Count the rows of each table."""
    tables = ("businesses", "instances", "webhooks", "webhook_events", "connection_changes")
    with duckdb.connect(str(database), read_only=True) as connection:
        counts = [connection.execute(f"select count(*) from {table}").fetchall()[0][0] for table in tables]  # noqa: S608
    return dict(zip(tables, counts, strict=True))


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("way", ["meltano add --from-ref", "the definition, copied"])
def test_another_meltano_project_takes_the_tap(way: str, codechat: CodeChat, tmp_path: Path) -> None:
    assert bash(f"git clone --quiet file://{shlex.quote(str(ROOT))} tap-instances", tmp_path).returncode == 0
    project = tmp_path / "project"
    project.mkdir()
    meltano = {"project_id": "another", "send_anonymous_usage_stats": False}
    script = own(commands("docs/meltano.md", "cat >>.env"), codechat)
    if way == "meltano add --from-ref":
        script = commands("docs/meltano.md", "--from-ref") + script
    else:
        [shown] = [block.text for block in blocks("yaml") if block.page == "docs/meltano.md"]
        [changed] = yaml.safe_load(shown)["plugins"]["extractors"]
        [definition] = yaml.safe_load(read("meltano.yml"))["plugins"]["extractors"]
        pip_url = changed["pip_url"].replace("https://github.com/OWNER/tap-instances.git", f"file://{ROOT}")
        meltano["plugins"] = {"extractors": [definition | changed | {"pip_url": pip_url}]}
        script = f"meltano install tap-instances\n{script}"
    (project / "meltano.yml").write_text(yaml.safe_dump(meltano), encoding="utf-8")
    done = bash(script, project, path=(MELTANO,))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": ok, ") == 1


@pytest.mark.usefixtures("plugins")
def test_postgresql_is_loaded_and_asked_as_it_is_written(postgres_url: str, tmp_path: Path) -> None:
    server = urlsplit(postgres_url)
    [search_path] = [b.text for b in blocks("sql") if b.page == "docs/warehouses.md" and "search_path" in b.text]
    [question] = [block.text for block in blocks("sql") if block.page == "README.md"]
    script = commands("docs/warehouses.md", "target-postgres").replace("…", server.password or "not-needed")
    script = script.replace("=warehouse", f"={server.path[1:]}").replace("=loader", f"={server.username}")
    script = script.replace("=db.example.com", f"={server.hostname} TARGET_POSTGRES_PORT={server.port}")
    folder, world = clone(tmp_path), World.seeded(7)
    with psycopg.connect(postgres_url, autocommit=True) as connection, CodeChat(world) as codechat:
        settings = {"TAP_INSTANCES_API_URL": codechat.url, "TAP_INSTANCES_ADMIN_TOKEN": ADMIN_TOKEN}
        try:
            for _ in range(2):
                done = bash(script, folder, path=(MELTANO,), environment=settings)
                assert done.returncode == 0, done.stdout
                world.step()
            connection.execute(search_path.encode())
            assert len(connection.execute(question.encode()).fetchall()) == 2
        finally:
            connection.execute("drop schema if exists codechat cascade")


def test_cron_without_meltano_works_as_it_is_written(codechat: CodeChat, tmp_path: Path) -> None:
    setup = own(commands("docs/warehouses.md", "tap.json"), codechat).replace("$HOME/tap-instances", str(ROOT))
    sync = commands("docs/warehouses.md", "TARGET=target-duckdb")
    done = bash(setup + sync + sync, tmp_path)
    assert done.returncode == 0, done.stdout
    assert "so left out: " in done.stdout
    folder = tmp_path / "home" / "codechat"
    assert rows(folder / "codechat.duckdb")["webhooks"] > 0
    assert json.loads((folder / "state.json").read_text(encoding="utf-8"))["bookmarks"]
    [line] = [b.text for b in blocks("text") if b.page == "docs/warehouses.md" and "sync.sh" in b.text]
    assert sync.strip().removeprefix("cd ~/codechat && ") in line, "the crontab has the line that was tried by hand"


@pytest.mark.parametrize("source", ["folder", "git"])
def test_the_tap_installed_as_a_tool_reads_the_env_file_of_the_working_folder(
    source: str, codechat: CodeChat, tmp_path: Path
) -> None:
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv is not installed beside this Python")
    what = shlex.quote(str(ROOT) if source == "folder" else f"git+file://{ROOT}")
    script = f"{uv} tool install --quiet --python {sys.executable} {what}\n"
    script += own(commands("docs/install.md", "cat >.env"), codechat)
    below = "mkdir below && cd below\ntap-instances --config=ENV --test\n"  # in another folder nothing is read
    done = bash(script, tmp_path, path=(tmp_path / "home" / ".local" / "bin",))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": ok, ") == 1
    elsewhere = bash(below, tmp_path, path=(tmp_path / "home" / ".local" / "bin",))
    assert elsewhere.returncode == 1
    assert "api_url is missing" in elsewhere.stdout
