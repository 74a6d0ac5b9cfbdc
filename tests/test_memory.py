"""What is remembered, and what follows from it: tables of what was seen last time and what is there now."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import pytest

from tap_instances.memory import ListPartition, Partition, RowMemory, RowPartition, as_given, read_bookmarks, to_state
from tap_instances.records import Instance, Row
from tests.kit.wire import Wire, instance

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

START: Final = datetime(2025, 6, 1, tzinfo=timezone.utc)
TIME: Final = "2025-06-01T00:00:00Z"
KINDS: Final[dict[str, type[Partition] | None]] = {
    "businesses": None,
    "webhooks": RowPartition,
    "connection_changes": ListPartition,
    "observations": Partition,
}
HOSTILE: Final = (
    *("a b", "a=b", "=", "%", "%20", "a%3Db", "+", "-", "'\"\\"),
    *("ção", "日本", "🥖", "\n", "\t", " ", "\u2028", "a\r\nb"),
)
Listed = dict[str, dict[str, str]]  # instance -> row -> its digest


def as_json(value: Any) -> Any:  # noqa: ANN401
    """Return what stands in STATE for a value."""
    return msgspec.json.decode(msgspec.json.encode(value))


@pytest.fixture(autouse=True)
def _legible_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tap_instances.memory.xxh3_64_hexdigest", lambda json, _shape: json.decode())


class Run(NamedTuple):
    """What a run gave: what it emitted, what it found gone, what it remembers."""

    emitted: list[str]
    gone: list[tuple[str, str]]
    state: dict[str, Any]
    memory: RowMemory

    def partition(self, business_id: str = "b") -> Any:  # noqa: ANN401
        """Return what is remembered of a business."""
        [found] = [
            entry
            for entry in self.state["bookmarks"]["webhooks"]["partitions"]
            if entry["context"]["business_id"] == business_id
        ]
        return found

    def seen(self, business_id: str = "b") -> Listed:
        """Return instance -> rows, of those that the business listed."""
        return {instance_id: memory["rows"] for instance_id, memory in self.partition(business_id)["seen"].items()}

    def away(self, business_id: str = "b") -> Listed:
        """Return instance -> rows, of those that the business does not list."""
        memories = self.partition(business_id).get("away", {})
        return {instance_id: memory["rows"] for instance_id, memory in memories.items()}


def open_memory(state: dict[str, Any] | None, *, full_table: bool = False, versioned: bool = False) -> RowMemory:
    """Return what a run remembers at its start."""
    bookmarks: Any = read_bookmarks(state or {}, KINDS, {"a", "b"})
    return RowMemory(bookmarks.get("webhooks", {}), full_table=full_table, versioned=versioned)


def state_of(memory: RowMemory) -> Any:  # noqa: ANN401
    """Return the state after a run."""
    return as_json(to_state({"webhooks": memory.bookmark}))


def is_unchanged(memory: RowMemory, instance_id: str, digest: str) -> bool:
    """Return whether an instance is not read again that comes with this digest."""
    known = None if memory.full_table else memory.memories().get(instance_id)
    return known is not None and known.digest == digest


def rows_of(rows: Mapping[str, str]) -> list[Row]:
    """Return rows whose JSON stands for its digest."""
    return [Row(key, digest.encode(), None) for key, digest in rows.items()]


def compare(  # noqa: PLR0913
    memory: RowMemory,
    instance_id: str,
    digest: str,
    rows: list[Row],
    *,
    unknown: Iterable[str] = (),
    hidden: Iterable[str] = (),
) -> Sequence[Row]:
    """Return those rows of an instance that are emitted."""
    instance = Instance(instance_id, digest=digest, unknown_events=frozenset(unknown), hidden=frozenset(hidden))
    return memory.compare(instance, rows)


def run(  # noqa: PLR0913
    state: dict[str, Any] | None,
    listed: Mapping[str, Any],
    *,
    day: float = 0,
    hidden: tuple[str, ...] = (),
    digest: str = "all",
    unknown: tuple[str, ...] = (),
    full_table: bool = False,
    versioned: bool = False,
) -> Run:
    """Read business "b" (:data:`Listed`), or several (business -> what it lists), after what ``state`` remembers."""
    memory = open_memory(state, full_table=full_table, versioned=versioned)
    emitted: list[str] = []
    gone: list[tuple[str, str]] = []
    several = listed if set(listed) & {"a", "b"} else {"b": listed}
    for business_id, instances in several.items():
        memory.begin(business_id)
        for instance_id, rows in instances.items():
            out = compare(memory, instance_id, digest, rows_of(rows), unknown=unknown, hidden=hidden)
            emitted += [row.key for row in out]
        gone += memory.settle_gone()
        memory.commit(business_id, START + timedelta(days=day))
    memory.forget()
    return Run(emitted, gone, state_of(memory), memory)


# ---------------------------------------------------------------------------------------------- one business, two runs


@pytest.mark.parametrize(
    ("before", "now", "emitted", "gone"),
    [
        ({}, {"i": {"w": "1"}}, ["w"], []),
        ({"i": {}}, {"i": {"w": "1"}}, ["w"], []),
        ({"i": {"w": "1"}}, {"i": {"w": "1"}}, [], []),
        ({"i": {"w": "1"}}, {"i": {"w": "2"}}, ["w"], []),
        ({"i": {"w": "1"}}, {"i": {"w": "1", "v": "1"}}, ["v"], []),
        ({"i": {"w": "1", "v": "2"}}, {"i": {"v": "2", "w": "1"}}, [], []),
        ({"i": {"w": "1", "v": "1"}}, {"i": {"w": "1"}}, [], [("i", "v")]),
        ({"i": {"w": "1"}}, {"i": {}}, [], [("i", "w")]),
        ({"i": {"w": "1"}}, {}, [], []),  # the instance is not listed: nothing is known of its rows
        ({"i": {"w": "1"}}, {"j": {"v": "1"}}, ["v"], []),
        ({"i": {"w": "1"}, "j": {}}, {"i": {}, "j": {"w": "1"}}, ["w"], []),  # it moved to another instance
        ({"i": {"w": "1", "v": "1"}, "j": {}}, {"i": {}, "j": {"w": "1"}}, ["w"], [("i", "v")]),  # one of two moved
        ({"i": {"w": "1"}, "j": {"v": "1"}}, {"i": {}, "j": {}}, [], [("i", "w"), ("j", "v")]),
        ({"i": {"w": "1"}, "j": {"v": "1"}}, {"i": {"w": "1"}, "j": {}}, [], [("j", "v")]),
    ],
)
def test_what_is_new_changed_or_gone(before: Listed, now: Listed, emitted: list[str], gone: list[Any]) -> None:
    second = run(run(None, before).state, now)
    assert (second.emitted, second.gone) == (emitted, gone)
    assert second.seen() == now
    third = run(second.state, now)
    assert (third.emitted, third.gone) == ([], [])


def test_a_row_that_moved_to_a_business_that_was_not_read_whole_is_not_gone() -> None:
    memory = open_memory(run(None, {"a": {"i": {"w": "1", "v": "1"}}, "b": {"j": {}}}).state)
    memory.begin("b")
    assert len(compare(memory, "j", "all", rows_of({"w": "1"}))) == 1
    memory.abandon()  # an item of "b" had no key
    memory.begin("a")
    assert compare(memory, "i", "all", []) == []
    assert memory.settle_gone() == [("i", "v")]


@pytest.mark.parametrize("row_id", HOSTILE)
def test_ids_of_any_characters_are_remembered(row_id: str) -> None:
    listed = {row_id: {row_id: "1", "other": "1"}}
    first = run(None, listed)
    assert run(first.state, listed).emitted == []
    assert run(first.state, {row_id: {"other": "1"}}).gone == [(row_id, row_id)]


def test_rows_that_are_as_remembered_are_counted() -> None:
    first = run(None, {"i": {"w": "1", "v": "1"}, "j": {"u": "1"}})
    assert first.memory.unchanged == 0
    assert run(first.state, {"i": {"w": "1", "v": "2"}, "j": {"u": "1"}}).memory.unchanged == 2


def test_a_business_that_is_not_committed_is_remembered_as_it_was() -> None:
    first = run(None, {"a": {"i": {"w": "1"}}, "b": {"j": {"v": "1"}}})
    memory = open_memory(first.state)
    memory.begin("b")
    assert compare(memory, "j", "all", rows_of({"w": "2"}))
    memory.settle_gone()
    assert state_of(memory) == first.state


# ----------------------------------------------------------------------------------------------- what is not read again


def test_an_instance_is_unchanged_while_its_digest_is_the_same() -> None:
    memory = open_memory(run(None, {"i": {"w": "1", "v": "1"}}).state)
    assert is_unchanged(memory, "i", "all")
    assert not is_unchanged(memory, "i", "other")
    assert not is_unchanged(memory, "i", "")
    assert not is_unchanged(memory, "j", "all")


def test_nothing_is_unchanged_with_full_table() -> None:
    assert not is_unchanged(open_memory(run(None, {"i": {"w": "1"}}).state, full_table=True), "i", "all")


def test_rows_of_unchanged_instances_are_counted() -> None:
    listed = {"i": {"w": "1"}, "j": {"v": "1", "u": "1"}, "k": {"t": "1"}}
    memory = open_memory(run({}, listed).state)
    memory.begin("b")
    memory.keep("i")
    memory.keep("j")
    compare(memory, "k", "other", rows_of({"t": "1"}))
    assert memory.unchanged == 4


def test_an_instance_that_is_away_is_unchanged_when_it_comes_back_as_it_was() -> None:
    second = run(run(None, {"i": {"w": "1"}}).state, {}, day=1)
    memory = open_memory(second.state)
    assert is_unchanged(memory, "i", "all")
    memory.begin("b")
    memory.keep("i")
    memory.commit("b", START)
    assert as_json(memory.bookmark["b"].seen) == {"i": {"rows": {"w": "1"}, "digest": "all"}}


@pytest.mark.parametrize("odd", [{"hidden": ("w",)}, {"digest": ""}])
def test_an_instance_of_which_not_every_row_is_known_is_read_again(odd: dict[str, Any]) -> None:
    first = run(None, {"i": {"w": "1"}})
    assert not is_unchanged(open_memory(run(first.state, {"i": {}}, **odd).state), "i", "all")
    assert not is_unchanged(open_memory(run(None, {"i": {}}, **odd).state), "i", "all")


def test_what_is_kept_is_remembered_as_it_was() -> None:
    first = run(None, {"i": {"w": "1", "v": "1"}})
    memory = open_memory(first.state)
    memory.begin("b")
    memory.keep("i")
    assert memory.settle_gone() == []
    memory.commit("b", START)
    assert state_of(memory) == first.state
    assert memory.unchanged == 2


def test_a_gone_row_that_the_target_was_not_told_of_is_told_later() -> None:
    first = run(None, {"i": {"w": "1", "v": "1"}})
    memory = open_memory(first.state)
    memory.begin("b")
    compare(memory, "i", "all", rows_of({"w": "1"}))
    for pair in memory.settle_gone():
        memory.keep_gone(*pair)
    memory.commit("b", START)
    state = state_of(memory)
    assert not is_unchanged(open_memory(state), "i", "all")
    assert run(state, {"i": {"w": "1"}}).gone == [("i", "v")]


# ---------------------------------------------------------------------------------------------------------- away


@pytest.mark.parametrize(
    ("now", "emitted", "gone"),
    [({"w": "1"}, [], []), ({"w": "2"}, ["w"], []), ({"w": "1", "v": "1"}, ["v"], []), ({}, [], [("i", "w")])],
)
@pytest.mark.parametrize("days", [1, 90, 1000])
def test_an_instance_that_comes_back_is_compared(
    days: int, now: dict[str, str], emitted: list[str], gone: list[Any]
) -> None:
    first = run(None, {"i": {"w": "1"}})
    away = run(first.state, {}, day=1)
    assert (away.seen(), away.away()) == ({}, {"i": {"w": "1"}})
    back = run(away.state, {"i": now}, day=days)
    assert (back.emitted, back.gone) == (emitted, gone)
    assert (back.seen(), back.away()) == ({"i": now}, {})
    assert "last_listed" not in back.partition()["seen"]["i"]


@pytest.mark.parametrize(("day", "known"), [(1, True), (90, True), (90.001, False), (1000, False)])
def test_an_instance_is_forgotten_90_days_after_it_was_last_listed(day: float, known: bool) -> None:  # noqa: FBT001
    first = run(None, {"i": {"w": "1"}})
    assert run(first.state, {}, day=day).away() == ({"i": {"w": "1"}} if known else {})
    for earlier in (1, 45, 89):
        state = run(run(first.state, {}, day=earlier / 2).state, {}, day=earlier).state
        assert run(state, {}, day=max(day, earlier)).away() == ({"i": {"w": "1"}} if known else {})


def test_a_time_in_the_future_counts_as_now() -> None:
    first = run(None, {"i": {"w": "1"}}, day=5000)
    second = run(first.state, {}, day=1)
    assert second.partition()["away"]["i"]["last_listed"] == "2025-06-02T00:00:00Z"
    assert run(second.state, {}, day=92).away() == {}


# --------------------------------------------------------------------------------------------------------- moves


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize("is_away", [False, True])
def test_an_instance_that_moves_to_another_business_is_remembered_there_and_nowhere_else(
    order: str,
    is_away: bool,  # noqa: FBT001
) -> None:
    state = run(None, {"a": {"i": {"w": "1", "v": "1"}}, "b": {}}).state
    if is_away:
        state = run(state, {"a": {}, "b": {}}, day=1).state
    listed: dict[str, Listed] = {"a": {}, "b": {"i": {"w": "1"}}}
    moved = run(state, {business_id: listed[business_id] for business_id in order}, day=2)
    assert (moved.emitted, moved.gone) == ([], [("i", "v")])
    assert (moved.seen("a"), moved.away("a")) == ({}, {})
    assert moved.seen("b") == {"i": {"w": "1"}}


def test_an_instance_moves_also_from_a_business_that_is_not_read() -> None:
    first = run(None, {"a": {"i": {"w": "1"}, "j": {"v": "1"}}, "b": {}})
    moved = run(first.state, {"b": {"i": {"w": "1"}}}, day=1)
    assert moved.emitted == []
    assert (moved.seen("a"), moved.seen("b")) == ({"j": {"v": "1"}}, {"i": {"w": "1"}})


def test_a_row_that_is_emitted_under_one_instance_is_forgotten_under_every_other() -> None:
    first = run(None, {"a": {"i": {"w": "1", "v": "1"}}, "b": {"j": {}}})
    second = run(first.state, {"a": {}, "b": {"j": {"w": "1"}}}, day=1)
    assert (second.emitted, second.gone) == (["w"], [])
    assert second.away("a") == {"i": {"v": "1"}}
    back = run(second.state, {"a": {"i": {"v": "1"}}, "b": {"j": {"w": "1"}}}, day=2)
    assert (back.emitted, back.gone) == ([], [])


def test_rows_that_businesses_exchange_are_remembered_where_they_are_now() -> None:
    first = run(None, {"a": {"i": {"w": "1", "x": "1"}}, "b": {"j": {"v": "1"}}})
    second = run(first.state, {"a": {"i": {"v": "1", "x": "1"}}, "b": {"j": {"w": "1"}}})
    assert second.emitted == ["v", "w"], "the last row of each is a live one, whatever was told gone before it"
    assert (second.seen("a"), second.seen("b")) == ({"i": {"v": "1", "x": "1"}}, {"j": {"w": "1"}})


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_row_that_two_businesses_list_is_emitted_at_every_run_and_stays_when_one_loses_it(order: str) -> None:
    listed: dict[str, Listed] = {"a": {"i": {"w": "1"}}, "b": {"j": {"w": "2"}}}
    state = None
    for _ in range(3):
        both = run(state, {business_id: listed[business_id] for business_id in order})
        assert (both.emitted, both.gone) == (["w", "w"], [])
        state = both.state
    listed["a"] = {"i": {}}
    one = run(state, {business_id: listed[business_id] for business_id in order})
    assert (one.seen("a"), one.seen("b")) == ({"i": {}}, {"j": {"w": "2"}})
    assert "w" in one.emitted or not one.gone


# ----------------------------------------------------------------------------------------------------- listed twice


def test_a_row_that_is_listed_twice_is_emitted_at_every_run_until_one_is_left() -> None:
    for twice in ({"i": {"w": "1"}, "j": {"w": "2"}}, {"i": {"w": "1"}, "j": {"w": "1"}}):
        twice["k"] = {"x": "1"}
        state = run(None, {"k": {"x": "1"}}).state
        for _ in range(3):
            both = run(state, twice)
            assert (both.emitted, both.gone) == (["w", "w"], [])
            state = both.state
            assert not is_unchanged(open_memory(state), "i", "all")
            assert is_unchanged(open_memory(state), "k", "all")
        one = run(state, {"i": {"w": "1"}, "j": {}})
        assert (one.emitted, one.gone) == (["w"], [])
        assert run(one.state, {"i": {"w": "1"}, "j": {}}).emitted == []


def test_a_row_that_a_second_instance_lists_is_emitted_for_both_from_the_next_run_on() -> None:
    second = run(run(None, {"i": {"w": "1"}}).state, {"i": {"w": "1"}, "j": {"w": "1"}})
    assert (second.emitted, second.gone) == (["w"], [])
    assert second.seen() == {"i": {"w": ""}, "j": {"w": ""}}
    assert run(second.state, {"i": {"w": "1"}, "j": {"w": "1"}}).emitted == ["w", "w"]


def compare_twice(state: dict[str, Any] | None) -> Run:
    """Read an instance that is listed twice, the second time with another row."""
    memory = open_memory(state)
    memory.begin("b")
    out = [
        *compare(memory, "i", "all", rows_of({"w": "1"})),
        *compare(memory, "i", "all", rows_of({"v": "1"})),
    ]
    gone = memory.settle_gone()
    memory.commit("b", START)
    state = state_of(memory)
    return Run([row.key for row in out], gone, state, memory)


def test_an_instance_that_is_listed_twice_is_emitted_whole_at_every_run() -> None:
    first = compare_twice(None)
    second = compare_twice(first.state)
    assert (second.emitted, second.gone) == (["w", "v"], [])
    assert second.seen() == {"i": {"w": "", "v": ""}}


def test_of_an_instance_that_is_listed_twice_the_first_may_be_as_it_was() -> None:
    memory = open_memory(run(None, {"i": {"w": "1"}}).state)
    memory.begin("b")
    memory.keep("i")
    compare(memory, "i", "other", rows_of({"v": "1"}))
    assert memory.settle_gone() == []
    memory.commit("b", START)
    assert as_json(memory.bookmark["b"].seen) == {"i": {"rows": {"w": "", "v": ""}}}


def test_a_row_that_an_instance_lists_twice_is_emitted_twice_at_every_run() -> None:
    state: dict[str, Any] | None = None
    for _ in range(2):
        memory = open_memory(state)
        memory.begin("b")
        assert len(compare(memory, "i", "all", [*rows_of({"w": "1"}), *rows_of({"w": "2"})])) == 2
        memory.commit("b", START)
        state = state_of(memory)
        assert not is_unchanged(open_memory(state), "i", "all")


# ----------------------------------------------------------------------------------------------- not known, or hidden


@pytest.mark.parametrize(
    ("odd", "gone", "left"),
    [
        ({"unknown": ()}, [("i", "v")], {"w": "1"}),
        ({"unknown": ("v",)}, [], {"w": "1", "v": "2"}),
        ({"unknown": ("x",)}, [("i", "v")], {"w": "1"}),
        ({"digest": ""}, [], {"w": "1", "v": "2"}),
    ],
)
def test_what_could_not_be_read_is_kept_as_it_was(odd: dict[str, Any], gone: list[Any], left: dict[str, str]) -> None:
    first = run(None, {"i": {"w": "1", "v": "2"}})
    second = run(first.state, {"i": {"w": "1"}}, **odd)
    assert (second.emitted, second.gone) == ([], gone)
    assert second.seen() == {"i": left}
    assert second.memory.uncertain == (not gone)


def test_a_hidden_row_comes_whole_when_it_passes_again_and_a_gone_one_is_told() -> None:
    first = run(None, {"i": {"w": "1", "v": "1"}})
    hidden = run(first.state, {"i": {"w": "1", "v": "1"}}, hidden=("w", "v"))
    assert (hidden.emitted, hidden.gone) == ([], [])
    assert hidden.seen() == {"i": {"w": "", "v": ""}}
    shown = run(hidden.state, {"i": {"w": "1"}})
    assert (shown.emitted, shown.gone) == (["w"], [("i", "v")])


def test_a_row_that_could_not_be_read_is_forgotten_where_another_instance_lists_it() -> None:
    memory = open_memory(run(None, {"i": {"w": "1"}}).state)
    memory.begin("b")
    compare(memory, "i", "", [])
    assert compare(memory, "j", "all", rows_of({"w": "1"}))
    assert memory.settle_gone() == []
    memory.commit("b", START)
    assert as_json(memory.bookmark["b"].seen) == {
        "i": {"rows": {}},
        "j": {"rows": {"w": "1"}, "digest": "all"},
    }


def test_a_hidden_row_that_was_never_emitted_is_not_remembered() -> None:
    assert run(None, {"i": {"w": "1", "v": "1"}}, hidden=("v",)).seen() == {"i": {"w": "1"}}


def test_a_hidden_instance_is_away_and_comes_whole_when_it_passes_again() -> None:
    first = run(None, {"i": {"w": "1", "v": "1"}})
    memory = open_memory(first.state)
    memory.begin("b")
    memory.hide("i")
    memory.hide("never emitted")
    assert memory.settle_gone() == []
    memory.commit("b", START)
    state = state_of(memory)
    hidden = Run([], [], state, memory)
    assert (hidden.seen(), hidden.away()) == ({}, {"i": {"w": "", "v": ""}})
    shown = run(state, {"i": {"w": "1"}}, day=1)
    assert (shown.emitted, shown.gone) == (["w"], [("i", "v")])


# ----------------------------------------------------------------------------------------------------------- versions


def test_with_full_table_every_row_is_emitted_and_remembered() -> None:
    first = run(None, {"i": {"w": "1"}}, full_table=True)
    second = run(first.state, {"i": {"w": "1", "v": "1"}}, full_table=True)
    assert (second.emitted, second.gone) == (["w", "v"], [])
    assert run(second.state, {"i": {"w": "1", "v": "1"}}).emitted == []


def test_what_a_version_deletes_is_remembered_until_it_was_activated() -> None:
    first = run(None, {"i": {"w": "1", "v": "1"}, "j": {"u": "1"}})
    second = run(first.state, {"i": {"w": "1"}}, full_table=True, versioned=True)
    assert second.gone == []
    assert (second.seen(), second.away()) == ({"i": {"w": "1", "v": ""}}, {"j": {"u": "1"}})
    assert run(second.state, {"i": {"w": "1"}}).gone == [("i", "v")], "no version was activated"
    second.memory.activated()
    assert as_json(second.memory.bookmark["b"].seen) == {"i": {"rows": {"w": "1"}}}
    assert second.memory.bookmark["b"].away == {}


def test_a_version_deletes_what_is_hidden() -> None:
    first = run(None, {"i": {"w": "1", "v": "1"}})
    second = run(first.state, {"i": {"w": "1", "v": "1"}}, hidden=("v",), full_table=True, versioned=True)
    assert second.seen() == {"i": {"w": "1", "v": ""}}
    second.memory.activated()
    assert as_json(second.memory.bookmark["b"].seen) == {"i": {"rows": {"w": "1"}}}


def test_a_version_deletes_what_other_businesses_had_too() -> None:
    first = run(None, {"a": {"i": {"w": "1"}}, "b": {"j": {"v": "1"}}})
    second = run(first.state, {"b": {"j": {"v": "1"}}}, full_table=True, versioned=True)
    second.memory.activated()
    assert second.memory.bookmark["a"].seen == {}
    assert as_json(second.memory.bookmark["b"].seen) == {"j": {"rows": {"v": "1"}, "digest": "all"}}


# ---------------------------------------------------------------------------------------------------- connections


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ([], [], []),
        ([], ["a", "b"], [("a", "connected"), ("b", "connected")]),
        (["a", "b"], ["b", "a"], []),
        (["a", "b"], ["b", "c"], [("c", "connected"), ("a", "disconnected")]),
        (["a"], [], [("a", "disconnected")]),
        ([], ["a", "a"], [("a", "connected")]),  # listed twice
        (["a", "a"], [], [("a", "disconnected")]),
    ],
)
def test_a_connection_change_is_a_difference_of_two_lists(
    monkeypatch: pytest.MonkeyPatch, before: list[str], now: list[str], expected: list[tuple[str, str]]
) -> None:
    wire = Wire(monkeypatch, b=[instance(instance_id) for instance_id in before])
    first = wire.sync()
    wire.answers["b"] = [instance(instance_id) for instance_id in now]
    rows = wire.sync(first.state).records("connection_changes")
    assert [(row["instance_id"], row["change_type"]) for row in rows] == expected


# ------------------------------------------------------------------------------------------------------- in the STATE


def entry(seen: Any, business_id: str = "b", **values: Any) -> dict[str, Any]:  # noqa: ANN401
    """Make a partition as the tap writes it."""
    whole: dict[str, Any] = {"context": {"business_id": business_id}, "version": 2, "replication_key": "k"}
    if isinstance(seen, dict):
        whole |= {"observed_at": None, "away": {}}
    return {**whole, "replication_key_value": TIME, "seen": seen, **values}


def entries(stream: str, *partitions: Any, businesses: str = "b") -> Any:  # noqa: ANN401
    """Return what is understood, and kept, of a stream's partitions."""
    state = {"bookmarks": {stream: {"partitions": list(partitions)}}}
    bookmarks = as_json(to_state(read_bookmarks(state, KINDS, set(businesses))))["bookmarks"]
    return bookmarks[stream]["partitions"] if bookmarks else []


