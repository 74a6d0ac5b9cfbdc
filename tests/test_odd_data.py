"""Odd data over a real socket, through the whole tap: nothing crashes, nothing that fits is lost, the rest is named."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from tests.kit.checked import BUSINESS, STREAMS, read
from tests.kit.faults import FaultServer, answer, config
from tests.kit.support import sync

ID: Final = "i-1"
OTHER: Final = {"instanceId": "i-2", "name": "the other", "Webhook": [{"webhookId": "w-2", "WebhookEvents": {}}]}


def body(*instances: Any, **keys: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a 200 body with these instances, and one that is in order."""
    return {"businessId": BUSINESS, "name": "x", "Instances": [*instances, OTHER], **keys}


def raw(instance: str, top: str = "") -> bytes:
    """Return a body's bytes in which an instance has this JSON among its members."""
    members = f",{instance}" if instance else ""
    return f'{{"businessId":"{BUSINESS}"{top},"Instances":[{{"instanceId":"{ID}"{members}}}]}}'.encode()


def test_nulls_at_each_level_are_read() -> None:
    hook = dict.fromkeys(("name", "url", "enabled", "createdAt", "updatedAt", "instanceInstanceId", "WebhookEvents"))
    item = dict.fromkeys(("name", "state", "connection", "createdAt", "deletedAt", "Auth", "WhatsApp"))
    nothing = dict.fromkeys(("authId", "jwt", "createdAt", "updatedAt", "remoteJid", "pushName"))
    run = read(
        body(
            {**item, "instanceId": "a", "Webhook": None},
            {**item, "instanceId": "b", "Webhook": [], "Auth": nothing, "WhatsApp": nothing},
            {**item, "instanceId": "c", "Webhook": [{**hook, "webhookId": "w"}]},
            {"instanceId": "d"},
            name=None,
            businessId=None,
        )
    )
    assert run.returncode == 0
    assert not run.lines("ERROR")
    for record in run.records("instances")[:4]:
        told = {name for name, value in record.items() if value is not None}
        assert told == {"business_id", "instance_id", "observed_at"}
    assert [record["webhook_id"] for record in run.records("webhooks")] == ["w", "w-2"]
    assert [record["webhook_id"] for record in run.records("webhook_events")] == ["w-2"]
    assert run.records("businesses")[0]["name"] is None


def test_one_webhook_without_its_list_is_a_webhook() -> None:
    run = read(body({"instanceId": ID, "Webhook": {"webhookId": "w-1", "WebhookEvents": {"newJwt": True}}}))
    assert run.returncode == 0
    assert [record["webhook_id"] for record in run.records("webhooks")] == ["w-1", "w-2"]
    assert run.records("webhook_events")[0]["new_jwt"] is True
    assert run.records("instances")[0]["additional_properties"] is None


@pytest.mark.parametrize("value", ["none", 0, True])
def test_what_is_no_object_where_one_belongs_is_kept(value: Any) -> None:  # noqa: ANN401
    item = {"instanceId": ID, "WhatsApp": value, "Webhook": value}
    hook = {"webhookId": "w-1", "WebhookEvents": value}
    run = read(body(item, {"instanceId": "i-3", "Webhook": [hook]}))
    assert run.returncode == 0
    assert run.records("instances")[0]["additional_properties"] == {"WhatsApp": value, "Webhook": value}
    assert run.records("webhooks")[0]["additional_properties"] == {"WebhookEvents": value}
    assert [record["webhook_id"] for record in run.records("webhook_events")] == ["w-2"]


