"""What is not listed is away, not forgotten: webhooks of instances that left, moved, were hidden, or could not be read.

Each test tells what the server lists, run by run, and holds a target's tables against it. The clock is the server's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.simulated_target import SimulatedTarget
from tests.kit.support import discover, select
from tests.kit.wire import Wire, ids, instance, webhook
from tests.test_replication_method import catalog_with, in_the_stream

if TYPE_CHECKING:
    from tests.kit.support import Run

REMEMBERING = ("webhooks", "webhook_events")
ALL = ("businesses", "instances", *REMEMBERING, "connection_changes", "observations")
VERSIONS: dict[str, Any] = {"emit_activate_version_messages": True}
FULL_TABLE: dict[str, Any] = {"catalog": catalog_with("FULL_TABLE", in_the_stream, *REMEMBERING), **VERSIONS}

Listed = list[dict[str, Any]] | None
OTHER = instance("i9", webhook("w9"))


class Tables:
    """A server, and the tables of a target that has loaded each run; businesses that answer ``None`` fail."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr("tap_instances.run.PAGE", 1)
        self.wire, self.target = Wire(patch), SimulatedTarget()

    def sync(self, settings: dict[str, Any] | None = None, /, **answers: Listed) -> Run:
        """Run the tap on what these businesses list, from the state of the run before; load what it writes."""
        self.wire.answers = answers
        run = self.wire.sync(self.target.state, **(settings or {}))
        assert run.returncode == (None in answers.values())
        self.target.load(run.messages)
        return run

    def days(self, count: float) -> None:
        """Let days pass."""
        self.wire.seconds += round(count * 86_400)

    @property
    def live(self) -> dict[str, str]:
        """Webhook -> the instance whose it is, of those that are not deleted; the same in both tables."""
        both = [{key: row["instance_id"] for key, row in self.target.live(name).items()} for name in REMEMBERING]
        assert both[0] == both[1]
        return both[0]

    def away(self, business_id: str, stream: str = "webhooks") -> set[str]:
        """Return which instances of a business are remembered as away."""
        assert self.target.state is not None
        partitions = self.target.state["bookmarks"][stream]["partitions"]
        return {name for entry in partitions if entry["context"]["business_id"] == business_id
                for name in entry["away"]}  # fmt: skip


def emitted(run: Run) -> list[str]:
    """Return the webhooks that a run emitted, deleted ones with a minus; the same in both streams."""
    both = [ids(run, stream) for stream in REMEMBERING]
    assert both[0] == both[1]
    return both[0]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Tables:
    return Tables(monkeypatch)


def phone(*webhooks: str, name: str = "i1", **values: Any) -> dict[str, Any]:  # noqa: ANN401
    """Make an instance with these webhooks."""
    return instance(name, *(webhook(key, **values) for key in webhooks))


# ---------------------------------------------------------------------------------------------------- how long


@pytest.mark.parametrize("others", [[], [OTHER]], ids=["nothing else connected", "another connected"])
@pytest.mark.parametrize("days", [0, 30, 89])
def test_a_webhook_deleted_while_its_instance_is_away_is_told_on_its_return(
    tables: Tables, days: int, others: list[dict[str, Any]]
) -> None:
    tables.sync(a=[phone("w1", "w2"), *others])
    away = tables.sync(a=others)
    assert ("nothing is connected now" in away.stderr) == (not others)
    tables.days(days)
    tables.sync(a=others)
    assert {"w1", "w2"} <= set(tables.live)
    back = tables.sync(a=[phone("w1"), *others])
    assert emitted(back) == ["-w2"]
    assert "w2" not in tables.live
    assert emitted(tables.sync(a=[phone("w1"), *others])) == []


