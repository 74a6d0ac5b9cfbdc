"""FULL_TABLE by choice, from each place where it can stand, for the streams that may have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.support import discover
from tests.kit.wire import Wire, ids, instance, webhook

if TYPE_CHECKING:
    from collections.abc import Callable

    Place = Callable[[dict[str, Any], dict[str, Any], str], None]

REMEMBERING = ("webhooks", "webhook_events")


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch, a=[instance("i1", webhook("w1"), webhook("w2"))])


def in_meltanos_metadata(_entry: dict[str, Any], root: dict[str, Any], method: str) -> None:
    """Set it as Meltano's `metadata` extra does."""
    root["replication-method"] = method


def in_singers_metadata(_entry: dict[str, Any], root: dict[str, Any], method: str) -> None:
    """Set it as the Singer specification says for a source that forces it."""
    root["forced-replication-method"] = method


def in_the_stream(entry: dict[str, Any], _root: dict[str, Any], method: str) -> None:
    """Set it as the SDK's own catalog has it."""
    entry["replication_method"] = method


PLACES = (in_meltanos_metadata, in_singers_metadata, in_the_stream)


def catalog_with(method: str, place: Place, *streams: str) -> dict[str, Any]:
    """Discover, and set a stream's replication method."""
    catalog = discover()
    for entry in catalog["streams"]:
        if entry["tap_stream_id"] in streams:
            [root] = [metadata["metadata"] for metadata in entry["metadata"] if not metadata["breadcrumb"]]
            place(entry, root, method)
    return catalog


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("stream", REMEMBERING)
def test_full_table_is_honoured_wherever_it_stands(wire: Wire, stream: str, place: Place) -> None:
    catalog = catalog_with("FULL_TABLE", place, stream)
    state = wire.sync(catalog=catalog).state
    again = wire.sync(state, catalog=catalog)
    assert ids(again, stream) == ["w1", "w2"]
    assert all(not again.records(other) for other in REMEMBERING if other != stream)
    assert again.lines("WARNING") == []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("said", ["INCREMENTAL", None])
def test_full_table_is_honoured_whatever_another_place_says(wire: Wire, said: str | None, place: Place) -> None:
    catalog = catalog_with("FULL_TABLE", place, "webhooks")
    [entry] = [entry for entry in catalog["streams"] if entry["tap_stream_id"] == "webhooks"]
    [root] = [metadata["metadata"] for metadata in entry["metadata"] if not metadata["breadcrumb"]]
    for where, key in (
        (entry, "replication_method"),
        (root, "replication-method"),
        (root, "forced-replication-method"),
    ):
        if where.get(key) != "FULL_TABLE":
            where[key] = said
    state = wire.sync(catalog=catalog).state
    assert ids(wire.sync(state, catalog=catalog), "webhooks") == ["w1", "w2"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("stream", "method", "its_own"),
    [
        ("connection_changes", "FULL_TABLE", "always INCREMENTAL"),
        ("connection_changes", "LOG_BASED", "always INCREMENTAL"),
        ("webhooks", "FULLTABLE", "INCREMENTAL or FULL_TABLE"),
        ("instances", "INCREMENTAL", "always FULL_TABLE"),
        ("businesses", "INCREMENTAL", "always FULL_TABLE"),
    ],
)
def test_a_method_that_a_stream_cannot_have_is_ignored_with_a_warning_of_those_it_can(
    wire: Wire, stream: str, method: str, its_own: str, place: Place
) -> None:
    catalog = catalog_with(method, place, stream)
    first = wire.sync(catalog=catalog)
    again = wire.sync(first.state, catalog=catalog)
    assert [f"{stream} is {its_own}: another" in line for line in again.lines("WARNING")] == [True]
    usual = wire.sync(first.state)
    for name in (*REMEMBERING, "instances", "connection_changes"):
        assert ids(again, name) == ids(usual, name)


