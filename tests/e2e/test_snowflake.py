"""Snowflake, as far as it can be known without an account: settings, key pair, and the tables the loader would make.

The real loader runs against fakesnow, a Snowflake in memory, which takes its DDL but not its PUT: that rows are loaded,
merged and deleted is not tested here.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from demo.codechat import CodeChat, World
from demo.project import FOREIGN, ROOT
from tests.kit.checked import STREAMS
from tests.kit.pages import loader
from tests.kit.support import sync

pytestmark = pytest.mark.e2e

PYTHON = ROOT / ".venv-snowflake" / "bin" / "python"
PROGRAM = ROOT / "tests" / "e2e" / "snowflake_tables.py"
TYPES = {"string": "TEXT", "boolean": "BOOLEAN", "object": "VARIANT", "integer": "NUMBER"}


@pytest.fixture(scope="module")
def schemas() -> dict[str, dict[str, Any]]:
    """Give the SCHEMA message of each stream."""
    world = World.seeded(7, businesses=1)
    with CodeChat(world) as server:
        run = sync(world.settings(server.url))
    return {message["stream"]: message for message in run.of("SCHEMA")}


@pytest.fixture(scope="module")
def found(schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Let the loader make its tables, and give what it tells."""
    if not PYTHON.exists():
        reason = "the Snowflake loader is not installed: run `make test` once"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    done = subprocess.run(  # noqa: S603 - our own program
        [str(PYTHON), str(PROGRAM)],
        input="".join(json.dumps(message) + "\n" for message in schemas.values()),
        env={name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_the_loader_knows_every_setting_that_meltano_yml_gives_it(found: dict[str, Any]) -> None:
    assert {setting["name"] for setting in loader("target-snowflake")["settings"]} <= set(found["settings"])


def test_the_loader_that_is_checked_is_the_one_of_meltano_yml() -> None:
    assert loader("target-snowflake")["pip_url"] in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_a_key_pair_authenticates_and_no_password(found: dict[str, Any]) -> None:
    assert (found["authentication"], found["key"], found["password"]) == ("KEY_PAIR", True, False)
    groups = loader("target-snowflake")["settings_group_validation"]
    assert all({"private_key", "private_key_path"} & set(group) and "password" not in group for group in groups)


@pytest.mark.parametrize("stream", STREAMS)
def test_columns_have_the_types_of_their_values(
    stream: str, found: dict[str, Any], schemas: dict[str, dict[str, Any]]
) -> None:
    wanted = {
        name.upper(): (snowflake_type(schema), "NO" if name in schemas[stream]["key_properties"] else "YES")
        for name, schema in schemas[stream]["schema"]["properties"].items()
    }
    columns = {
        column: (kind, nullable)
        for table, column, kind, nullable in found["columns"]
        if table == stream.upper() and not column.startswith("_SDC_")
    }
    assert columns == wanted


def snowflake_type(schema: dict[str, Any]) -> str:
    """Give the type of a column: text of any length, UTC without a zone, VARIANT for what is an object."""
    if schema.get("format") == "date-time":
        return "TIMESTAMP_NTZ"
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return next(TYPES[kind] for kind in kinds if kind != "null")
