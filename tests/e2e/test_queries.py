"""The queries of docs/queries.md answer right on tables that the real loaders have made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.story import ANSWERS, BAKERY, CLINIC, asked, plain, queries, session, tell

if TYPE_CHECKING:
    from tests.e2e.warehouse import Warehouse

pytestmark = pytest.mark.e2e
NAMES = {"target-duckdb": "DuckDB", "target-postgres": "PostgreSQL"}


@pytest.fixture(scope="module")
def loaded(place: Warehouse, plugins: None) -> Warehouse:
    """Load the story's messages, run after run."""
    del plugins  # only has to be there
    for run in tell():
        place.load(run.stdout)
    return place


@pytest.mark.parametrize("question", ANSWERS)
def test_the_warehouse_answers_right(loaded: Warehouse, question: str) -> None:
    first = session(NAMES[loaded.loader]).replace("codechat", loaded.schema)
    rows = loaded.query(f"{first};\n{asked(question)}")
    assert plain(row.values() for row in rows) == ANSWERS[question]


def test_a_business_that_was_read_in_the_past_is_old_by_the_warehouse_s_own_clock(loaded: Warehouse) -> None:
    rows = loaded.query(queries()["Which businesses were not read for hours?"])
    assert {row["business"] for row in rows} == {BAKERY, CLINIC}
