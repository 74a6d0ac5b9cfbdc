"""Real Meltano, DuckDB and PostgreSQL; what is missing is said, and skipped.

Where the environment says `CI=true` nothing is skipped: what is missing fails.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

import pytest

from demo.project import MeltanoMissing, find_meltano, install
from tests.e2e import postgres, warehouse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.warehouse import Warehouse


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def plugins() -> None:
    """See to it that the tap and the loaders are installed in the clone."""
    try:
        find_meltano()
    except MeltanoMissing as problem:
        _missing(str(problem))
    install("tap-instances", "target-duckdb", "target-postgres")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Give the server that TEST_POSTGRES_URL names, else start one."""
    given = os.environ.get("TEST_POSTGRES_URL")
    if given:
        yield given
        return
    try:
        postgres.binaries()
    except postgres.PostgresMissing as problem:
        _missing(f"{problem}, and TEST_POSTGRES_URL is not set")
    with postgres.cluster() as url:
        yield url


@pytest.fixture(scope="module", params=["duckdb", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """Give each warehouse in turn, empty."""
    if request.param == "duckdb":
        yield warehouse.duckdb_in(tmp_path_factory.mktemp("duckdb"))
        return
    url = request.getfixturevalue("postgres_url")
    loaded = warehouse.postgres_at(url)
    yield loaded
    warehouse.drop(url, loaded.schema)
