"""What people reported of taps, loaders and gateways like these: each a small input to a real server, and its result.

What the tables of other test files hold in general (faults, secrets, settings) stands here once as it was met.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from demo.codechat import Answer, CodeChat, Request, World
from tests.kit.checked import checked, read, settings
from tests.kit.simulated_target import SimulatedTarget
from tests.kit.support import discover, sync
from tests.kit.wire import Wire, ids

if TYPE_CHECKING:
    from tests.kit.support import Run

WEBHOOK_STREAMS: Final = ("webhooks", "webhook_events")
HIDDEN: Final = "value-that-must-not-leave"


def hook(key: str, **values: Any) -> dict[str, Any]:  # noqa: ANN401
    """Make a webhook as the API writes it."""
    times = {"createdAt": "2025-01-01T00:00:00.000Z", "updatedAt": "2025-01-01T00:00:00.000Z"}
    item = {"webhookId": key, "name": key, "url": f"https://h.example.com/{key}", "enabled": True, **times}
    return {**item, "WebhookEvents": {"webhookEventsId": f"{key}-e", "newJwt": True}, **values}


def item(key: str, *hooks: dict[str, Any], **values: Any) -> dict[str, Any]:  # noqa: ANN401
    """Make an instance as the API writes it."""
    head = {"instanceId": key, "name": key, "state": "active", "connection": "open", "deletedAt": None}
    return {**head, "createdAt": "2025-01-01T00:00:00.000Z", "Auth": None, "WhatsApp": None, "Webhook": [*hooks],
            **values}  # fmt: skip


def listing(*items: dict[str, Any], **keys: Any) -> dict[str, Any]:  # noqa: ANN401
    """Make a response."""
    return {"businessId": "b1", "name": "B", "Instances": [*items], **keys}


ONE: Final = listing(item("i1", hook("w1")))


def ask(
    body: Any,  # noqa: ANN401
    status: int = 200,
    headers: dict[str, str] | None = None,
    *,
    state: Any = None,  # noqa: ANN401
) -> Run:
    """Sync business b1 from a server that answers so."""

    def respond(_: Request) -> Answer:
        return Answer(status, body, headers or {})

    with CodeChat(World([]), respond=respond) as server:
        return checked(sync(settings(server, business_id="b1"), state=state))


class Tables:
    """What a target has after runs that go on from each other."""

    def __init__(self) -> None:
        self.target = SimulatedTarget()

    def sync(self, *items: dict[str, Any]) -> Run:
        """Run the tap on what is listed, and load what it writes."""
        run = ask(listing(*items), state=self.target.state)
        assert run.returncode == 0
        self.target.load(run.messages)
        return run


# --------------------------------------------------------------------------------------------- the API's own words


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            401,
            {"statusCode": 401, "error": "unauthorized", "messages": ["Expired on 2026-01-01", "Renew in the panel"]},
            ["Expired on 2026-01-01", "Renew in the panel", "check auth_token"],
        ),
        (
            400,
            {"status": 400, "error": "Bad Request", "response": {"message": ["instance suspended"]}},
            ["instance suspended"],
        ),
        (200, {"statusCode": 401, "error": "unauthorized", "messages": ["Token expired"]}, ["Token expired"]),
    ],
    ids=["plural messages", "a message within response", "plural messages under a 200"],
)
def test_what_the_api_says_of_a_failure_stands_in_its_line(status: int, body: Any, words: list[str]) -> None:  # noqa: ANN401
    run = ask(body, status)
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert all(word in line for word in words)
    assert run.of("RECORD") == []


def test_of_five_hundred_businesses_that_fail_the_last_line_names_twenty_and_counts_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Wire(monkeypatch, **{f"b-{number:03}": None for number in range(500)}).sync()
    assert run.returncode == 1
    last = run.lines("ERROR")[-1]
    assert "500 of 500 businesses failed" in last
    assert last.count("b-0") == 20
    assert last.endswith(" and 480 more")


# ------------------------------------------------------------------------------------------------- a part, the whole


@pytest.mark.parametrize(
    ("status", "headers", "keys"),
    [
        (206, {}, {}),
        (200, {"Link": '</api/v2/business/b1/instance/connected?page=2>; rel="next"'}, {}),
        (200, {}, {"totalRecords": 120, "totalPages": 3, "currentPage": 1}),
    ],
    ids=["status 206", "a next page by Link", "a next page in the body"],
)
def test_a_part_of_a_list_is_a_failure_and_moves_no_state(
    status: int, headers: dict[str, str], keys: dict[str, Any]
) -> None:
    before = ask(listing(item("i1", hook("w1")), item("i2", hook("w2"))))
    run = ask(ONE | keys, status, headers, state=before.state)
    assert run.returncode == 1
    assert run.of("RECORD") == []
    assert run.state == before.state
    [line] = run.lines("ERROR")
    assert "not whole" in line


def test_one_page_of_one_is_the_whole_list() -> None:
    run = ask(ONE | {"totalRecords": 1, "totalPages": 1, "currentPage": 1})
    assert run.returncode == 0
    assert ids(run, "webhooks") == ["w1"]


# ------------------------------------------------------------------------------------------------------ run by run


def test_one_webhook_id_in_two_instances() -> None:
    tables, both = Tables(), [item("i1", hook("w1", name="crm")), item("i2", hook("w1", name="other"))]
    for _ in range(2):
        run = tables.sync(*both)
        assert [row["name"] for row in run.records("webhooks")] == ["crm", "other"]
        assert ids(run, "webhook_events") == ["w1", "w1"]
    run = tables.sync(both[0], item("i2"))
    assert [(row["name"], row["deleted_at"]) for row in run.records("webhooks")] == [("crm", None)]
    [row] = tables.target.rows("webhooks")
    assert (row["instance_id"], row["name"], row["deleted_at"]) == ("i1", "crm", None)
    [events] = tables.target.rows("webhook_events")
    assert (events["instance_id"], events["deleted_at"]) == ("i1", None)


def test_a_webhook_deleted_while_its_instance_is_away() -> None:
    tables = Tables()
    tables.sync(item("i1", hook("w1"), hook("w2")), item("i9"))
    tables.sync(item("i9"))
    run = tables.sync(item("i1", hook("w1")), item("i9"))
    for stream in WEBHOOK_STREAMS:
        assert ids(run, stream) == ["-w2"]
        assert set(tables.target.live(stream)) == {"w1"}


@pytest.mark.parametrize("key", ["Webhook", "WebhookEvents"])
def test_a_key_that_is_missing_after_an_update_of_the_server_deletes_nothing(key: str) -> None:
    def listed(*, without: str | None = None) -> list[dict[str, Any]]:
        items = [item("i1", hook("w1")), item("i2", hook("w2"))]
        for each in items:
            for part in (each, *each["Webhook"]):
                part.pop(without, None)
        return items

    tables = Tables()
    tables.sync(*listed())
    run = tables.sync(*listed(without=key))
    assert [ids(run, stream) for stream in WEBHOOK_STREAMS] == [[], []]
    [line] = run.lines("WARNING")
    assert f".{key}" in line
    again = tables.sync(*listed())
    assert [ids(again, stream) for stream in WEBHOOK_STREAMS] == [[], []]
    assert again.lines("WARNING") == []


# ------------------------------------------------------------------------------------------------------------ secrets


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        (
            item("i1", hook("w1", headers={"X-Anything": HIDDEN, "Authorization": f"Bearer {HIDDEN}"})),
            ["webhooks.headers"],
        ),
        (
            item("i1", proxy={"host": "p.example.com", "pwd": HIDDEN, "pass": HIDDEN}, signingKey=HIDDEN,
                 creds={"a": HIDDEN}, hasSession=True),
            ["instances.proxy.pwd", "instances.proxy.pass", "instances.signingKey", "instances.creds"],
        ),
    ],
    ids=["custom headers of a webhook", "names that secrets have"],
)  # fmt: skip
def test_a_secret_under_an_unknown_key_stays_and_is_named(listed: dict[str, Any], names: list[str]) -> None:
    run = ask(listing(listed))
    assert run.returncode == 0
    assert HIDDEN not in run.stdout + run.stderr
    [line] = run.lines("WARNING")
    assert all(name in line for name in names)
    if "hasSession" in listed:
        kept = run.records("instances")[0]["additional_properties"]
        assert kept == {"hasSession": True, "proxy": {"host": "p.example.com"}}


def test_secrets_in_a_webhooks_url_are_masked_and_the_rest_is_untouched() -> None:
    url = "https://h.example.com/p?a=1&senha={0}&pwd={0}#access_token={0}&b=2"
    run = ask(listing(item("i1", hook("w1", url=url.format(HIDDEN)))))
    assert run.records("webhooks")[0]["url"] == url.format("***")
    assert HIDDEN not in run.stdout + run.stderr


# ------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("epoch", [1748768400, 1748768400000, "1748768400"])
def test_an_epoch_where_a_date_was_is_kept_and_warned_of(epoch: object) -> None:
    run = ask(listing(item("i1", createdAt=epoch), item("i2", createdAt=epoch)))
    assert run.returncode == 0
    for row in run.records("instances"):
        assert (row["created_at"], row["additional_properties"]) == (None, {"createdAt": epoch})
    assert ["instances.createdAt" in line for line in run.lines("WARNING")] == [True]


def test_latin_1_is_read_with_a_warning_and_never_replaced_without_a_word() -> None:
    text = '{"businessId":"b1","name":"B","Instances":[{"instanceId":"i1","name":"Padaria São João"}]}'
    run = ask(text.encode("iso-8859-1"), headers={"Content-Type": "application/json; charset=iso-8859-1"})
    assert run.returncode == 0
    assert ["UTF-8" in line for line in run.lines("WARNING")] == [True]
    assert run.records("instances")[0]["instance_id"] == "i1"


def test_an_encoding_that_cannot_be_read_is_named() -> None:
    run = ask(b"G\x00", headers={"Content-Encoding": "br"})
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert "br" in line.split("Content-Encoding")[1].split()[0]


# ----------------------------------------------------------------------------------- reports that were found beside


def test_the_state_of_a_failed_run_replaces_the_one_before_when_meltano_merges_them() -> None:
    """Meltano lays the state of a failed run over the last complete one, object by object; arrays it replaces."""

    def merged(source: dict[str, Any], into: dict[str, Any]) -> dict[str, Any]:
        for key, value in source.items():
            into[key] = merged(value, into.get(key, {})) if isinstance(value, dict) else value
        return into

    before = ask(listing(item("i1", hook("w1"), hook("w2")), item("i2", hook("w3")))).state
    after = ask(listing(item("i1", hook("w1")), {"name": "no id"}), state=before)
    assert after.returncode == 1
    assert merged(after.state, before) == after.state


def test_an_instance_that_lists_its_webhook_as_one_object_then_as_an_array_changes_nothing() -> None:
    tables = Tables()
    tables.sync(item("i1", Webhook=hook("w1")))
    assert ids(tables.sync(item("i1", hook("w1"))), "webhooks") == []


def test_new_event_flags_of_another_version_are_kept_and_named_and_emit_the_row_once() -> None:
    tables = Tables()
    tables.sync(item("i1", hook("w1")))
    newer = hook("w1", WebhookEvents={"webhookEventsId": "w1-e", "newJwt": True, "labelsEdit": False})
    run = tables.sync(item("i1", newer))
    assert run.records("webhook_events")[0]["additional_properties"] == {"labelsEdit": False}
    assert ["webhook_events.labelsEdit" in line for line in run.lines("INFO") if "additional" in line] == [True]
    assert ids(tables.sync(item("i1", newer)), "webhook_events") == []


def test_ids_that_differ_in_case_only_are_two() -> None:
    run = ask(listing(item("Loja", hook("W")), item("loja", hook("w"))))
    assert ids(run, "instances") == ["Loja", "loja"]
    assert ids(run, "webhooks") == ["W", "w"]


def test_ids_that_become_numbers_after_an_update_of_the_server_are_the_same_ids() -> None:
    tables = Tables()
    tables.sync(item("17", hook("4")))
    run = tables.sync({**item("17", hook("4")), "instanceId": 17, "Webhook": [{**hook("4"), "webhookId": 4}]})
    assert ids(run, "connection_changes") == []
    assert "-4" not in ids(run, "webhooks")


def test_a_number_that_is_paired_anew_under_its_name_is_another_instance() -> None:
    tables = Tables()
    tables.sync(item("i1", hook("w1"), name="vendas"))
    run = tables.sync(item("i2", hook("w2"), name="vendas"))
    changes = [(row["instance_id"], row["change_type"]) for row in run.records("connection_changes")]
    assert changes == [("i2", "connected"), ("i1", "disconnected")]
    assert ids(run, "webhooks") == ["w2"]


@pytest.mark.parametrize("connection", ["close", "connecting", None, "refused"])
def test_an_instance_that_is_listed_counts_as_connected_whatever_its_connection_says(connection: str | None) -> None:
    """The list is the server's word; the column tells what else it said."""
    run = ask(listing(item("i1", connection=connection)))
    assert [row["connection"] for row in run.records("instances")] == [connection]
    assert ids(run, "connection_changes") == ["i1"]


