"""ACTIVATE_VERSION: a target may delete what this run did not list, so it comes last, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tap_instances.tap import TapInstances
from tests.kit.support import discover, run_cli, select
from tests.kit.wire import Wire, instance, webhook
from tests.test_replication_method import catalog_with, in_the_stream

if TYPE_CHECKING:
    from pathlib import Path

    from demo.codechat import CodeChat
    from tests.kit.support import Run

FULL_TABLE = ("businesses", "instances")
INCREMENTAL = ("webhooks", "webhook_events", "connection_changes", "observations")
ON: dict[str, Any] = {"emit_activate_version_messages": True}


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch, a=[instance("i1", webhook("w1"))], b=[instance("i2", webhook("w2")), instance("i3")])


def versions(run: Run) -> dict[str, list[int]]:
    """Give stream -> the versions that are activated, in the order of the messages."""
    found: dict[str, list[int]] = {}
    for message in run.of("ACTIVATE_VERSION"):
        found.setdefault(message["stream"], []).append(message["version"])
    return found


def check(run: Run, *streams: str) -> None:
    """See to it that these streams are activated, at the right place, and no others."""
    found = versions(run)
    assert set(found) == set(streams)
    assert len({tuple(version) for version in found.values()}) == 1  # one version, once a stream
    for stream, [version] in found.items():
        assert {message["version"] for message in run.of("RECORD", stream)} <= {version}
    assert all("version" not in message for message in run.of("RECORD") if message["stream"] not in streams)
    kinds = [message["type"] for message in run.messages]
    assert kinds[-1 - len(found) :] == ["ACTIVATE_VERSION"] * len(found) + ["STATE"]
    assert "RECORD" not in kinds[kinds.index("ACTIVATE_VERSION") :]


def test_full_table_streams_are_activated_once_after_the_last_record_and_before_the_last_state(wire: Wire) -> None:
    check(wire.sync(**ON), *FULL_TABLE)


def test_nothing_is_activated_unless_it_is_asked_for(wire: Wire) -> None:
    run = wire.sync()
    assert run.of("ACTIVATE_VERSION") == []
    assert all("version" not in message for message in run.of("RECORD"))


def test_runs_that_follow_at_once_have_versions_of_their_own(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whole seconds, as the SDK has them, the second of two would delete nothing."""
    found = []
    for millisecond in range(2):
        monkeypatch.setattr(TapInstances, "initialized_at", 1_748_736_000_000 + millisecond)
        found += versions(wire.sync(**ON))["instances"]
    assert found == [1_748_736_000_000, 1_748_736_000_001]


def test_streams_that_are_full_table_by_choice_are_activated_too(wire: Wire) -> None:
    catalog = catalog_with("FULL_TABLE", in_the_stream, "webhooks", "webhook_events")
    first = wire.sync(catalog=catalog, **ON)
    check(first, *FULL_TABLE, "webhooks", "webhook_events")
    wire.answers["a"] = [instance("i1")]
    again = wire.sync(first.state, catalog=catalog, **ON)
    check(again, *FULL_TABLE, "webhooks", "webhook_events")
    assert [row["webhook_id"] for row in again.records("webhooks")] == ["w2"]  # what is gone is not emitted once more


def test_an_empty_world_is_activated_away(wire: Wire) -> None:
    """The answers were whole, so it is true."""
    wire.answers = {"a": []}
    run = wire.sync(**ON)
    check(run, *FULL_TABLE)
    assert run.records("instances") == []


def test_a_stream_that_is_not_selected_is_not_activated(wire: Wire) -> None:
    check(wire.sync(catalog=select(discover(), "instances", "webhooks"), **ON), "instances")


def test_a_renamed_stream_is_activated_under_its_name(wire: Wire) -> None:
    maps = {"instances": {"__alias__": "numbers"}, "businesses": {"__filter__": "True"}}
    check(wire.sync(**ON, stream_maps=maps), "businesses", "numbers")


