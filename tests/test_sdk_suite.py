"""The SDK's own tests of a tap, with every stream read from a CodeChat on a real socket."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from singer_sdk.testing import get_tap_test_class

from demo.codechat import CodeChat, World
from tap_instances.tap import TapInstances
from tests.kit.checked import BUSINESS
from tests.kit.support import CONNECTED, TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore:No records were available to test")  # of a column that is all null

# The suite takes its settings when this module is read: the server's port is filled in when it is known.
SETTINGS: dict[str, Any] = {"api_url": "http://127.0.0.1:1", "business_id": BUSINESS, "auth_token": TOKEN}


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    body = json.loads(CONNECTED.read_text(encoding="utf-8"))
    with CodeChat(World.from_body(body, TOKEN)) as server:
        SETTINGS["api_url"] = server.url
        yield


TestTapInstances = get_tap_test_class(TapInstances, config=SETTINGS, parse_env_config=False)
