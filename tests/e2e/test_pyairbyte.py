"""A real client: PyAirbyte reads the source into its DuckDB cache, offline, twice, while the world changes.

Airbyte's standard tests follow, and what can be checked of the image without building it. `make airbyte` sets the
environment up and runs this. One process of PyAirbyte serves all tests: it takes long to start.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from demo.codechat import CodeChat, World
from demo.project import ROOT
from tests.kit.airbyte import INTEGRATION_TESTS, PORT, discovered, world
from tests.kit.pages import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

BIN = ROOT / ".venv-airbyte" / "bin"
PYTHON = BIN / "python"
AIRBYTE = ROOT / "airbyte"
EXECUTABLE = Path(sys.executable).parent / "source-codechat-instances"
TYPES = {"timestamp_with_timezone": "TIMESTAMP", "boolean": "BOOLEAN", "integer": "BIGINT", "object": "JSON"}


class PyAirbyte:
    """The client as a process, and the cache that it reads into."""

    def __init__(self, folder: Path) -> None:
        self.database = str(folder / "cache.duckdb")
        settings = {"AIRBYTE_OFFLINE_MODE": "1", "NO_LIVE_PROGRESS": "1", "AIRBYTE_LOGGING_ROOT": str(folder)}
        self.log = (folder / "client.log").open("w+")
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            [str(PYTHON), str(ROOT / "tests" / "e2e" / "pyairbyte_client.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ | settings,
            cwd=folder,
        )

    def do(self, what: str, **command: Any) -> dict[str, Any]:  # noqa: ANN401
        """Let it carry out a command."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"do": what} | command) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline() or '{"error": "PyAirbyte ended"}')
        return answer

    def check(self, config: dict[str, Any]) -> dict[str, Any]:
        """Check settings."""
        return self.do("check", config=config, executable=str(EXECUTABLE))

    def read(self, config: dict[str, Any]) -> dict[str, Any]:
        """Read into the cache."""
        return self.do("read", config=config, executable=str(EXECUTABLE), database=self.database)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the cache."""
        answer = self.do("query", database=self.database, sql=sql)
        return [tuple(row) for row in answer["rows"]]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PyAirbyte]:
    """Start PyAirbyte."""
    if not PYTHON.exists():
        pytest.skip("PyAirbyte is not installed: run `make airbyte`")
    started = PyAirbyte(tmp_path_factory.mktemp("pyairbyte"))
    try:
        yield started
    finally:
        started.process.stdin.close()  # type: ignore[union-attr]
        started.process.wait(timeout=60)


@pytest.fixture(scope="module")
def server() -> Iterator[CodeChat]:
    """Serve the demo's world."""
    with CodeChat(World.seeded(7)) as running:
        yield running


@pytest.fixture(scope="module")
def config(server: CodeChat) -> dict[str, Any]:
    """Give the settings that read it."""
    return server.world.settings(server.url)