def test_unknown_keys_of_each_level_are_kept_and_named_in_one_line() -> None:
    new = {"deep": [1, {"x": None}]}
    hook = {"webhookId": "w-1", "new": new, "WebhookEvents": {"new": new, "chatsDeleted": False}}
    item = {"instanceId": ID, "new": new, "Auth": {"new": new}, "WhatsApp": {"new": new}, "Webhook": [hook]}
    run = read(body(item, item | {"instanceId": "i-3", "Webhook": None}, new=new), include_secrets=True)
    assert run.returncode == 0
    kept = {stream: run.records(stream)[0]["additional_properties"] for stream in STREAMS[:4]}
    assert kept == {
        "businesses": {"new": new},
        "instances": {"Auth.new": new, "WhatsApp.new": new, "new": new},
        "webhooks": {"new": new},
        "webhook_events": {"chatsDeleted": False, "new": new},
    }
    [line] = [line for line in run.lines("INFO") if "additional_properties" in line]
    for path in (
        "businesses.new", "instances.new", "instances.Auth.new", "instances.WhatsApp.new", "webhooks.new",
        "webhook_events.new", "webhook_events.chatsDeleted",
    ):  # fmt: skip
        assert line.count(path) == 1


def test_of_many_unknown_keys_twenty_are_named_and_the_rest_counted() -> None:
    run = read(body({"instanceId": ID, **{f"new{number}": 1 for number in range(300)}}))
    [line] = [line for line in run.lines("INFO") if "additional_properties" in line]
    assert line.count("instances.new") == 20
    assert line.endswith("and 280 more")
    assert len(run.records("instances")[0]["additional_properties"]) == 300


def test_withheld_paths_are_named_in_one_warning_and_never_a_value() -> None:
    item = {"instanceId": ID, "apiToken": "s3cr3t", "Auth": {"jwt": "s3cr3t", "new": "s3cr3t"}}
    run = read(body(item, {"instanceId": "i-3", "apiToken": "s3cr3t"}, sessionCookie={"a": "s3cr3t"}))
    assert run.returncode == 0
    assert "s3cr3t" not in run.stdout + run.stderr
    [line] = run.lines("WARNING")
    for path in ("businesses.sessionCookie", "instances.apiToken", "instances.Auth.new"):
        assert line.count(path) == 1
    assert not [line for line in run.lines("INFO") if "additional_properties" in line]


def test_a_misfit_at_each_level_is_kept_and_its_column_null() -> None:
    hook = {"webhookId": "w-1", "enabled": "yes", "updatedAt": 1741083330, "WebhookEvents": {"sendMessage": 1}}
    item = {"instanceId": ID, "name": {"a": 1}, "createdAt": "soon", "WhatsApp": {"createdAt": 7}, "Webhook": [hook]}
    run = read(body(item, name=["x"]))
    assert run.returncode == 0
    assert run.records("businesses")[0]["additional_properties"] == {"name": ["x"]}
    assert run.records("instances")[0]["additional_properties"] == {
        "WhatsApp.createdAt": 7,
        "createdAt": "soon",
        "name": {"a": 1},
    }
    assert run.records("webhooks")[0]["additional_properties"] == {"enabled": "yes", "updatedAt": 1741083330}
    assert run.records("webhook_events")[0]["additional_properties"] == {"sendMessage": 1}
    [line] = run.lines("WARNING")
    assert "do not fit their columns" in line
    for path in (
        "businesses.name", "instances.name", "instances.createdAt", "instances.WhatsApp.createdAt", "webhooks.enabled",
        "webhooks.updatedAt", "webhook_events.sendMessage",
    ):  # fmt: skip
        assert line.count(path) == 1


def test_another_businesses_id_in_the_body_is_kept_and_the_requested_one_used() -> None:
    run = read({"businessId": "another", "Instances": [OTHER]})
    assert run.returncode == 0
    assert run.records("businesses")[0]["business_id"] == BUSINESS
    assert run.records("businesses")[0]["additional_properties"] == {"businessId": "another"}
    assert run.records("instances")[0]["business_id"] == BUSINESS


def test_hostile_text_comes_out_so_that_postgresql_and_utf_8_can_carry_it() -> None:
    instance = (
        r'"name":"a\u0000b\ud800c😀\ud83e\udd56\u202e\u2028","k\u0000\udfff":{"\ud800":"\u0000\udc00"},'
        r'"WhatsApp":{"pushName":"\ud83e"},"Webhook":[{"webhookId":"w\u0000","url":"\udc00"}]'
    )
    run = read(raw(instance))
    assert run.returncode == 0
    record = run.records("instances")[0]
    assert record["name"] == "ab\ufffdc😀🥖\u202e\u2028"
    assert record["whatsapp_push_name"] == "\ufffd"
    assert record["additional_properties"] == {"k\ufffd": {"\ufffd": "\ufffd"}}
    assert run.records("webhooks")[0]["webhook_id"] == "w"
    assert run.records("webhooks")[0]["url"] == "\ufffd"
    assert "\x00" not in run.stdout
    assert "\\u0000" not in run.stdout