def test_a_catalog_that_selects_by_the_field_selected_of_old_is_taken() -> None:
    catalog = discover()
    for entry in catalog["streams"]:
        entry["selected"] = True
    run = read(ONE, catalog=catalog)
    assert ids(run, "webhooks") == ["w1"]


@pytest.mark.parametrize("length", [255, 3000, 70_000])
def test_a_text_of_any_length_leaves_whole(length: int) -> None:
    """Signed URLs of pictures are longer than any limit that somebody chose."""
    url = "https://p.example.com/" + "a" * length
    run = ask(listing(item("i1", hook("w1", url=url), WhatsApp={"pictureUrl": url})))
    assert run.records("instances")[0]["whatsapp_picture_url"] == url
    assert run.records("webhooks")[0]["url"] == url
    [schema] = run.of("SCHEMA", "webhooks")
    assert "maxLength" not in schema["schema"]["properties"]["url"]


@pytest.mark.parametrize(
    "time",
    ["0000-00-00 00:00:00", "20107-05-28T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-03:00",
     "-62135769600000000", "2025-02-30T00:00:00Z", ""],
)  # fmt: skip
def test_a_time_that_no_warehouse_holds_is_kept_beside_its_column(time: str) -> None:
    """Loaders die of years out of range, or load the largest date there is."""
    run = ask(listing(item("i1", createdAt=time)))
    [row] = run.records("instances")
    assert (row["created_at"], row["additional_properties"]) == (None, {"createdAt": time})
    assert ["instances.createdAt" in line for line in run.lines("WARNING")] == [True]