def test_an_instance_away_for_over_ninety_days_is_forgotten_and_comes_whole(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2")])
    tables.sync(a=[])
    tables.days(91)
    assert emitted(tables.sync(a=[])) == []
    for stream in REMEMBERING:
        assert tables.away("a", stream) == set()
    assert emitted(tables.sync(a=[phone("w1")])) == ["w1"]


@pytest.mark.parametrize("away_first", [True, False])
def test_a_tap_that_paused_for_a_year_compares_before_it_forgets(tables: Tables, *, away_first: bool) -> None:
    tables.sync(a=[phone("w1", "w2")])
    if away_first:
        tables.sync(a=[])
    tables.days(365)
    assert emitted(tables.sync(a=[phone("w1")])) == ["-w2"]


def test_an_instance_is_forgotten_by_a_good_read_of_its_business_only(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2")], b=[OTHER])
    tables.sync(a=[], b=[OTHER])
    tables.days(200)
    tables.sync(a=None, b=[OTHER])
    tables.sync(b=[OTHER])
    assert tables.away("a") == {"i1"}
    assert emitted(tables.sync(a=[phone("w1")], b=[OTHER])) == ["-w2"]


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_an_instance_that_moves_after_months_is_compared_before_it_is_forgotten(tables: Tables, order: str) -> None:
    tables.sync(a=[phone("w1", "w2")], b=[])
    tables.days(365)
    now: dict[str, Listed] = {"a": [], "b": [phone("w1")]}
    assert emitted(tables.sync(**{business: now[business] for business in order})) == ["-w2"]


def test_a_business_that_failed_for_months_still_tells_what_is_gone(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2")], b=[OTHER])
    for _ in range(3):
        tables.days(50)
        tables.sync(a=None, b=[OTHER])
    assert emitted(tables.sync(a=[phone("w1")], b=[OTHER])) == ["-w2"]


@pytest.mark.parametrize("deselected", REMEMBERING)
def test_a_stream_that_was_deselected_for_months_still_tells_what_is_gone(tables: Tables, deselected: str) -> None:
    tables.sync(a=[phone("w1", "w2")])
    others = {"catalog": select(discover(), *(name for name in ALL if name != deselected))}
    tables.sync(others, a=[])
    tables.days(200)
    tables.sync(others, a=[])
    back = tables.sync(a=[phone("w1")])
    assert ids(back, deselected) == ["-w2"]
    other = next(name for name in REMEMBERING if name != deselected)
    assert ids(back, other) == ["w1"]  # it watched, and has forgotten


def test_a_time_in_the_future_counts_as_now(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2")])
    tables.sync(a=[])
    assert tables.target.state is not None
    for stream in REMEMBERING:
        for partition in tables.target.state["bookmarks"][stream]["partitions"]:
            partition["observed_at"] = partition["away"]["i1"]["last_listed"] = "2099-01-01T00:00:00Z"
    tables.sync(a=[])
    tables.days(89)
    tables.sync(a=[])
    assert tables.away("a") == {"i1"}
    tables.days(2)
    tables.sync(a=[])
    assert tables.away("a") == set()


def test_an_instance_that_a_state_has_as_listed_and_as_away_is_forgotten_once(tables: Tables) -> None:
    """No run writes such a state; people and merges may."""
    tables.sync(a=[phone("w1")])
    assert tables.target.state is not None
    for stream in REMEMBERING:
        for partition in tables.target.state["bookmarks"][stream]["partitions"]:
            partition["away"] = {"i1": {"rows": {"w1": ""}, "last_listed": "2025-01-01T00:00:00Z"}}
    tables.days(200)
    tables.sync(a=[])
    assert tables.away("a") == set()


def test_the_last_listing_counts_though_the_clock_was_ahead_then(tables: Tables) -> None:
    tables.days(1000)
    tables.sync(a=[phone("w1", "w2")])
    tables.days(-1000)
    tables.sync(a=[])
    tables.days(91)
    tables.sync(a=[])
    assert tables.away("a") == set()


# -------------------------------------------------------------------------------------------------- what happened


def test_an_instance_comes_back_with_what_is_new_and_changed_and_without_what_is_gone(tables: Tables) -> None:
    tables.sync(a=[phone("same", "edited", "gone")])
    tables.sync(a=[])
    back = tables.sync(a=[instance("i1", webhook("same"), webhook("edited", enabled=False), webhook("new"))])
    assert ids(back, "webhooks") == ["edited", "new", "-gone"]
    assert ids(back, "webhook_events") == ["new", "-gone"]
    assert set(tables.live) == {"same", "edited", "new"}


def test_an_instance_that_comes_back_as_it_was_costs_no_row_below_it(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2")])
    tables.sync(a=[])
    back = tables.sync(a=[phone("w1", "w2")])
    assert emitted(back) == []
    assert ids(back, "connection_changes") == ["i1"]


def test_each_of_several_absences_tells_what_went_in_it(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2", "w3")])
    for left, gone in ((["w1", "w2"], "-w3"), (["w1"], "-w2"), ([], "-w1")):
        tables.sync(a=[])
        tables.days(60)  # each time it is listed again, the ninety days begin anew
        assert emitted(tables.sync(a=[phone(*left)])) == [gone]
        assert set(tables.live) == set(left)


def test_an_edit_that_is_undone_between_two_absences_is_loaded_both_times(tables: Tables) -> None:
    states = []
    for enabled in (True, False, True):
        tables.sync(a=[phone("w1", enabled=enabled)])
        states.append(tables.target.live("webhooks")["w1"]["enabled"])
        tables.sync(a=[])
    assert states == [True, False, True]


def test_an_edit_that_is_made_and_undone_within_an_absence_leaves_the_table_right(tables: Tables) -> None:
    tables.sync(a=[phone("w1")])
    tables.sync(a=[])
    assert emitted(tables.sync(a=[phone("w1")])) == []
    assert tables.target.live("webhooks")["w1"]["enabled"]


def test_a_deleted_webhook_that_is_made_again_after_an_absence_is_live(tables: Tables) -> None:
    tables.sync(a=[phone("w1")])
    tables.sync(a=[])
    assert emitted(tables.sync(a=[phone()])) == ["-w1"]
    tables.sync(a=[])
    assert emitted(tables.sync(a=[phone("w1")])) == ["w1"]
    assert set(tables.live) == {"w1"}


def test_what_went_while_its_list_could_not_be_read_is_told_after_an_absence(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2")])
    unreadable = tables.sync(a=[instance("i1", Webhook="none")])
    assert emitted(unreadable) == []
    tables.sync(a=[])
    assert emitted(tables.sync(a=[phone("w1")])) == ["-w2"]
    assert set(tables.live) == {"w1"}


def test_events_that_could_not_be_read_before_an_absence_are_told_as_gone_after_it(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2")])
    tables.sync(a=[instance("i1", webhook("w1"), webhook("w2", WebhookEvents=[]))])
    tables.sync(a=[])
    back = tables.sync(a=[phone("w1")])
    assert emitted(back) == ["-w2"]
    assert set(tables.live) == {"w1"}


# ------------------------------------------------------------------------------------------------- a key is missing


def without(item: dict[str, Any], key: str) -> dict[str, Any]:
    """Return an object without one of its keys."""
    return {name: value for name, value in item.items() if name != key}


def test_a_missing_list_of_webhooks_is_not_known_and_nothing_is_deleted(tables: Tables) -> None:
    tables.sync(a=[phone("w1"), phone("w2", name="i2")], b=[OTHER])
    bare = [without(phone(name=name), "Webhook") for name in ("i1", "i2")]
    for _ in range(2):
        run = tables.sync(a=bare, b=[without(OTHER, "Webhook")])
        assert emitted(run) == []
        assert ["instances.Webhook" in line for line in run.lines("WARNING")] == [True]
    whole = tables.sync(a=[phone("w1"), phone("w2", name="i2")], b=[OTHER])
    assert emitted(whole) == []
    assert whole.lines("WARNING") == []
    assert set(tables.live) == {"w1", "w2", "w9"}


def test_missing_events_are_not_known_and_nothing_is_deleted(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2")])
    run = tables.sync(a=[instance("i1", webhook("w1"), without(webhook("w2"), "WebhookEvents"))])
    assert emitted(run) == []
    assert ["webhooks.WebhookEvents" in line for line in run.lines("WARNING")] == [True]
    assert emitted(tables.sync(a=[phone("w1", "w2")])) == []
    assert set(tables.live) == {"w1", "w2"}


def test_a_missing_list_where_nothing_was_remembered_is_no_warning(tables: Tables) -> None:
    run = tables.sync(a=[without(phone(), "Webhook"), instance("i2", without(webhook("w1"), "WebhookEvents"))])
    assert run.lines("WARNING") == []
    assert (ids(run, "webhooks"), ids(run, "webhook_events")) == (["w1"], [])


@pytest.mark.parametrize("nothing", [None, []])
def test_a_list_that_is_null_or_empty_is_known_to_be_none(tables: Tables, nothing: object) -> None:
    tables.sync(a=[phone("w1")])
    assert emitted(tables.sync(a=[instance("i1", Webhook=nothing)])) == ["-w1"]


def test_what_went_while_the_list_was_missing_is_told_when_it_is_there_again(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2")])
    tables.sync(a=[without(phone(), "Webhook")])
    tables.sync(a=[])
    assert emitted(tables.sync(a=[phone("w2")])) == ["-w1"]


@pytest.mark.parametrize(
    ("item", "silent"),
    [
        (without(phone(), "Webhook"), set(REMEMBERING)),
        (instance("i1", Webhook="none"), set(REMEMBERING)),
        (instance("i1", without(webhook("w1"), "WebhookEvents")), {"webhook_events"}),
        (instance("i1", webhook("w1", WebhookEvents=5)), {"webhook_events"}),
    ],
    ids=["no Webhook", "Webhook is a text", "no WebhookEvents", "WebhookEvents is a number"],
)
def test_a_stream_of_which_something_is_not_known_is_not_activated(
    tables: Tables, item: dict[str, Any], silent: set[str]
) -> None:
    tables.sync(FULL_TABLE, a=[phone("w1"), OTHER])
    run = tables.sync(FULL_TABLE, a=[item, OTHER])
    activated = {message["stream"] for message in run.of("ACTIVATE_VERSION")}
    assert activated == {"businesses", "instances", *REMEMBERING} - silent
    warned = [stream for stream in REMEMBERING if f"no ACTIVATE_VERSION for {stream}: not all" in run.stderr]
    assert set(warned) == silent
    assert set(tables.live) == {"w1", "w9"}
    gone = tables.sync(FULL_TABLE, a=[phone(), OTHER])
    assert len(gone.of("ACTIVATE_VERSION")) == 4
    assert set(tables.live) == {"w9"}


def test_a_stream_is_not_activated_while_an_instance_is_not_known_though_its_webhook_is_listed_elsewhere(
    tables: Tables,
) -> None:
    tables.sync(FULL_TABLE, a=[phone("w1"), phone("w9", name="i2")])
    run = tables.sync(FULL_TABLE, a=[without(phone(), "Webhook"), phone("w1", name="i2")])
    assert {message["stream"] for message in run.of("ACTIVATE_VERSION")} == {"businesses", "instances"}
    assert tables.live.keys() == {"w1", "w9"}  # it may be in the list that is missing


# ------------------------------------------------------------------------------------------------------ stream maps

HIDES_I1: dict[str, Any] = {"stream_maps": {"instances": {"__filter__": "instance_id != 'i1'"}}}
HIDES_W2: dict[str, Any] = {"stream_maps": {"webhooks": {"__filter__": "webhook_id != 'w2'"}}}
HIDES_NULLS: dict[str, Any] = {"stream_maps": {"webhooks": {"__filter__": "name == 'x'"}}}
DROPS: list[dict[str, Any]] = [{"stream_maps": {stream: None}} for stream in ("instances", "webhooks")]


def test_a_hidden_instance_comes_whole_when_it_passes_and_what_is_gone_is_told(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2"), OTHER])
    assert emitted(tables.sync(HIDES_I1, a=[phone("w1", "w2"), OTHER])) == []
    assert emitted(tables.sync(HIDES_I1, a=[phone("w1"), OTHER])) == []
    assert set(tables.live) == {"w1", "w2", "w9"}
    assert emitted(tables.sync(a=[phone("w1"), OTHER])) == ["w1", "-w2"]
    assert set(tables.live) == {"w1", "w9"}


def test_an_instance_that_was_always_hidden_comes_whole_when_it_passes(tables: Tables) -> None:
    tables.sync(HIDES_I1, a=[phone("w1"), OTHER])
    tables.sync(HIDES_I1, a=[phone("w1", "w2"), OTHER])
    assert emitted(tables.sync(a=[phone("w1", "w2"), OTHER])) == ["w1", "w2"]


def test_a_hidden_instance_that_is_listed_is_not_forgotten(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2")])
    for _ in range(3):
        tables.days(80)
        tables.sync(HIDES_I1, a=[phone("w1")])
    assert emitted(tables.sync(a=[phone("w1")])) == ["w1", "-w2"]


def test_a_hidden_instance_that_leaves_is_away(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2"), OTHER])
    tables.sync(HIDES_I1, a=[phone("w1", "w2"), OTHER])
    tables.sync(HIDES_I1, a=[OTHER])
    tables.sync(a=[OTHER])
    assert emitted(tables.sync(a=[phone("w1"), OTHER])) == ["w1", "-w2"]


def test_a_hidden_webhook_comes_when_it_passes(tables: Tables) -> None:
    everything = [phone("w1", "w2")]
    for settings in (HIDES_W2, HIDES_W2):
        tables.sync(settings, a=everything)
        assert set(tables.live) == {"w1"}
    assert emitted(tables.sync(a=everything)) == ["w2"]
    assert emitted(tables.sync(HIDES_W2, a=everything)) == []
    assert emitted(tables.sync(a=everything)) == ["w2"]


def test_a_webhook_that_moves_to_where_a_map_hides_its_row_is_not_gone(tables: Tables) -> None:
    hides_i2: dict[str, Any] = {
        "stream_maps": {stream: {"__filter__": "instance_id != 'i2'"} for stream in REMEMBERING}
    }
    tables.sync(hides_i2, a=[phone("w1"), phone(name="i2")])
    for _ in range(2):
        assert emitted(tables.sync(hides_i2, a=[phone(), phone("w1", name="i2")])) == []
        assert tables.live == {"w1": "i1"}
    assert emitted(tables.sync(a=[phone(), phone("w1", name="i2")])) == ["w1"]
    assert tables.live == {"w1": "i2"}
    tables.sync(hides_i2, a=[phone("w1"), phone(name="i2")])
    tables.sync(hides_i2, a=[phone(), phone("w1", name="i2")])
    tables.sync(hides_i2, a=[phone(), phone(name="i2")])
    assert tables.live == {}


@pytest.mark.parametrize("settings", [HIDES_W2, HIDES_NULLS], ids=["its row passes", "its row does not pass"])
def test_a_webhook_deleted_while_hidden_is_told_when_its_row_passes(tables: Tables, settings: dict[str, Any]) -> None:
    tables.sync(a=[phone("w1", "w2", name="i1")])
    tables.sync(settings, a=[phone("w1", "w2")])
    tables.sync(settings, a=[phone("w1")])
    tables.sync(settings, a=[phone("w1")])
    tables.sync(a=[phone("w1")])
    assert set(tables.live) == {"w1"}
    assert emitted(tables.sync(a=[phone("w1")])) == []


@pytest.mark.parametrize("settings", DROPS, ids=["instances", "webhooks"])
def test_what_went_while_a_stream_was_dropped_is_told_when_it_is_back(tables: Tables, settings: dict[str, Any]) -> None:
    tables.sync(a=[phone("w1", "w2"), phone("w3", name="i3")])
    for listed in ([phone("w1", "w2"), phone("w3", name="i3")], [phone("w1")], [phone("w1")]):
        dropped = tables.sync(settings, a=listed)
        assert ids(dropped, "webhooks") == []
    tables.sync(a=[phone("w1")])
    assert set(tables.live) == {"w1", "w3"}  # i3 is away
    assert "-w3" in emitted(tables.sync(a=[phone("w1"), phone(name="i3")]))
    assert set(tables.live) == {"w1"}


@pytest.mark.parametrize("hides", [None, {"__filter__": "messages_upsert == False"}], ids=["dropped", "filtered"])
def test_events_that_their_own_map_hides_come_when_they_pass(tables: Tables, hides: dict[str, str] | None) -> None:
    maps = {"stream_maps": {"webhook_events": hides}}
    hidden = tables.sync(maps, a=[phone("w1", "w2")])
    assert (ids(hidden, "webhooks"), ids(hidden, "webhook_events")) == (["w1", "w2"], [])
    again = tables.sync(maps, a=[phone("w1", "w2")])
    assert (ids(again, "webhooks"), ids(again, "webhook_events")) == ([], [])
    shown = tables.sync(a=[phone("w1", "w2")])
    assert (ids(shown, "webhooks"), ids(shown, "webhook_events")) == ([], ["w1", "w2"])


@pytest.mark.parametrize("deselected", [False, True], ids=["all", "webhooks deselected"])
def test_events_of_a_hidden_webhook_are_hidden_from_copies_too(tables: Tables, *, deselected: bool) -> None:
    maps = {"webhooks": {"__filter__": "webhook_id != 'w2'"}, "copy": {"__source__": "webhook_events"}}
    catalog = {"catalog": select(discover(), *(name for name in ALL if name != "webhooks"))} if deselected else {}
    run = tables.sync({"stream_maps": maps, **catalog}, a=[phone("w1", "w2")])
    assert ids(run, "copy") == ids(run, "webhook_events") == ["w1"]


@pytest.mark.parametrize("own", [None, {"__filter__": "webhook_id == 'w1'"}], ids=["dropped", "filtered"])
def test_a_copy_of_webhooks_has_a_filter_of_its_own(tables: Tables, own: dict[str, str] | None) -> None:
    maps = {"stream_maps": {"webhooks": own, "copy": {"__source__": "webhooks", "__filter__": "webhook_id != 'w1'"}}}
    assert ids(tables.sync(maps, a=[phone("w1", "w2", "w3")]), "copy") == ["w2", "w3"]
    assert ids(tables.sync(maps, a=[phone("w1", "w2")]), "copy") == ["-w3"]
    last = tables.sync(maps, a=[phone("w1", "w2")])
    assert ids(last, "copy") == ids(last, "webhooks") == []


def test_a_history_that_a_map_drops_tells_later_what_happened_meanwhile(tables: Tables) -> None:
    dropped = {"stream_maps": {"connection_changes": None, "observations": None}}
    tables.sync(a=[phone("w1")])
    run = tables.sync(dropped, a=[OTHER])
    assert run.records("connection_changes") == run.records("observations") == []
    back = tables.sync(a=[OTHER])
    assert [(row["instance_id"], row["change_type"]) for row in back.records("connection_changes")] == [
        ("i9", "connected"),
        ("i1", "disconnected"),
    ]
    first = tables.target.tables["observations"]
    assert len(first) == 2
    assert {row["previous_observed_at"] for row in back.records("observations")} <= {
        row["observed_at"] for row in first.values()
    }


def test_a_version_deletes_what_is_hidden_and_it_comes_whole(tables: Tables) -> None:
    everything = [phone("w1", "w2"), OTHER]
    tables.sync(FULL_TABLE, a=everything)
    tables.sync(FULL_TABLE | HIDES_I1, a=everything)
    assert {key for key, row in tables.target.live("webhooks").items()} == {"w9"}
    assert emitted(tables.sync(a=everything)) == ["w1", "w2"]


# ------------------------------------------------------------------------------------- FULL_TABLE, ACTIVATE_VERSION


def test_what_a_version_deleted_is_forgotten_and_comes_whole(tables: Tables) -> None:
    tables.sync(FULL_TABLE, a=[phone("w1", "w2"), OTHER])
    tables.sync(FULL_TABLE, a=[OTHER])
    assert set(tables.live) == {"w9"}
    assert tables.away("a") == set()
    back = tables.sync(a=[phone("w1"), OTHER])  # INCREMENTAL again
    assert emitted(back) == ["w1"]
    assert set(tables.live) == {"w1", "w9"}


def test_only_what_a_version_deleted_is_forgotten(tables: Tables) -> None:
    """Versions of `instances` alone delete nothing of `webhooks`."""
    tables.sync(VERSIONS, a=[phone("w1", "w2"), OTHER])
    tables.sync(VERSIONS, a=[OTHER])
    assert tables.away("a") == {"i1"}
    assert emitted(tables.sync(VERSIONS, a=[phone("w1"), OTHER])) == ["-w2"]


@pytest.mark.parametrize("then", [FULL_TABLE, {}], ids=["FULL_TABLE", "INCREMENTAL"])
def test_a_run_in_which_another_business_failed_loses_no_deletion(tables: Tables, then: dict[str, Any]) -> None:
    b = [phone("w5", name="i5")]
    tables.sync(FULL_TABLE, a=[phone("w1", "w2"), phone("w3", name="i3")], b=b)
    failed = tables.sync(FULL_TABLE, a=[phone("w1")], b=None)
    assert failed.of("ACTIVATE_VERSION") == []
    assert set(tables.live) == {"w1", "w2", "w3", "w5"}
    tables.sync(then, a=[phone("w1"), phone(name="i3")], b=b)
    assert set(tables.live) == {"w1", "w5"}


def test_a_business_that_is_not_read_any_more_is_forgotten_once_a_version_deleted_its_rows(tables: Tables) -> None:
    tables.sync(FULL_TABLE, a=[phone("w1")], b=[OTHER])
    tables.sync(FULL_TABLE, a=[phone("w1")])
    assert set(tables.live) == {"w1"}
    assert emitted(tables.sync(a=[phone("w1")], b=[OTHER])) == ["w9"]


def test_without_versions_full_table_tells_what_is_gone_as_incremental_does(tables: Tables) -> None:
    settings = {"catalog": FULL_TABLE["catalog"]}
    tables.sync(settings, a=[phone("w1", "w2"), OTHER])
    tables.sync(settings, a=[OTHER])
    assert emitted(tables.sync(settings, a=[phone("w1"), OTHER])) == ["w1", "w9", "-w2"]
    assert set(tables.live) == {"w1", "w9"}


# ---------------------------------------------------------------------------------------- a move to another business


@pytest.mark.parametrize(("source", "target"), [("a", "b"), ("b", "a")], ids=["old read first", "new read first"])
def test_a_webhook_deleted_while_its_instance_moves_is_told_and_so_on_the_way_back(
    tables: Tables, source: str, target: str
) -> None:
    def listing(where: str, *webhooks: str) -> dict[str, Listed]:
        return {name: [phone(*webhooks)] if name == where else [] for name in ("a", "b")}

    tables.sync(**listing(source, "w1", "w2", "w3"))
    assert emitted(tables.sync(**listing(target, "w1", "w2"))) == ["-w3"]
    assert tables.away(source) == set()
    assert emitted(tables.sync(**listing(source, "w1"))) == ["-w2"]
    assert set(tables.live) == {"w1"}
    for _ in range(2):
        assert emitted(tables.sync(**listing(source, "w1"))) == []


@pytest.mark.parametrize(("source", "target"), [("a", "b"), ("b", "a")], ids=["old read first", "new read first"])
@pytest.mark.parametrize("failing", ["source", "target"])
def test_a_business_that_fails_during_a_move_loses_nothing(
    tables: Tables, source: str, target: str, failing: str
) -> None:
    tables.sync(**{"a": [], "b": [], source: [phone("w1", "w2")]})
    during: dict[str, Listed] = {source: [], target: [phone("w1")]}
    during[source if failing == "source" else target] = None
    tables.sync(**{name: during[name] for name in ("a", "b")})
    tables.sync(**{"a": [], "b": [], target: [phone("w1")]})
    assert set(tables.live) == {"w1"}
    assert emitted(tables.sync(**{"a": [], "b": [], target: [phone("w1")]})) == []
    assert tables.away(source) == set()


def test_an_instance_moves_from_a_business_that_is_not_configured_any_more(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2"), OTHER], b=[])
    tables.days(200)
    assert emitted(tables.sync(b=[phone("w1")])) == ["-w2"]
    assert emitted(tables.sync(b=[])) == []
    assert emitted(tables.sync(a=[phone("w1"), OTHER], b=[])) == []
    assert set(tables.live) == {"w1", "w9"}


def test_an_instance_that_is_away_moves(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2")], b=[])
    tables.sync(a=[], b=[])
    assert emitted(tables.sync(a=[], b=[phone("w1")])) == ["-w2"]
    assert tables.away("a") == set()


def test_an_instance_that_is_hidden_moves(tables: Tables) -> None:
    tables.sync(a=[phone("w1", "w2")], b=[])
    tables.sync(HIDES_I1, a=[], b=[phone("w1", "w2")])
    tables.sync(HIDES_I1, a=[], b=[phone("w1")])
    assert (tables.away("a"), tables.away("b")) == (set(), {"i1"})
    assert emitted(tables.sync(a=[], b=[phone("w1")])) == ["w1", "-w2"]


def test_an_instance_that_two_businesses_list_is_remembered_once(tables: Tables) -> None:
    both: dict[str, Listed] = {"a": [phone("w1", "w2")], "b": [phone("w1", "w2")]}
    assert emitted(tables.sync(**both)) == ["w1", "w2"]
    assert emitted(tables.sync(**both)) == []
    assert emitted(tables.sync(a=[phone("w1")], b=[phone("w1")])) == ["-w2"]
    assert emitted(tables.sync(a=[phone("w1")], b=[])) == []
    assert set(tables.live) == {"w1"}


# ------------------------------------------------------------------------------------- a webhook id twice, or moving


def test_events_of_a_webhook_that_moves_while_they_are_missing_are_kept(tables: Tables) -> None:
    tables.sync(a=[phone("w1"), phone(name="i2")])
    moved = webhook("w1")
    del moved["WebhookEvents"]
    run = tables.sync(a=[phone(), instance("i2", moved)])
    assert (ids(run, "webhooks"), ids(run, "webhook_events")) == (["w1"], [])
    assert [line for line in run.lines("WARNING") if "webhooks.WebhookEvents" in line]
    back = tables.sync(a=[phone(), phone("w1", name="i2")])
    assert (ids(back, "webhooks"), ids(back, "webhook_events")) == ([], ["w1"])
    assert tables.live == {"w1": "i2"}


def named(key: str, name: str) -> dict[str, Any]:
    """Make a webhook whose row tells whose it is."""
    return webhook(key, name=name)


def rows(run: Run) -> list[tuple[str, str, bool]]:
    """Return what the webhooks' rows of a run say: instance, name, whether deleted."""
    return [(row["instance_id"], row["name"], bool(row["deleted_at"])) for row in run.records("webhooks")]


@pytest.mark.parametrize("left", ["i1", "i2"])
@pytest.mark.parametrize("where", ["one business", "two businesses"])
def test_one_webhook_id_in_two_instances_is_emitted_at_each_run_until_one_is_left(
    tables: Tables, where: str, left: str
) -> None:
    def listing(*having: str) -> dict[str, Listed]:
        hooks = {"i1": named("w1", "crm"), "i2": named("w1", "other")}
        items = [instance(name, *([hook] if name in having else [])) for name, hook in hooks.items()]
        return {"a": items} if where == "one business" else {"a": items[:1], "b": items[1:]}

    for _ in range(3):
        both = tables.sync(**listing("i1", "i2"))
        assert rows(both) == [("i1", "crm", False), ("i2", "other", False)]
        assert ids(both, "webhook_events") == ["w1", "w1"]
    tables.sync(**listing(left))
    assert tables.live == {"w1": left}
    assert emitted(tables.sync(**listing(left))) == []
    assert emitted(tables.sync(**listing())) == ["-w1"]


@pytest.mark.parametrize(("known", "unknown"), [("i1", "i2"), ("i2", "i1")])
def test_a_webhook_of_two_instances_is_not_gone_while_one_of_them_is_not_known(
    tables: Tables, known: str, unknown: str
) -> None:
    tables.sync(a=[instance("i1", named("w1", "crm")), instance("i2", named("w1", "other"))])
    for _ in range(2):
        run = tables.sync(a=[phone(name=known), without(instance(unknown), "Webhook")])
        assert emitted(run) == []
        assert ["instances.Webhook" in line for line in run.lines("WARNING")] == [True]
    assert emitted(tables.sync(a=[phone(), phone(name="i2")])) == ["-w1"]


@pytest.mark.parametrize("runs", [1, 2, 3, 4])
def test_a_webhook_of_two_instances_is_gone_when_the_last_of_them_loses_it_while_the_other_is_away(
    tables: Tables, runs: int
) -> None:
    for _ in range(runs):
        tables.sync(a=[instance("i1", named("w1", "crm")), instance("i2", named("w1", "other"))])
    assert tables.live == {"w1": "i2"}
    assert emitted(tables.sync(a=[phone(name="i2")])) == ["-w1"]
    tables.sync(a=[phone(), phone(name="i2")])
    assert tables.live == {}


def test_a_webhook_that_a_second_instance_began_to_list_is_gone_when_the_one_emitted_last_loses_it(
    tables: Tables,
) -> None:
    first, second = instance("i1", named("w1", "crm")), instance("i2", named("w1", "other"))
    tables.sync(a=[second])
    tables.sync(a=[first, second])  # the second is unchanged, so the first was emitted last
    assert tables.live == {"w1": "i1"}
    tables.sync(a=[phone()])
    assert tables.live == {}
    tables.sync(a=[second])
    tables.sync(a=[first, instance("i2", webhook("w1", name="edited", WebhookEvents={"newJwt": False}))])
    assert tables.live == {"w1": "i2"}
    tables.sync(a=[phone(name="i2")])
    assert tables.live == {}


def test_a_second_instance_that_begins_to_list_a_webhook_makes_both_rows_come_in_order(tables: Tables) -> None:
    first = instance("i1", named("w1", "crm"))
    tables.sync(a=[first, phone(name="i2")])
    second = instance("i2", named("w1", "other"))
    assert rows(tables.sync(a=[first, second])) == [("i2", "other", False)]  # the first was not read, being unchanged
    for _ in range(3):
        assert rows(tables.sync(a=[first, second])) == [("i1", "crm", False), ("i2", "other", False)]


@pytest.mark.parametrize("away", ["i1", "i2"])
def test_one_webhook_id_in_two_instances_is_right_when_either_was_away(tables: Tables, away: str) -> None:
    both = {"i1": instance("i1", named("w1", "crm")), "i2": instance("i2", named("w1", "other"))}
    stays = next(name for name in both if name != away)
    tables.sync(a=list(both.values()))
    tables.sync(a=[both[stays]])
    assert tables.live == {"w1": stays}
    tables.sync(a=list(both.values()))
    tables.sync(a=[both[stays], phone(name=away)])
    assert tables.live == {"w1": stays}
    assert emitted(tables.sync(a=[both[stays], phone(name=away)])) == []


@pytest.mark.parametrize("left", [0, 1])
def test_one_webhook_id_twice_in_an_instance_ends_as_the_one_that_is_left(tables: Tables, left: int) -> None:
    hooks = [named("w1", "crm"), named("w1", "other")]
    for _ in range(2):
        assert [row[1] for row in rows(tables.sync(a=[instance("i1", *hooks)]))] == ["crm", "other"]
    tables.sync(a=[instance("i1", hooks[left])])
    assert tables.target.live("webhooks")["w1"]["name"] == ["crm", "other"][left]
    assert emitted(tables.sync(a=[instance("i1", hooks[left])])) == []


def test_one_webhook_id_twice_in_an_instance_is_remembered_while_it_is_away(tables: Tables) -> None:
    tables.sync(a=[instance("i1", named("w1", "crm"), named("w1", "other"))])
    tables.sync(a=[])
    assert emitted(tables.sync(a=[phone()])) == ["-w1"]


WITH = {name: phone("w1", name=name) for name in ("i1", "i2")}
WITHOUT = {name: phone(name=name) for name in ("i1", "i2")}


@pytest.mark.parametrize(("source", "target"), [("i1", "i2"), ("i2", "i1")])
@pytest.mark.parametrize("business", ["a", "b"], ids=["within a business", "across businesses"])
@pytest.mark.parametrize("away", ["neither", "source", "target", "both"])
def test_a_webhook_that_moves_to_another_instance_is_neither_deleted_nor_stale(
    tables: Tables, source: str, target: str, business: str, away: str
) -> None:
    def run(items: dict[str, dict[str, Any]]) -> Run:
        answers: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}
        for name in sorted(items):
            answers["a" if name == "i1" else business].append(items[name])
        return tables.sync(**answers)

    run({source: WITH[source], target: WITHOUT[target]})
    stays = {"source": {source} - {source}, "target": {source}, "both": set(), "neither": {source, target}}
    moved = {source: WITHOUT[source], target: WITH[target]}
    if away == "source":
        run({target: WITH[target]})
        assert tables.live == {"w1": target}
    elif away != "neither":
        run({name: moved[name] for name in stays[away]})
    run(moved)
    assert tables.live == {"w1": target}
    assert emitted(run(moved)) == []
    run({source: WITH[source], target: WITHOUT[target]})  # and back
    assert tables.live == {"w1": source}
    assert emitted(run({source: WITH[source]})) == []
    assert emitted(run({source: WITH[source], target: WITHOUT[target]})) == []
    assert tables.live == {"w1": source}


def test_a_webhook_that_moves_back_while_its_first_instance_is_away_is_live(tables: Tables) -> None:
    tables.sync(a=[WITH["i1"], WITHOUT["i2"]])
    tables.sync(a=[WITH["i2"]])
    tables.sync(a=[WITHOUT["i2"]])
    assert tables.live == {}  # gone from a listed instance, and listed nowhere
    tables.sync(a=[WITH["i1"], WITHOUT["i2"]])
    assert tables.live == {"w1": "i1"}


def test_a_webhook_of_an_instance_that_is_away_is_not_told_as_gone_once_it_is_another_ones(tables: Tables) -> None:
    tables.sync(a=[WITH["i1"], WITHOUT["i2"]])
    tables.sync(a=[WITH["i2"]])
    for _ in range(2):
        assert emitted(tables.sync(a=[WITHOUT["i1"], WITH["i2"]])) == []
        tables.sync(a=[WITH["i2"]])
    assert tables.live == {"w1": "i2"}
