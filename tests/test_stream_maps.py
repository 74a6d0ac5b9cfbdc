"""Stream maps, flattening and deselection: what the SDK promises holds, on every stream and between two runs."""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final

import pytest
from singer_sdk.exceptions import ConfigValidationError

from tap_instances.columns import column_names
from tests.kit import wire as wires
from tests.kit.checked import STREAMS, checked, command, read, settings
from tests.kit.support import COUNTS, Run, discover, select

if TYPE_CHECKING:
    from pathlib import Path

    from demo.codechat import CodeChat

FIRST: Final = "6513270e-269e-4d37-b2a7-4de452e6b438"  # the instance "atendimento", with the webhooks crm and alerts
SECOND: Final = "d23f0824-128b-4f33-8c5c-7fd0a6a3a450"  # the instance "cobranca", with the webhook erp
HISTORIES: Final = ("connection_changes", "observations")
SAME: Final = {
    "businesses": "name",
    "instances": "name",
    "webhooks": "name",
    "webhook_events": "webhook_events_id",
    "connection_changes": "change_type",
    "observations": "instances",
}


def names(run: Run, stream: str = "webhooks") -> list[str | None]:
    return [record["name"] for record in run.records(stream)]


def counts(run: Run) -> dict[str, int]:
    return {stream: len(run.records(stream)) for stream in STREAMS}


def deselect(*columns: tuple[str, str]) -> dict[str, Any]:
    """Return the catalog without these columns."""
    catalog = select(discover(), *STREAMS)
    for entry in catalog["streams"]:
        for metadata in entry["metadata"]:
            if metadata["breadcrumb"] and (entry["tap_stream_id"], metadata["breadcrumb"][1]) in columns:
                metadata["metadata"]["selected"] = False
    return catalog


@pytest.fixture
def odd(connected: dict[str, Any]) -> dict[str, Any]:
    """Give the documented body with something beside the columns at each level."""
    new = {
        "text": "ü \u2028 🥖",
        "list": [1, 2.5, None, True],
        "object": {"a": {"b": []}},
        "n": 12345678901234567890123,
    }
    connected["new"] = new
    for instance in connected["Instances"]:
        instance |= {"new": new, "name": 5}
        instance["WhatsApp"] |= {"new": new, "createdAt": "2025-03-04T10:15:30.1234567+03:00"}
        for hook in instance["Webhook"]:
            hook |= {"new": new, "url": "https://u:p@a.example/?token=1", "updatedAt": "soon"}
            hook["WebhookEvents"] |= {"chatsDeleted": True, "newJwt": None}
    return connected


# ------------------------------------------------------------------------------------------- one way and the other


def told(run: Run) -> list[dict[str, Any]]:
    """Return the RECORDs without what differs between any two runs."""
    result = []
    for message in run.of("RECORD"):
        del message["time_extracted"]
        for column in {"observed_at", "previous_observed_at"} & set(message["record"]):
            message["record"][column] = "now"
        result.append(message)
    return result


@pytest.mark.parametrize("include_secrets", [False, True])
@pytest.mark.parametrize("stream", STREAMS)
def test_the_direct_way_and_the_sdks_give_the_same_records(
    odd: dict[str, Any],
    stream: str,
    include_secrets: bool,  # noqa: FBT001
) -> None:
    maps = {stream: {SAME[stream]: SAME[stream]}}
    direct = read(odd, include_secrets=include_secrets)
    mapped = read(odd, include_secrets=include_secrets, stream_maps=maps)
    assert direct.returncode == mapped.returncode == 0
    assert counts(direct) == COUNTS
    assert told(mapped) == told(direct)


def test_they_give_the_same_with_versions_too(odd: dict[str, Any]) -> None:
    maps = {stream: {column: column} for stream, column in SAME.items()}
    direct = read(odd, emit_activate_version_messages=True)
    mapped = read(odd, emit_activate_version_messages=True, stream_maps=maps)
    for run in (direct, mapped):
        versions = {message.get("version") for message in run.of("RECORD", "instances")}
        assert len(versions) == 1
        assert versions == {message["version"] for message in run.of("ACTIVATE_VERSION", "instances")}
        for message in run.of("RECORD"):
            message.pop("version", None)
    assert told(mapped) == told(direct)


@pytest.mark.parametrize("number", ["1e400", "1.50", "0.10000000000000000555"])
def test_they_give_the_same_numbers(number: str) -> None:
    body = f'{{"Instances":[{{"instanceId":"i","new":{number}}}]}}'.encode()
    kept = f'"additional_properties":{{"new":{number}}}'
    assert kept in read(body).stdout
    assert kept in read(body, stream_maps={"instances": {"name": "name"}}).stdout