def test_u_0000_leaves_the_name_of_a_business_too() -> None:
    run = read(rb'{"name":"a\u0000b","k\u0000":["\u0000c"],"Instances":[]}')
    [record] = run.records("businesses")
    assert (record["name"], record["additional_properties"]) == ("ab", {"k": ["c"]})


def test_bytes_that_are_no_utf_8_become_the_replacement_character() -> None:
    run = read(b'{"Instances":[{"instanceId":"i","name":"caf\xe9","n\xff":"\xc3"}]}')
    assert run.returncode == 0
    [record] = run.records("instances")
    assert record["name"] == "caf\ufffd"
    assert record["additional_properties"] == {"n\ufffd": "\ufffd"}
    [line] = run.lines("WARNING")
    assert "bytes that are not UTF-8" in line


def test_an_instance_with_such_bytes_is_named_by_its_place_and_another_one_hides_no_warning() -> None:
    bad = b'{"instanceId":"i","name":"caf\xe9","Webhook":[{"webhookId":null}]}'
    half = rb'{"instanceId":"j","name":"\ud83e"}'
    run = read(b'{"Instances":[{"instanceId":"h"},' + bad + b"," + half + b"]}")
    [error], [warning] = run.lines("ERROR"), run.lines("WARNING")
    assert "Instances[1].Webhook[0]: its webhookId is null" in error
    assert "bytes that are not UTF-8" in warning
    assert [record["name"] for record in run.records("instances")] == [None, "caf\ufffd", "\ufffd"]


def test_of_an_answer_in_order_nothing_is_warned(connected: dict[str, Any]) -> None:
    assert read(connected).lines("WARNING") == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_byte_order_mark_and_other_encodings_of_json_are_read(encoding: str) -> None:
    run = read(json.dumps(body({"instanceId": ID, "name": "São João 🥖"}), ensure_ascii=False).encode(encoding))
    assert run.returncode == 0
    assert run.records("instances")[0]["name"] == "São João 🥖"


def test_json_that_is_laid_out_for_people_is_read(connected: dict[str, Any]) -> None:
    plain, laid_out = read(connected), read(json.dumps(connected, indent=4).encode())
    assert laid_out.returncode == 0
    assert laid_out.records("webhook_events") == plain.records("webhook_events") != []


@pytest.mark.parametrize(
    "content_type", ["text/html", "text/plain; charset=latin-1", "", "nonsense", "application/json; charset=utf-16"]
)
def test_the_content_type_does_not_matter(content_type: str) -> None:
    content = json.dumps(body({"instanceId": ID, "name": "São João"}), ensure_ascii=False).encode()
    run = read(content, headers={"Content-Type": content_type})
    assert run.returncode == 0
    assert run.records("instances")[0]["name"] == "São João"


KEYLESS: Final[list[tuple[Any, str]]] = [
    ({}, "Instances[0]: its instanceId is missing"),
    ({"instanceId": None}, "Instances[0]: its instanceId is null"),
    ({"instanceId": ""}, "Instances[0]: its instanceId is empty"),
    ({"instanceId": {"a": 1}}, "Instances[0]: its instanceId is an object"),
    ({"instanceId": ["a"], "Webhook": []}, "Instances[0]: its instanceId is an array"),
    ({"instanceId": True}, "Instances[0]: its instanceId is a boolean"),
    (None, "Instances[0] is null, not an object"),
    ("s3cr3t", "Instances[0] is a string, not an object"),
    (7, "Instances[0] is a number, not an object"),
    ([], "Instances[0] is an array, not an object"),
    ({"instanceId": ID, "Webhook": [{"name": "x"}]}, "Instances[0].Webhook[0]: its webhookId is missing"),
    ({"instanceId": ID, "Webhook": [{"webhookId": None}]}, "Instances[0].Webhook[0]: its webhookId is null"),
    ({"instanceId": ID, "Webhook": [{"webhookId": [1]}]}, "Instances[0].Webhook[0]: its webhookId is an array"),
    ({"instanceId": ID, "Webhook": [3]}, "Instances[0].Webhook[0] is a number, not an object"),
    ({"instanceId": ID, "Webhook": {}}, "Instances[0].Webhook[0]: its webhookId is missing"),
]


