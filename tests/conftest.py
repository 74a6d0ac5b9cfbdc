"""What tests share: the API's own example, and a CodeChat that serves it.

A test that wants another world makes it: `with CodeChat(World.seeded(3)) as server`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from demo.codechat import CodeChat, World
from tap_instances import redact
from tests.kit.support import CONNECTED, TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of the slow tests."""
    config.addinivalue_line("markers", "e2e: Meltano and real databases; leave out with -m 'not e2e'")


@pytest.fixture(scope="session")
def _connected_text() -> str:
    return CONNECTED.read_text(encoding="utf-8")


@pytest.fixture
def connected(_connected_text: str) -> dict[str, Any]:
    """Give the documented 200 body, fresh for each test: it may be changed."""
    body: dict[str, Any] = json.loads(_connected_text)
    return body


@pytest.fixture
def codechat(connected: dict[str, Any]) -> Iterator[CodeChat]:
    """Serve the documented 200 body to who has TOKEN."""
    with CodeChat(World.from_body(connected, TOKEN)) as server:
        yield server


@pytest.fixture(autouse=True)
def _forgotten_secrets() -> Iterator[None]:
    """Forget the secrets of a test's runs: looking for those of all tests takes ever longer."""
    yield
    redact._hidden.clear()