# ------------------------------------------------------------------------------------------------------------ maps


def test_an_alias_renames_schema_and_records(connected: dict[str, Any]) -> None:
    run = read(connected, stream_maps={"webhooks": {"__alias__": "hooks"}})
    assert run.returncode == 0
    assert len(run.of("SCHEMA", "hooks")) == 1
    assert names(run, "hooks") == ["crm", "alerts", "erp"]
    assert not run.of("SCHEMA", "webhooks") + run.of("RECORD", "webhooks")
    assert len(run.records("webhook_events")) == 3


@pytest.mark.parametrize(("function", "algorithm"), [("sha256", hashlib.sha256), ("md5", hashlib.md5)])
def test_a_column_of_personal_data_is_hashed(connected: dict[str, Any], function: str, algorithm: Any) -> None:  # noqa: ANN401
    columns = ("whatsapp_remote_jid", "whatsapp_push_name")
    run = read(connected, stream_maps={"instances": {column: f"{function}({column})" for column in columns}})
    assert run.returncode == 0
    for record, instance in zip(run.records("instances"), connected["Instances"], strict=True):
        for column, key in zip(columns, ("remoteJid", "pushName"), strict=True):
            assert record[column] == algorithm(instance["WhatsApp"][key].encode()).hexdigest()
    assert "5511987650001" not in run.stdout


def test_a_column_is_added_and_another_removed(connected: dict[str, Any]) -> None:
    run = read(connected, stream_maps={"webhooks": {"url": None, "host": "url.split('/')[2]"}})
    assert run.returncode == 0
    assert [record["host"] for record in run.records("webhooks")] == [
        "crm.example.com",
        "alerts.example.com",
        "erp.example.com",
    ]
    assert all("url" not in record for record in run.records("webhooks"))


def test_a_source_copies_a_stream(connected: dict[str, Any]) -> None:
    maps = {"copies": {"__source__": "webhooks", "__filter__": "enabled", "copied": "name"}}
    run = read(connected, stream_maps=maps)
    assert run.returncode == 0
    assert names(run) == ["crm", "alerts", "erp"]
    assert [record["copied"] for record in run.records("copies")] == ["crm", "erp"]
    assert len(run.records("webhook_events")) == 3


@pytest.mark.parametrize(
    ("maps", "left"),
    [
        ({"businesses": None}, []),
        ({"instances": None}, ["businesses", *HISTORIES]),
        ({"webhooks": None}, ["businesses", "instances", *HISTORIES]),
        ({"webhook_events": None}, ["businesses", "instances", "webhooks", *HISTORIES]),
        ({"connection_changes": None}, [stream for stream in STREAMS if stream != "connection_changes"]),
        ({"observations": None}, [stream for stream in STREAMS if stream != "observations"]),
        ({"businesses": {}, "instances": {}, "__else__": None}, ["businesses", "instances"]),
        ({"businesses": {"__filter__": "False"}}, []),
        ({"instances": {"__filter__": "False"}}, ["businesses", *HISTORIES]),
        ({"webhooks": {"__filter__": "False"}}, ["businesses", "instances", *HISTORIES]),
    ],
)
def test_what_a_map_drops_takes_along_what_is_below_it(
    connected: dict[str, Any], maps: dict[str, Any], left: list[str]
) -> None:
    run = read(connected, stream_maps=maps)
    assert run.returncode == 0
    assert [stream for stream, count in counts(run).items() if count] == left


def test_a_filtered_instance_takes_its_webhooks_along_and_comes_whole_when_it_passes(connected: dict[str, Any]) -> None:
    first = read(connected, stream_maps={"instances": {"__filter__": "name == 'cobranca'"}})
    assert names(first, "instances") == ["cobranca"]
    assert names(first) == ["erp"]
    assert len(first.records("webhook_events")) == 1
    for stream in ("webhooks", "webhook_events"):
        [partition] = first.state["bookmarks"][stream]["partitions"]
        assert list(partition["seen"]) == [SECOND]

    second = read(connected, state=first.state)
    assert names(second, "instances") == ["atendimento", "cobranca"]
    assert names(second) == ["crm", "alerts"]
    assert [record["instance_id"] for record in second.records("webhook_events")] == [FIRST, FIRST]

    third = read(connected, state=second.state, stream_maps={"instances": {"__filter__": "name == 'cobranca'"}})
    assert not third.records("webhooks")  # hidden is not gone: nothing is told as deleted
    assert not third.records("webhook_events")