UNDERSTOOD: Final[list[tuple[str, Any]]] = [
    ("connection_changes", entry([])),
    ("connection_changes", entry(["a b", "c"])),
    ("observations", {name: value for name, value in entry(None).items() if name != "seen"}),
    ("webhooks", entry({})),
    ("webhooks", entry({"i": {"rows": {}}}, observed_at=TIME)),
    ("webhooks", entry({"i": {"rows": {"w": "1", "v": ""}, "digest": "2"}}, observed_at=TIME)),
    ("webhooks", entry({}, away={"i": {"rows": {"w": "1"}, "last_listed": TIME}}, observed_at=TIME)),
    ("webhooks", entry({}, replication_key_value="2025-06-01T00:00:00.000001Z")),
    ("webhooks", entry({}, replication_key_value=None)),
]
NO_TIMES: Final[list[Any]] = [0, 1.5, [], {}, "", "yesterday", "2025-06-01", "2025-99-99T00:00:00Z", TIME[:-1]]
NO_MEMORIES: Final[list[Any]] = [None, 1, [], "1=w", {}, {"rows": None}, {"rows": ["w"]}, {"rows": {"w": 1}}]
NOT_SEEN: Final[list[Any]] = [None, 1, [], "i", [{}]]
NOT_LISTS: Final[list[Any]] = [None, 1, {}, "a b", [1], [None]]
NOT_UNDERSTOOD: Final[list[tuple[str, Any]]] = [
    *(("webhooks", entry({}, version=version)) for version in (None, 0, 3, "2", "1", [2], 2.5)),
    *(("webhooks", entry({}, replication_key_value=value)) for value in NO_TIMES),
    *(("webhooks", entry({}, observed_at=value)) for value in NO_TIMES),
    *(("webhooks", entry({"i": memory})) for memory in NO_MEMORIES),
    *(("webhooks", entry({}, away={"i": memory})) for memory in NO_MEMORIES),
    *(("webhooks", entry({"i": {"rows": {}, "last_listed": value}})) for value in NO_TIMES),
    *(("webhooks", entry(seen)) for seen in NOT_SEEN),
    *(("connection_changes", entry(seen)) for seen in NOT_LISTS),
    *(("webhooks", entry(seen, version=1)) for seen in ("x", {"i": "w"}, {"i": 1}, {"i": ["1=w"]}, ["i"])),
    *(("connection_changes", entry(seen, version=1)) for seen in (["a"], {"a": ""}, None, 5)),
]