@pytest.mark.parametrize(("item", "fault"), KEYLESS)
def test_what_has_no_key_is_named_in_an_error_and_the_rest_goes_on(item: Any, fault: str) -> None:  # noqa: ANN401
    run = read(body(item), emit_activate_version_messages=True)
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert fault in line
    assert BUSINESS in line
    assert not run.of("ACTIVATE_VERSION")
    assert "i-2" in [record["instance_id"] for record in run.records("instances")]
    assert [record["webhook_id"] for record in run.records("webhooks")] == ["w-2"]
    assert "s3cr3t" not in run.stdout + run.stderr


def test_a_keyless_instances_webhooks_are_not_emitted() -> None:
    run = read(body({"Webhook": [{"webhookId": "w-1", "WebhookEvents": {}}]}))
    assert run.returncode == 1
    assert [record["webhook_id"] for record in run.records("webhooks")] == ["w-2"]
    assert [record["webhook_id"] for record in run.records("webhook_events")] == ["w-2"]


def test_with_keys_everywhere_the_same_run_activates() -> None:
    run = read(body({"instanceId": ID}), emit_activate_version_messages=True)
    assert run.returncode == 0
    assert [message["stream"] for message in run.of("ACTIVATE_VERSION")] == ["businesses", "instances"]


def test_keys_that_are_numbers_are_their_text() -> None:
    run = read(body({"instanceId": 17, "Webhook": [{"webhookId": 1.5, "instanceInstanceId": 17, "WebhookEvents": {}}]}))
    assert run.returncode == 0
    assert run.records("instances")[0]["instance_id"] == "17"
    [webhook, events] = run.records("webhooks")[0], run.records("webhook_events")[0]
    assert [webhook["webhook_id"], events["webhook_id"]] == ["1.5", "1.5"]
    assert webhook["additional_properties"] is None


def test_duplicates_are_all_emitted() -> None:
    hook = {"webhookId": "w-1", "WebhookEvents": {}}
    run = read(
        body(
            {"instanceId": ID, "name": "first", "Webhook": [hook, hook | {"name": "again"}]},
            {"instanceId": ID, "name": "second", "Webhook": [hook]},
        )
    )
    assert run.returncode == 0
    assert [record["name"] for record in run.records("instances")] == ["first", "second", "the other"]
    assert [record["name"] for record in run.records("webhooks")] == [None, "again", None, None]
    assert len(run.records("webhook_events")) == 4


def test_of_a_key_that_stands_twice_in_an_object_the_last_counts() -> None:
    run = read(raw('"name":"first","name":"last","new":1,"new":2', top=',"name":1,"name":"x"'))
    assert run.returncode == 0
    [record] = run.records("instances")
    assert record["name"] == "last"
    assert record["additional_properties"] == {"new": 2}
    assert run.records("businesses")[0]["name"] == "x"


def test_numbers_of_every_size_keep_their_text() -> None:
    numbers = ["0", "-0.0", "1.50", "1e5", "1E-7", "12345678901234567890123456789", "0.10000000000000000555", "1e400"]
    for number in numbers:
        run = read(raw(f'"name":{number},"new":{number}'))
        assert run.returncode == 0
        [record] = run.records("instances")
        assert record["name"] == number
        assert f'"additional_properties":{{"new":{number}}}' in run.stdout


@pytest.mark.parametrize("number", ["1" * 5000, "-" + "9" * 5000, "-" + "9" * 4300, "1e" + "9" * 30])
def test_a_number_that_python_targets_could_not_read_is_text(number: str) -> None:
    run = read(raw(f'"name":{number},"new":[{number}]'))
    assert run.returncode == 0
    [record] = run.records("instances")
    assert record["name"] == number
    assert record["additional_properties"] == {"new": [number]}