def test_a_webhook_that_leaves_a_filtered_instance_has_moved(connected: dict[str, Any]) -> None:
    moved = deepcopy(connected)
    left, reached = moved["Instances"]
    first = read(connected)
    reached["Webhook"].append(left["Webhook"].pop(0))
    second = read(moved, state=first.state, stream_maps={"instances": {"__filter__": f"instance_id != '{FIRST}'"}})
    assert [(record["instance_id"], record["name"]) for record in second.records("webhooks")] == [(SECOND, "crm")]
    third = read(moved, state=second.state)
    assert names(third) == ["alerts"]  # it comes whole, and nothing is told as deleted
    assert third.records("webhooks")[0]["deleted_at"] is None


def test_a_filtered_business_takes_its_instances_along_and_comes_whole_when_it_passes(
    connected: dict[str, Any],
) -> None:
    first = read(connected, stream_maps={"businesses": {"__filter__": "name == 'another'"}})
    assert sum(counts(first).values()) == 0
    second = read(connected, state=first.state)
    assert counts(second)["webhooks"] == 3
    assert counts(second)["connection_changes"] == 2


def test_events_are_hidden_by_the_map_of_their_webhook_or_their_own(connected: dict[str, Any]) -> None:
    maps = {"webhooks": {"__filter__": "enabled"}, "webhook_events": {"__filter__": "True"}}
    run = read(connected, stream_maps=maps)
    assert counts(run)["webhooks"] == counts(run)["webhook_events"] == 2


def test_what_a_map_hides_is_not_counted_as_emitted(connected: dict[str, Any]) -> None:
    run = read(connected, stream_maps={"businesses": None, "webhooks": {"__filter__": "enabled"}})
    assert "emitted: 0 businesses, " in run.stderr
    run = read(connected, stream_maps={"webhooks": {"__filter__": "enabled"}})
    assert f"emitted: 1 businesses, {counts(run)['instances']} instances, 2 webhooks, " in run.stderr


def test_a_hidden_business_is_told_with_what_its_answer_has(connected: dict[str, Any]) -> None:
    run = read(connected, stream_maps={"businesses": {"__filter__": "name == 'another'"}})
    assert f"(1 of 1): {len(connected['Instances'])} instances, 0 webhooks" in run.stderr


def test_a_filtered_webhook_takes_its_events_along_and_they_come_when_it_passes(connected: dict[str, Any]) -> None:
    filtered = {"webhooks": {"__filter__": "enabled"}}
    first = read(connected, stream_maps=filtered)
    assert names(first) == ["crm", "erp"]
    assert [record["connection_update"] for record in first.records("webhook_events")] == [True, True]

    second = read(connected, state=first.state, stream_maps=filtered)
    assert counts(second)["webhooks"] == counts(second)["webhook_events"] == 0

    third = read(connected, state=second.state)
    assert [record["qrcode_update"] for record in third.records("webhook_events")] == [False]

    fourth = read(connected, state=third.state, stream_maps=filtered)
    assert counts(fourth)["webhook_events"] == 0


@pytest.mark.parametrize(
    ("maps", "stream"),
    [
        ({"instances": {"x": "1 / 0"}}, "instances"),
        ({"instances": {"x": "nowhere"}}, "instances"),
        ({"webhooks": {"__filter__": "nowhere"}}, "webhooks"),
        ({"businesses": {"__filter__": "name > 5"}}, "businesses"),
        ({"connection_changes": {"x": "change_type + 1"}}, "connection_changes"),
    ],
)
def test_an_expression_that_fails_on_a_row_is_one_clear_error(
    connected: dict[str, Any], maps: dict[str, Any], stream: str
) -> None:
    run = read(connected, stream_maps=maps)
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert "stream_maps" in line
    assert stream in line
    assert "correct it" in line
    assert "Traceback" not in run.stderr
    assert not run.state.get("bookmarks")


def test_an_assignment_where_a_comparison_is_meant_is_an_error(connected: dict[str, Any]) -> None:
    run = read(connected, stream_maps={"instances": {"__filter__": "name = 'cobranca'"}})
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert "stream_maps: an expression for instances fails on a row (Assignment (name = 'cobranca') attempted" in line
    assert run.records("instances") == []


@pytest.mark.parametrize(("expression", "why"), [("int(url)", "ValueError"), ("url + 1", "can only concatenate str")])
def test_the_line_of_an_expression_that_fails_quotes_no_row(
    connected: dict[str, Any], expression: str, why: str
) -> None:
    run = read(connected, stream_maps={"webhooks": {"x": expression}})
    [line] = run.lines("ERROR")
    assert f"an expression for webhooks fails on a row ({why}" in line
    assert "example.com" not in run.stderr