def with_a_wrong_token(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with a wrong token for the first business."""
    first, *others = config["businesses"]
    return config | {"businesses": [first | {"auth_token": "not-the-token-of-this-business"}, *others]}


def connected(server: CodeChat) -> list[dict[str, Any]]:
    """Return what the server lists now; the world changes its own objects."""
    return deepcopy([instance for business in server.world.businesses.values() for instance in business.connected])


def test_check_accepts_good_settings(client: PyAirbyte, config: dict[str, Any]) -> None:
    assert client.check(config) == {"ok": True}


def test_check_names_the_business_whose_token_is_wrong(client: PyAirbyte, config: dict[str, Any]) -> None:
    error = client.check(with_a_wrong_token(config))["error"]
    assert f"business {config['businesses'][0]['business_id']}: 401 Unauthorized" in error
    assert "not-the-token" not in error


@pytest.fixture(scope="module")
def history(client: PyAirbyte, server: CodeChat, config: dict[str, Any]) -> dict[str, Any]:
    """Read, let an hour pass, read again; give how many records came, and what was listed."""
    first = client.read(config)
    assert "error" not in first, first
    before = connected(server)
    server.world.step()
    second = client.read(config)
    assert "error" not in second, second
    after = connected(server)
    stayed = {i["instanceId"] for i in after}
    return {
        "records": (first["records"], second["records"]),
        "instances": stayed | {i["instanceId"] for i in before},
        "webhooks": ids(before) | ids(after),
        # What is gone from an instance that is still listed.
        "deleted": ids([i for i in before if i["instanceId"] in stayed]) - ids(after),
    }


def ids(instances: list[dict[str, Any]]) -> set[str]:
    """Return the ids of the webhooks of these instances."""
    return {webhook["webhookId"] for instance in instances for webhook in instance["Webhook"]}


def test_two_reads_give_each_key_once(client: PyAirbyte, history: dict[str, Any]) -> None:
    for table, key, listed in (
        ("instances", "instance_id", history["instances"]),
        ("webhooks", "webhook_id", history["webhooks"]),
        ("webhook_events", "webhook_id", history["webhooks"]),
    ):
        rows = client.query(f"select {key} from main.{table}")  # noqa: S608
        assert sorted(row[0] for row in rows) == sorted(listed), table


def test_the_second_read_is_incremental(history: dict[str, Any]) -> None:
    first, second = history["records"]
    assert 0 < second < first


def test_a_webhook_that_is_gone_has_deleted_at(client: PyAirbyte, history: dict[str, Any]) -> None:
    rows = client.query("select webhook_id from main.webhooks where deleted_at is not null")
    assert {row[0] for row in rows} == history["deleted"] != set()


def test_connected_now_is_what_the_server_lists(client: PyAirbyte, server: CodeChat, history: dict[str, Any]) -> None:
    assert history
    rows = client.query(
        "select i.instance_id from main.instances i join main.businesses b using (business_id) "
        "where i.observed_at = b.observed_at"
    )
    assert {row[0] for row in rows} == {instance["instanceId"] for instance in connected(server)}


def test_a_change_of_a_webhook_replaces_its_row(client: PyAirbyte, server: CodeChat, history: dict[str, Any]) -> None:
    assert history
    switched = dict(client.query("select webhook_id, enabled from main.webhooks where deleted_at is null"))
    for instance in connected(server):
        for webhook in instance["Webhook"]:
            assert switched[webhook["webhookId"]] == webhook["enabled"]


def test_columns_have_their_types(client: PyAirbyte, config: dict[str, Any], history: dict[str, Any]) -> None:
    assert history
    for name, stream in discovered(config).items():
        found = dict(
            client.query(f"select column_name, data_type from information_schema.columns where table_name = '{name}'")  # noqa: S608
        )
        for column, schema in stream["json_schema"]["properties"].items():
            kinds = {
                schema.get("airbyte_type"),
                *([schema["type"]] if isinstance(schema["type"], str) else schema["type"]),
            }
            [expected] = [TYPES[kind] for kind in TYPES if kind in kinds] or ["VARCHAR"]
            assert found[column] == expected, (name, column)


def test_a_failed_business_fails_the_read_and_changes_no_table(
    client: PyAirbyte, server: CodeChat, config: dict[str, Any], history: dict[str, Any]
) -> None:
    assert history
    tables = ("businesses", "instances", "webhooks", "webhook_events", "connection_changes")
    before = [client.query(f"select * from main.{table} order by all") for table in tables]  # noqa: S608
    server.world.step()
    assert "Exit Code: 1" in client.read(with_a_wrong_token(config))["error"]
    assert [client.query(f"select * from main.{table} order by all") for table in tables] == before  # noqa: S608
    # The next good read gives what this one did not keep.
    assert "error" not in client.read(config)
    assert len(client.query("select * from main.connection_changes")) > len(before[-1])


@pytest.fixture
def _installed() -> None:
    if not PYTHON.exists():
        pytest.skip("Airbyte's own tests are not installed: run `make airbyte`")


@pytest.mark.usefixtures("_installed")
def test_airbytes_standard_tests_pass(tmp_path: Path) -> None:
    root = tmp_path / "source-codechat-instances"
    shutil.copytree(AIRBYTE, root)
    shutil.copy(ROOT / "tests" / "e2e" / "airbyte_standard_tests.py", root / "test_standard.py")
    with CodeChat(world()) as server:
        for file in (root / "integration_tests").glob("*config.json"):
            file.write_text(file.read_text(encoding="utf-8").replace(f":{PORT}", f":{server.port}"), encoding="utf-8")
        options = [
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "airbyte_cdk.test.standard_tests.pytest_hooks",
            "-k",
            "not docker",
        ]
        done = subprocess.run(  # noqa: S603 - our own program
            [str(PYTHON), "-m", "pytest", *options, "test_standard.py"],
            cwd=root,
            env=os.environ | {"SOURCE": str(EXECUTABLE)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 8


def run(*command: object) -> subprocess.CompletedProcess[str]:
    """Run a program."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, check=False)  # noqa: S603


@pytest.mark.usefixtures("_installed")
def test_the_dockerfile_has_no_known_fault() -> None:
    done = run(BIN / "hadolint", AIRBYTE / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.usefixtures("_installed")
def test_the_entry_point_starts_from_the_files_that_the_image_copies(tmp_path: Path) -> None:
    text = (AIRBYTE / "Dockerfile").read_text(encoding="utf-8")
    for name in [name for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE) for name in line.split()]:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    clean = tmp_path / "clean"
    made = run(BIN / "uv", "venv", "--python", PYTHON, clean)
    assert made.returncode == 0, made.stderr
    installed = run(BIN / "uv", "pip", "install", "--python", clean / "bin" / "python", tmp_path)
    assert installed.returncode == 0, installed.stderr
    [entry_point] = re.findall(r'^ENTRYPOINT \["(.*)"\]$', text, re.MULTILINE)
    done = run(clean / "bin" / entry_point, "spec")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["type"] == "SPEC"


@pytest.mark.usefixtures("_installed")
def test_the_blocks_that_a_stranger_copies_load_the_demo_into_duckdb(tmp_path: Path) -> None:
    start, read, end, *_ = [block.text for block in blocks("sh") if block.page == "airbyte/README.md"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "config.json"
    config.write_text(
        (INTEGRATION_TESTS / "config.json").read_text(encoding="utf-8").replace(str(PORT), str(port)), "utf-8"
    )
    # The two environments are there already; the rest is as it is, but for the port and where the file goes.
    script = "".join(line for line in start.splitlines(keepends=True) if "python3 -m venv" not in line)
    script += read + read
    assert end.startswith("kill $server\n")
    for shown, here in {
        ".venv-source/bin": str(EXECUTABLE.parent),
        ".venv-pyairbyte/bin": str(BIN),
        f"--port {PORT}": f"--port {port}",
        "airbyte/integration_tests/config.json": str(config),
        "output/airbyte.duckdb": str(tmp_path / "airbyte.duckdb"),
    }.items():
        assert shown in script
        script = script.replace(shown, here)
    done = subprocess.run(
        ["bash", "-e"],  # noqa: S607
        input="trap 'kill $server' EXIT\n" + script,
        cwd=ROOT,
        env=os.environ | {"AIRBYTE_LOGGING_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^instances 3$", done.stdout, re.MULTILINE), done.stdout
    assert "atendimento" in done.stdout
