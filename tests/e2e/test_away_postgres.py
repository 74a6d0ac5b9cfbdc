"""What is away, hidden, moved or not known, in a real PostgreSQL: the tables right after each run.

The stories of `test_deletions.py` are about one order of reading; here are both, FULL_TABLE with versions, stream maps,
and webhooks that move while one of their instances is away. The loader alone runs, each case in instances of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e import warehouse
from tests.kit.wire import Wire, instance, webhook
from tests.test_replication_method import catalog_with, in_the_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.warehouse import Row, Warehouse
    from tests.kit.support import Run

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("plugins")]
REMEMBERING = ("webhooks", "webhook_events")
Listed = list[dict[str, Any]] | None


@pytest.fixture
def place(postgres_url: str) -> Iterator[Warehouse]:
    """Give an empty schema."""
    loaded = warehouse.postgres_at(postgres_url)
    yield loaded
    warehouse.drop(postgres_url, loaded.schema)


class Loaded:
    """A server without sockets, and the tables that each run is loaded into."""

    def __init__(self, patch: pytest.MonkeyPatch, place: Warehouse) -> None:
        self.wire, self.place = Wire(patch), place
        self.state: dict[str, Any] | None = None

    def run(self, settings: dict[str, Any] | None = None, /, **answers: Listed) -> Run:
        """Run the tap on what these businesses list, and load all that it wrote."""
        self.wire.answers = answers
        run = self.wire.sync(self.state, **(settings or {}))
        assert run.returncode == (None in answers.values())
        self.place.load(run.stdout)
        self.state = run.state
        return run

    def rows(self, table: str) -> list[Row]:
        """Return a table's rows that no version deleted."""
        return [row for row in self.place.tables()[table] if not row.get("_sdc_deleted_at")]

    def live(self) -> dict[str, str]:
        """Return webhook -> its instance, of those that are not deleted; the same in both tables."""
        both = [{row["webhook_id"]: row["instance_id"] for row in self.rows(table) if row["deleted_at"] is None}
                for table in REMEMBERING]  # fmt: skip
        assert both[0] == both[1]
        return both[0]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, place: Warehouse) -> Loaded:
    return Loaded(monkeypatch, place)


def phone(name: str, *webhooks: str, **values: Any) -> dict[str, Any]:  # noqa: ANN401
    """Make an instance whose webhooks' ids begin with its name."""
    return instance(name, *(webhook(f"{name} {key}", **values) for key in webhooks))


def test_what_goes_while_an_instance_is_away_or_moves_either_way_between_businesses(loaded: Loaded) -> None:
    other = phone("other", "1")
    loaded.run(a=[phone("away", "1", "2"), phone("to b", "1", "2"), other], b=[phone("to a", "1", "2")])
    assert set(loaded.live()) == {"away 1", "away 2", "to b 1", "to b 2", "to a 1", "to a 2", "other 1"}
    loaded.run(a=[other], b=None)  # one business fails in the middle of the moves
    assert set(loaded.live()) == {"away 1", "away 2", "to b 1", "to b 2", "to a 1", "to a 2", "other 1"}
    loaded.run(a=[other, phone("to a", "1")], b=[phone("to b", "1")])
    assert set(loaded.live()) == {"away 1", "away 2", "to b 1", "to a 1", "other 1"}
    loaded.run(a=[other, phone("away", "1"), phone("to b", "1", "3")], b=[phone("to a")])  # and back
    assert set(loaded.live()) == {"away 1", "to b 1", "to b 3", "other 1"}
    owner = {row["instance_id"]: row["business_id"] for row in loaded.rows("instances")}
    assert owner == {"other": "a", "away": "a", "to b": "a", "to a": "b"}
    changes = {(r["instance_id"], r["business_id"], r["change_type"]) for r in loaded.rows("connection_changes")}
    assert {("to a", "b", "connected"), ("to a", "b", "disconnected"), ("to a", "a", "connected")} <= changes