@pytest.mark.parametrize("stream", ["businesses", "instances", "webhooks"])
def test_a_filter_that_fails_is_an_error_also_where_its_stream_is_not_selected(
    connected: dict[str, Any], stream: str
) -> None:
    others = [name for name in STREAMS if name != stream]
    run = read(connected, stream_maps={stream: {"__filter__": "nowhere"}}, catalog=select(discover(), *others))
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert f"stream_maps: an expression for {stream} fails on a row" in line


def test_a_map_of_a_deselected_stream_is_no_error_and_its_filter_counts_for_what_is_below(
    connected: dict[str, Any],
) -> None:
    maps = {"instances": {"__filter__": "name == 'cobranca'", "name": "sha256(name)"}}
    run = read(connected, stream_maps=maps, catalog=select(discover(), "webhooks", "webhook_events"))
    assert run.returncode == 0
    assert names(run) == ["erp"]
    assert counts(run) == {**dict.fromkeys(STREAMS, 0), "webhooks": 1, "webhook_events": 1}


def test_an_expression_that_fails_on_a_deleted_row_only_says_that_there_are_nulls(connected: dict[str, Any]) -> None:
    maps = {"webhooks": {"name": "name.upper()"}}
    first = read(connected, stream_maps=maps)
    assert names(first) == ["CRM", "ALERTS", "ERP"]
    del connected["Instances"][0]["Webhook"][0]
    second = read(connected, stream_maps=maps, state=first.state)
    assert second.returncode == 1
    [line] = second.lines("ERROR")
    assert "webhooks" in line
    assert "nulls" in line
    assert second.state == first.state
    third = read(connected, stream_maps={"webhooks": {"name": "name.upper() if name else None"}}, state=first.state)
    assert third.returncode == 0
    assert [bool(record["deleted_at"]) for record in third.records("webhooks")] == [True]


@pytest.mark.parametrize(
    ("maps", "what"),
    [
        ({"webhooks": {"x": "name.upper("}}, " must be corrected: Failed to parse expression name.upper(."),
        ({"webhooks": {"__filter__": "1 +"}}, " must be corrected: Failed to parse expression 1 +."),
        ({"webhooks": {"webhook_id": None}}, " must be corrected: Removing key property 'webhook_id' is not permitted"),
        ({"webhooks": {"name": ""}}, ".webhooks.name must not be empty: give an expression, or null to remove it"),
        ({"webhooks": {"__filter__": " "}}, ".webhooks.__filter__ must not be empty"),
        ({"webhooks": 5}, ".webhooks is not of the right shape"),
        ({"webhooks": {"name": 5}}, ".webhooks is not of the right shape"),
        ({"webhooks": {"__else__": 5}}, " is not of the right shape"),
        ({"__else__": {}}, " is not of the right shape"),
    ],
)
def test_a_map_that_cannot_work_is_refused_before_the_first_request(
    tmp_path: Path, codechat: CodeChat, maps: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigValidationError):
        read({}, stream_maps=maps)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(settings(codechat, stream_maps=maps)), encoding="utf-8")
    run = command("--config", str(config))
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert f"stream_maps{what}" in line
    assert "Traceback" not in run.stderr
    assert not codechat.requests


# ------------------------------------------------------------------------------------------------------- flattening


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_flattening_gives_text_where_there_are_objects(odd: dict[str, Any], depth: int) -> None:
    run = read(odd, flattening_enabled=True, flattening_max_depth=depth)
    assert run.returncode == 0
    assert counts(run) == COUNTS
    for stream in STREAMS[:4]:
        [schema] = run.of("SCHEMA", stream)
        for record, plain in zip(run.records(stream), read(odd).records(stream), strict=True):
            assert set(record) == set(schema["schema"]["properties"])
            kept = record["additional_properties"]
            assert (
                json.loads(kept) == plain["additional_properties"] if depth else kept == plain["additional_properties"]
            )


# ------------------------------------------------------------------------------------------------------- deselection


def test_a_deselected_column_is_in_no_schema_and_no_record(connected: dict[str, Any]) -> None:
    catalog = deselect(("instances", "whatsapp_push_name"), ("webhooks", "url"), ("webhook_events", "new_jwt"))
    run = read(connected, catalog=catalog)
    assert run.returncode == 0
    for stream, column in (("instances", "whatsapp_push_name"), ("webhooks", "url"), ("webhook_events", "new_jwt")):
        assert column not in run.of("SCHEMA", stream)[0]["schema"]["properties"]
        expected = set(column_names(stream, include_secrets=False)) - {column}
        assert [set(record) for record in run.records(stream)] == [expected] * counts(run)[stream]
    assert "Cobrança" not in run.stdout


