"""The queries of docs/queries.md answer right on tables that the real loaders have made."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from demo.project import ROOT
from tests.kit.story import ANSWERS, plain, queries, tell

if TYPE_CHECKING:
    from tests.e2e.warehouse import Warehouse

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def loaded(place: Warehouse, plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Load the story's messages, run after run."""
    del plugins  # only has to be there
    prefix = place.loader.upper().replace("-", "_") + "_"
    settings = {name.removeprefix(prefix).lower(): value for name, value in place.settings.items()}
    config = tmp_path_factory.mktemp("loader") / "config.json"
    config.write_text(json.dumps({"default_target_schema": place.schema, **settings}), encoding="utf-8")
    loader = ROOT / ".meltano" / "loaders" / place.loader / "venv" / "bin" / place.loader
    for run in tell():
        done = subprocess.run(  # noqa: S603 - no shell, and our own words
            [str(loader), "--config", str(config)],
            input=run.stdout,
            env=os.environ | {"PGTZ": "UTC"},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return place


@pytest.mark.parametrize("question", ANSWERS)
def test_the_warehouse_answers_right(loaded: Warehouse, question: str) -> None:
    rows = loaded.query(queries()[question])
    assert plain(row.values() for row in rows) == ANSWERS[question]