def test_a_value_five_hundred_levels_deep_is_kept() -> None:
    run = read(raw('"new":' + '{"a":[' * 250 + '"bottom"' + "]}" * 250))
    assert run.returncode == 0
    [record] = run.records("instances")
    text = json.dumps(record["additional_properties"])
    assert "bottom" in text
    assert text.count("{") + text.count("[") == 501  # the column's own object is one


@pytest.mark.parametrize("place", ["instance", "top"])
def test_a_hundred_thousand_levels_fail_the_business_with_a_reason(place: str) -> None:
    deep = '"new":' + "[" * 100_000 + "]" * 100_000
    run = read(raw(deep) if place == "instance" else raw("", top="," + deep))
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert "nested" in line
    assert BUSINESS in line
    assert not run.of("RECORD")


@pytest.mark.parametrize("key", ["new", "name", "next"])
@pytest.mark.parametrize("depth", [*range(400, 900, 100), *range(900, 1000, 10)])
def test_what_is_nested_deep_beside_the_list_is_kept_or_fails_its_business_alone(key: str, depth: int) -> None:
    deep = b'{"Instances":[],"%s":' % key.encode() + b'{"next":' * depth + b"1" + b"}" * depth + b"}"
    acts = {"a": (answer(200, deep),), "b": (answer(200, b'{"Instances":[]}'),)}
    with FaultServer(businesses=acts) as server:
        run = sync(config(server, acts))
    assert run.records("businesses")[-1]["business_id"] == "b"
    lines = run.lines("ERROR")
    assert run.returncode == bool(lines)
    assert all("nested deeper" in line or "not whole" in line or "1 of 2 businesses failed" in line for line in lines)


@pytest.mark.parametrize("depth", range(930, 1000, 10))
def test_near_the_parsers_limit_an_instance_is_emitted_or_named(depth: int) -> None:
    content = raw('"new":' + "[" * depth + "]" * depth).replace(b"}]}", b'},{"instanceId":"i-2"}]}')
    run = read(content)
    assert "Traceback" not in run.stderr
    named = [line for line in run.lines("ERROR") if "nested" in line]
    assert (run.returncode == 0) == (len(run.records("instances")) == 2)
    assert (run.returncode == 0) == (not named)
    assert len(run.lines("ERROR")) == len(named)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "undefined", "01", "'x'"])
def test_what_is_no_json_fails_the_business(constant: str) -> None:
    run = read(raw(f'"new":{constant}'))
    assert run.returncode == 1
    [line] = run.lines("ERROR")
    assert "is not JSON" in line
    assert not run.of("RECORD")


def test_a_thousand_keys_of_a_hundred_instances_are_all_kept() -> None:
    items = [{"instanceId": f"i-{n}", **{f"k{n}-{key}": key for key in range(100)}} for n in range(20)]
    run = read(body(*items))
    assert run.returncode == 0
    for record in run.records("instances")[:-1]:
        number = record["instance_id"].removeprefix("i-")
        assert record["additional_properties"] == {f"k{number}-{key}": key for key in range(100)}


def test_keys_that_no_type_can_have_are_kept() -> None:
    keys = [
        'quo"te',
        "back\\slash",
        "new\nline",
        "",
        "é",
        "a.b",
        "x" * 1000,
        "\u2028",
        "__proto__",
        "additional_properties",
    ]
    run = read(body(*({"instanceId": f"i{n}", **dict.fromkeys(keys, n + 1)} for n in range(3))))
    assert run.returncode == 0
    for number, record in enumerate(run.records("instances")[:3]):
        assert record["additional_properties"] == dict.fromkeys(keys, number + 1)


def test_a_name_with_line_breaks_stays_one_log_line() -> None:
    run = read(body({"instanceId": ID, "new\nERROR line": 1, "token\nERROR line": "x", "a\u2028b\x1b[31m": 1}))
    assert run.returncode == 0
    assert not [line for line in run.stderr.splitlines() if line.startswith("ERROR")]
    assert "\x1b" not in run.stderr