def test_ids_that_are_listed_twice_and_webhooks_that_move_while_one_of_their_instances_is_away(loaded: Loaded) -> None:
    def listing(first: list[str], second: list[str]) -> list[dict[str, Any]]:
        return [instance("i1", *(webhook(key, name="first") for key in first)),
                instance("i2", *(webhook(key, name="second") for key in second))]  # fmt: skip

    def names() -> dict[str, str]:
        return {row["webhook_id"]: row["name"] for row in loaded.rows("webhooks") if row["deleted_at"] is None}

    loaded.run(a=listing(["twice", "moves"], ["moves back"]))
    loaded.run(a=listing(["twice", "moves"], ["moves back", "twice"]))
    assert names() == {"twice": "second", "moves": "first", "moves back": "second"}
    loaded.run(a=listing(["twice", "moves"], ["moves back", "twice"]))
    assert names() == {"twice": "second", "moves": "first", "moves back": "second"}
    loaded.run(a=[listing([], ["moves"])[1]])  # the first is away; of the second, one webhook went to it
    assert names() == {"moves": "second"}  # what the first lists cannot be known now
    loaded.run(a=listing(["twice", "moves back"], ["moves"]))
    assert names() == {"twice": "first", "moves back": "first", "moves": "second"}
    assert loaded.live() == {"twice": "i1", "moves back": "i1", "moves": "i2"}


def test_what_a_stream_map_hides_is_neither_deleted_nor_lost(loaded: Loaded) -> None:
    hides = {"stream_maps": {"instances": {"__filter__": "instance_id != 'hidden'"},
                             "webhooks": {"__filter__": "webhook_id != 'shown 2'"}}}  # fmt: skip
    everything = [phone("hidden", "1", "2"), phone("shown", "1", "2", "3")]
    loaded.run(a=everything)
    loaded.run(hides, a=everything)
    loaded.run(hides, a=[phone("hidden", "1"), phone("shown", "1")])
    hidden = {"hidden 1", "hidden 2", "shown 2"}  # the map hides the row that tells of a deletion, too
    assert {row["webhook_id"] for row in loaded.rows("webhooks") if not row["deleted_at"]} == {*hidden, "shown 1"}
    loaded.run(a=[phone("hidden", "1"), phone("shown", "1")])
    assert set(loaded.live()) == {"hidden 1", "shown 1"}


@pytest.mark.parametrize("full_table", [False, True], ids=["INCREMENTAL", "FULL_TABLE"])
def test_versions_delete_what_is_away_and_no_failure_or_missing_key_does(loaded: Loaded, *, full_table: bool) -> None:
    streams = REMEMBERING if full_table else ()
    settings = {"emit_activate_version_messages": True, "catalog": catalog_with("FULL_TABLE", in_the_stream, *streams)}
    b = [phone("b", "1")]
    loaded.run(settings, a=[phone("stays", "1", "2"), phone("drops", "1")], b=b)
    everything = {"stays 1", "stays 2", "drops 1", "b 1"}
    loaded.run(settings, a=[phone("stays", "1", "2")], b=None)
    assert set(loaded.live()) == everything
    bare = instance("stays")
    del bare["Webhook"]
    run = loaded.run(settings, a=[bare], b=b)
    assert set(loaded.live()) == everything
    assert {row["instance_id"] for row in loaded.rows("instances")} == {"stays", "b"}
    assert {message["stream"] for message in run.of("ACTIVATE_VERSION")} == {"businesses", "instances"}
    loaded.run(settings, a=[phone("stays", "1")], b=b)
    assert set(loaded.live()) == {"stays 1", "b 1"} | (set() if full_table else {"drops 1"})
    loaded.run(settings, a=[phone("stays", "1"), phone("drops", "2")], b=b)
    assert set(loaded.live()) == {"stays 1", "b 1", "drops 2"}