def test_a_stream_that_is_dropped_by_a_map_is_not_activated(wire: Wire) -> None:
    check(wire.sync(**ON, stream_maps={"instances": None}), "businesses")


@pytest.mark.parametrize("stream", ["webhooks", "webhook_events"])
def test_what_goes_while_a_map_drops_its_full_table_stream_is_told_later(wire: Wire, stream: str) -> None:
    catalog = catalog_with("FULL_TABLE", in_the_stream, stream)
    first = wire.sync()
    wire.answers["a"] = [instance("i1")]
    dropped = wire.sync(first.state, catalog=catalog, **ON, stream_maps={stream: None})
    assert dropped.of("ACTIVATE_VERSION", stream) == []
    gone = {row["webhook_id"] for row in first.records(stream) if row["instance_id"] == "i1"}
    assert gone
    told = wire.sync(dropped.state).records(stream)
    assert {row["webhook_id"] for row in told if row["deleted_at"]} == gone


@pytest.mark.parametrize("column", ["url", "name"])
def test_versions_do_not_depend_on_the_way_that_rows_take(wire: Wire, column: str) -> None:
    """With a column deselected, rows go through the SDK's way."""
    catalog = discover()
    for entry in catalog["streams"]:
        for metadata in entry["metadata"]:
            if metadata["breadcrumb"] == ["properties", column]:
                metadata["metadata"]["selected"] = False
    check(wire.sync(catalog=catalog, **ON), *FULL_TABLE)


@pytest.mark.parametrize("failing", ["a", "b"])
def test_nothing_is_activated_when_a_business_failed(wire: Wire, failing: str) -> None:
    wire.answers[failing] = None
    run = wire.sync(**ON)
    assert (run.returncode, run.of("ACTIVATE_VERSION")) == (1, [])
    assert run.messages[-1]["type"] == "STATE"
    assert all("version" in message for stream in FULL_TABLE for message in run.of("RECORD", stream))


@pytest.mark.parametrize(
    "faulty",
    [{"name": "who?"}, instance("", webhook("w1")), None, 5, instance("i1", {"url": "https://example.com"})],
)
def test_nothing_is_activated_when_a_record_had_no_key(wire: Wire, faulty: Any) -> None:  # noqa: ANN401
    assert wire.answers["a"] is not None
    wire.answers["a"].append(faulty)
    run = wire.sync(**ON)
    assert (run.returncode, run.of("ACTIVATE_VERSION")) == (1, [])


def test_nothing_is_activated_when_a_map_failed(wire: Wire) -> None:
    run = wire.sync(**ON, stream_maps={"instances": {"name": "name.nonsense()"}})
    assert (run.returncode, run.of("ACTIVATE_VERSION")) == (1, [])


def test_nothing_is_activated_with_batches(wire: Wire, tmp_path: Path) -> None:
    """Their rows carry no version: a target would delete them."""
    config = {"encoding": {"format": "jsonl", "compression": "gzip"}, "storage": {"root": tmp_path.as_uri()}}
    run = wire.sync(**ON, batch_config=config)
    assert (run.returncode, run.of("ACTIVATE_VERSION")) == (0, [])
    assert {message["stream"] for message in run.of("BATCH")} == {*FULL_TABLE, *INCREMENTAL}
    assert ["no ACTIVATE_VERSION with batch_config" in line for line in run.lines("WARNING")] == [True]


def test_nothing_is_activated_by_a_test_of_the_connection(codechat: CodeChat) -> None:
    business = next(iter(codechat.world.businesses.values()))
    settings = {"api_url": codechat.url, "business_id": business.id, "auth_token": business.token}
    tested, run = (run_cli({**settings, **ON}, *options) for options in (["--test=all"], []))
    assert (tested.returncode, tested.of("ACTIVATE_VERSION")) == (0, [])
    assert set(versions(run)) == set(FULL_TABLE)