@pytest.mark.parametrize(("stream", "partition"), UNDERSTOOD)
def test_what_this_version_writes_is_read(stream: str, partition: Any, caplog: pytest.LogCaptureFixture) -> None:  # noqa: ANN401
    assert entries(stream, partition) == [partition]
    assert not caplog.records


@pytest.mark.parametrize(("stream", "partition"), NOT_UNDERSTOOD)
def test_anything_else_is_a_warning_if_the_business_is_read_and_kept_as_it_is_if_not(
    stream: str,
    partition: Any,  # noqa: ANN401
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = UNDERSTOOD[0][1] if stream == "connection_changes" else UNDERSTOOD[3][1]
    other = {**good, "context": {"business_id": "a"}}
    assert entries(stream, partition, other, businesses="ab") == [other]
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert stream in record.getMessage()
    assert "'b'" in record.getMessage()
    caplog.clear()
    assert entries(stream, partition, other, businesses="a") == [partition, other]
    assert not caplog.records


@pytest.mark.parametrize("nonsense", [None, 1, "text", [], {}, [{}], {"context": {}}, {"context": {"business_id": 1}}])
def test_a_partition_of_nobody_is_left_out_with_a_warning(nonsense: Any, caplog: pytest.LogCaptureFixture) -> None:  # noqa: ANN401
    assert entries("webhooks", nonsense, UNDERSTOOD[3][1]) == [UNDERSTOOD[3][1]]
    assert len(caplog.records) == 1


def test_of_two_partitions_of_a_business_none_is_understood() -> None:
    one, other = entry({}), entry({"i": {"rows": {}}})
    assert entries("webhooks", one, other) == []
    assert entries("webhooks", one, other, businesses="a") == [one, other]


@pytest.mark.parametrize("row_id", ["w", "a b", "a=b", "%", "日本", "\u2028", "+"])
def test_the_memory_that_version_1_wrote_as_strings_is_read(row_id: str) -> None:
    escaped = "".join(f"%{byte:02X}" for byte in row_id.encode())
    [partition] = entries("webhooks", entry({"i": f"12ab={escaped} =v", "j": ""}, version=1))
    assert partition["version"] == 2
    assert partition["seen"] == {"i": {"rows": {row_id: "12ab", "v": ""}}, "j": {"rows": {}}}
    assert partition["replication_key_value"] == TIME
    [partition] = entries("connection_changes", entry(f"i {escaped}", version=1))
    assert (partition["version"], partition["seen"]) == (2, ["i", row_id])


def test_an_instance_that_version_1_remembered_twice_is_remembered_once_and_comes_whole() -> None:
    one = entry({"i": {"rows": {"w": "1"}}}, "a")
    other = entry({"i": {"rows": {"w": "1", "v": "1"}}}, "b")
    memory = open_memory({"bookmarks": {"webhooks": {"partitions": [one, other]}}})
    memory.begin("b")
    assert [row.key for row in compare(memory, "i", "all", rows_of({"w": "1"}))] == ["w"]
    assert [list(partition.seen) for partition in memory.bookmark.values()] == [[], ["i"]]
    assert memory.settle_gone() == [("i", "v")]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {**state, "value": {"bookmarks": {}}},
        lambda state: {"singer_state": state},
        lambda state: {"type": "STATE", "value": state},
        lambda state: {"type": "STATE", "value": {"singer_state": state}},
        lambda state: b"\xef\xbb\xbf" + msgspec.json.encode(state),
        lambda state: msgspec.json.format(msgspec.json.encode(state), indent=2).replace(b"\n", b"\r\n"),
    ],
)
def test_a_state_is_read_however_it_is_wrapped(wrap: Any) -> None:  # noqa: ANN401
    first = run(None, {"i": {"w": "1"}})
    assert as_json(to_state(read_bookmarks(wrap(first.state), KINDS, {"b"}))) == first.state


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_what_is_kept_as_it_came_stands_in_one_line(end: bytes) -> None:
    partitions = [entry("not understood", "not configured")]
    given = {"bookmarks": {"theirs": {"a": ["x\ny", 1.50]}, "webhooks": {"partitions": partitions}}}
    text = msgspec.json.format(msgspec.json.encode(given), indent=2).replace(b"\n", end) + end
    for state in (to_state(read_bookmarks(text, KINDS, {"b"})), as_given(text)):
        line = msgspec.json.encode(state)
        assert msgspec.json.decode(line) == given
        assert b"\n" not in line
        assert b"\r" not in line