def test_the_last_moment_of_the_last_year_is_not_rounded_beyond_it() -> None:
    run = ask(listing(item("i1", createdAt="9999-12-31T23:59:59.9999999Z")))
    assert run.records("instances")[0]["created_at"] == "9999-12-31T23:59:59.999999Z"


@pytest.mark.parametrize(
    "body",
    [{"error": False, "message": "All instance listed", "data": []}, {"status": "success", "instances": []}, []],
)
def test_an_empty_list_of_another_shape_is_a_failure_and_disconnects_nothing(body: object) -> None:
    state = ask(ONE).state
    run = ask(body, state=state)
    assert run.returncode == 1
    assert run.of("RECORD") == []
    assert run.state == state


def test_a_state_whose_quotes_were_escaped_on_the_way_is_a_warning_and_a_full_sync() -> None:
    state = ask(ONE).state
    run = ask(ONE, state={"singer_state": json.dumps(state)})
    assert run.returncode == 0
    assert ["not understood" in line for line in run.lines("WARNING")] == [True]
    assert ids(run, "webhooks") == ["w1"]


@pytest.mark.parametrize("flat", [{}, {"flattening_enabled": True, "flattening_max_depth": 3}], ids=["plain", "flat"])
def test_no_name_of_a_table_or_column_is_longer_than_postgresql_takes(flat: dict[str, Any]) -> None:
    new = {"a" * 70: {"b" * 70: 1}}
    run = read(listing(item("i1", hook("w1", **new), **new)), **flat)
    for message in run.of("SCHEMA"):
        assert max(map(len, [message["stream"], *message["schema"]["properties"]])) <= 63
    assert run.returncode == 0


def test_no_state_is_written_before_the_first_business_was_read() -> None:
    """A loader that is given an empty state first, and dies, would start over."""
    state = ask(ONE).state
    run = ask({"message": "down"}, 400, state=state)
    assert [message["value"] for message in run.of("STATE")] == [state]