@pytest.mark.parametrize(("stream", "column"), [("webhooks", "url"), ("webhook_events", "new_jwt")])
def test_a_column_that_is_selected_again_is_emitted_again(connected: dict[str, Any], stream: str, column: str) -> None:
    catalog = deselect((stream, column))
    without = read(connected, catalog=catalog)
    assert not read(connected, catalog=catalog, state=without.state).records(stream)
    again = read(connected, state=without.state)
    assert len(again.records(stream)) == 3
    assert all(record[column] is not None for record in again.records(stream))
    other = {"webhooks": "webhook_events", "webhook_events": "webhooks"}[stream]
    assert not again.records(other)


def test_a_stream_with_a_deselected_column_can_be_filtered(connected: dict[str, Any]) -> None:
    run = read(connected, catalog=deselect(("webhooks", "url")), stream_maps={"webhooks": {"__filter__": "enabled"}})
    assert run.returncode == 0
    assert names(run) == ["crm", "erp"]
    assert counts(checked(run))["webhook_events"] == 2


def test_of_an_id_listed_twice_the_row_that_passes_a_filter_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = wires.Wire(monkeypatch)
    wire.answers = {"a": [wires.instance("i1", wires.webhook("w4"), wires.webhook("w4", enabled=False))]}
    maps = {"webhooks": {"__filter__": "enabled != False"}}
    assert [row["enabled"] for row in wire.sync(stream_maps=maps).records("webhooks")] == [True]


def test_an_expression_that_fails_ends_the_run_and_says_that_the_rest_was_not_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = wires.Wire(monkeypatch)
    wire.answers = {"a": [wires.instance("i1", wires.webhook("w1"))], "b": [wires.instance("i2")], "c": []}
    run = wire.sync(stream_maps={"webhooks": {"x": "int(url)"}})
    assert run.returncode == 1
    assert "business a: stream_maps: an expression for webhooks fails" in run.stderr
    assert "businesses after that, not tried: 2" in run.stderr
    assert run.lines("ERROR")[-1].endswith("1 of 3 businesses failed: a (stream_maps)")
    assert "0 of 3 businesses read" in run.stderr


# ------------------------------------------------------------------------------------------------------- misspelled


@pytest.mark.parametrize(
    ("maps", "line"),
    [
        ({"webhoks": {"url": None}}, "names 'webhoks', which is no stream: did you mean 'webhooks'?"),
        ({"instance": None}, "names 'instance', which is no stream: did you mean 'instances'?"),
        ({"web_*s": {"url": None}}, "names 'web_*s', which is no stream"),
        ({"copy": {"__source__": "webhoks"}}, "names 'webhoks', which is no stream: did you mean 'webhooks'?"),
        ({"webhooks": {"urll": None}}, "removes 'urll' of webhooks, which has no such column: did you mean 'url'?"),
        ({"webhooks": {"token": "__NULL__"}}, "removes 'token' of webhooks, which has no such column"),
        ({"webhook*": {"urll": None}}, "removes 'urll' of webhook*, which has no such column: did you mean 'url'?"),
    ],
)
def test_a_map_of_what_does_not_exist_is_warned_of_with_what_may_be_meant(
    connected: dict[str, Any], maps: dict[str, Any], line: str
) -> None:
    run = read(connected, stream_maps=maps)
    assert run.returncode == 0
    assert [text.partition("stream_maps ")[2].startswith(line) for text in run.lines("WARNING")] == [True]
    assert run.lines("WARNING")[0].endswith(line)


@pytest.mark.parametrize(
    "maps",
    [
        {"webhooks": {"url": None, "host": "url"}, "__else__": None},
        {"instances": {"auth_jwt": None, "instance_id": "instance_id", "__else__": None}},
        {"web*": {"url": "__NULL__"}},
        {"copy": {"__source__": "webhooks", "url": None}},
        {"webhooks": {"__alias__": "hooks", "__key_properties__": None}},
        {"webhooks": None},
    ],
)
def test_a_map_of_what_exists_or_of_new_columns_is_not_warned_of(
    connected: dict[str, Any], maps: dict[str, Any]
) -> None:
    assert read(connected, stream_maps=maps).lines("WARNING") == []