@pytest.mark.parametrize(
    "state", [{}, {"bookmarks": {}}, {"bookmarks": {"webhooks": {}}}, {"bookmarks": {"webhooks": {"partitions": []}}}]
)
def test_an_empty_state_is_no_warning(state: Any, caplog: pytest.LogCaptureFixture) -> None:  # noqa: ANN401
    assert run(state, {"i": {"w": "1"}}).seen() == {"i": {"w": "1"}}
    assert not caplog.records


@pytest.mark.parametrize(
    "state", [[], None, 1, "x", {"other": {}}, {"bookmarks": []}, {"bookmarks": 1}, b"", b"{", b"\xff"]
)
def test_a_state_of_another_shape_is_one_warning(state: Any, caplog: pytest.LogCaptureFixture) -> None:  # noqa: ANN401
    assert read_bookmarks(state, KINDS, {"b"}) == {}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("bookmark", [None, 1, [], "x", {"partitions": None}, {"partitions": {}}, {"seen": {}}])
def test_a_bookmark_of_another_shape_is_one_warning_and_the_others_are_read(
    bookmark: Any,  # noqa: ANN401
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes = {"partitions": [UNDERSTOOD[1][1]]}
    state = {"bookmarks": {"webhooks": bookmark, "connection_changes": changes}}
    assert as_json(to_state(read_bookmarks(state, KINDS, {"b"}))) == {"bookmarks": {"connection_changes": changes}}
    [record] = caplog.records
    assert "webhooks" in record.getMessage()


def test_bookmarks_of_other_streams_are_kept_and_those_of_streams_that_remember_nothing_are_left_out() -> None:
    theirs = {"of": ["another", {"tap": 1.50}]}
    state = {"bookmarks": {"theirs": theirs, "businesses": {"partitions": [{}]}}}
    assert as_json(read_bookmarks(state, KINDS, {"b"})) == {"theirs": theirs}


def test_partitions_stay_in_their_places() -> None:
    given = [entry({}, "a"), entry("not understood", "other"), entry({}, "b")]
    bookmarks: Any = read_bookmarks({"bookmarks": {"webhooks": {"partitions": given}}}, KINDS, {"a", "b", "new"})
    memory = RowMemory(bookmarks["webhooks"])
    for business_id in ("a", "new"):
        memory.begin(business_id)
        memory.commit(business_id, START)
    committed = {"replication_key_value": TIME, "observed_at": TIME}
    first = {**given[0], **committed}
    new = {**first, "replication_key": "updated_at", "context": {"business_id": "new"}, "replication_key_value": None}
    assert state_of(memory) == {"bookmarks": {"webhooks": {"partitions": [first, *given[1:], new]}}}


def test_an_instance_listed_twice_of_which_one_is_as_remembered_comes_whole_at_the_next_run() -> None:
    first = run(None, {"i": {"w": "1"}})
    memory = open_memory(first.state)
    memory.begin("b")
    compare(memory, "i", "other", rows_of({"w": "2"}))
    compare(memory, "i", "all", rows_of({"w": "1"}))
    memory.commit("b", START)
    assert as_json(memory.bookmark["b"].seen) == {"i": {"rows": {"w": ""}}}