def everything_incremental(entry: dict[str, Any], root: dict[str, Any]) -> None:
    """Set it as Meltano does for `'*': {replication-method: INCREMENTAL, replication-key: updated_at}`."""
    root |= {"replication-method": "INCREMENTAL", "replication-key": "updated_at"}
    del entry["replication_method"]


def a_key_in_the_stream(entry: dict[str, Any], _root: dict[str, Any]) -> None:
    """Set a replication key as the SDK's own catalog has it."""
    entry["replication_key"] = "observed_at"


@pytest.mark.parametrize("change", [everything_incremental, a_key_in_the_stream])
def test_businesses_and_instances_stay_full_table_whatever_replication_a_catalog_asks_for(
    wire: Wire, change: Callable[[dict[str, Any], dict[str, Any]], None]
) -> None:
    catalog = discover()
    for entry in catalog["streams"]:
        [root] = [metadata["metadata"] for metadata in entry["metadata"] if not metadata["breadcrumb"]]
        if change is everything_incremental or entry["tap_stream_id"] in {"businesses", "instances"}:
            change(entry, root)
    run = wire.sync(catalog=catalog, emit_activate_version_messages=True)
    assert run.returncode == 0
    for stream in ("businesses", "instances"):
        assert sum(f"{stream} is always FULL_TABLE" in line for line in run.lines("WARNING")) == 1
        assert len(run.of("ACTIVATE_VERSION", stream)) == 1
        assert all(message["version"] for message in run.of("RECORD", stream))
        [schema] = run.of("SCHEMA", stream)
        assert not schema.get("bookmark_properties")
    usual = wire.sync()
    for stream in (*REMEMBERING, "instances", "connection_changes"):
        assert ids(run, stream) == ids(usual, stream)


def test_another_replication_key_than_a_streams_own_is_ignored_with_a_warning(wire: Wire) -> None:
    catalog = discover()
    for entry in catalog["streams"]:
        if entry["tap_stream_id"] == "webhooks":
            entry["replication_key"] = "created_at"
    run = wire.sync(catalog=catalog)
    assert ["webhooks is INCREMENTAL or FULL_TABLE" in line for line in run.lines("WARNING")] == [True]
    assert run.of("SCHEMA", "webhooks")[0]["bookmark_properties"] == ["updated_at"]


def test_full_table_still_tells_what_is_gone(wire: Wire) -> None:
    catalog = catalog_with("FULL_TABLE", in_the_stream, *REMEMBERING)
    state = wire.sync(catalog=catalog).state
    wire.answers["a"] = [instance("i1", webhook("w1"))]
    run = wire.sync(state, catalog=catalog)
    assert ids(run, "webhooks") == ids(run, "webhook_events") == ["w1", "-w2"]


def test_a_number_that_was_away_under_full_table_comes_whole_when_incremental_is_chosen_again(wire: Wire) -> None:
    """A target that got ACTIVATE_VERSION meanwhile has removed its rows."""
    everything = wire.answers["a"]
    catalog = catalog_with("FULL_TABLE", in_the_stream, *REMEMBERING)
    state = wire.sync().state
    wire.answers["a"] = []
    state = wire.sync(state, catalog=catalog, emit_activate_version_messages=True).state
    wire.answers["a"] = everything
    back = wire.sync(state)
    assert ids(back, "webhooks") == ids(back, "webhook_events") == ["w1", "w2"]


def test_what_goes_between_full_table_and_incremental_is_told(wire: Wire) -> None:
    catalog = catalog_with("FULL_TABLE", in_the_stream, *REMEMBERING)
    wire.answers["a"] = [instance("i1")]
    state = wire.sync().state
    wire.answers["a"] = [instance("i1", webhook("w3"))]
    state = wire.sync(state, catalog=catalog).state
    wire.answers["a"] = [instance("i1")]
    back = wire.sync(state)
    assert ids(back, "webhooks") == ids(back, "webhook_events") == ["-w3"]
