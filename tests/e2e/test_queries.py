"""The queries of docs/queries.md answer right on tables that the real loaders have made."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, cast

import pytest

from demo.project import ROOT
from tests.story import ANSWERS, plain, queries, tell

if TYPE_CHECKING:
    from typing_extensions import LiteralString

    from tests.e2e.warehouse import Warehouse

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def loaded(place: Warehouse, plugins: None) -> Warehouse:
    """Load the story's messages, run after run."""
    del plugins  # only has to be there
    loader = ROOT / ".meltano" / "loaders" / place.loader / "venv" / "bin" / place.loader
    for run in tell():
        done = subprocess.run(  # noqa: S603 - no shell, and our own words
            [str(loader), "--config=ENV"],
            input=run.stdout,
            env=os.environ | place.settings | {"PGTZ": "UTC"},
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
    rows = loaded.query(cast("LiteralString", queries()[question]))
    assert plain(row.values() for row in rows) == ANSWERS[question]
