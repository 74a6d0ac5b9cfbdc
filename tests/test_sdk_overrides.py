"""What this tap relies on inside the SDK: a change there fails here, by name, before it fails in a pipeline."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from singer_sdk import Stream, Tap
from singer_sdk.plugin_base import PluginBase
from singer_sdk.singerlib.encoding.base import GenericSingerWriter

from tap_instances.sdk.stream import SDKStream
from tap_instances.sdk.tap import Command, SDKTap
from tap_instances.sdk.writer import LineWriter
from tap_instances.streams import STREAMS, RememberingStream, SnapshotStream
from tap_instances.tap import TapInstances

# What is overridden of the SDK, with the parameters that the SDK calls it with.
OVERRIDES: dict[tuple[type, str], str] = {
    (Tap, "sync_all"): "",
    (Stream, "sync"): "context",
    (Stream, "apply_catalog"): "catalog",
    (Tap, "setup_mapper"): "",
    (Tap, "_handle_termination"): "signum, frame",
    (PluginBase, "_validate_config"): "*, raise_errors",
    (GenericSingerWriter, "serialize_message"): "message",
    (GenericSingerWriter, "write_message"): "message",
}
# What is called of its private parts.
CALLED: dict[tuple[type, str], str] = {
    (Stream, "_write_schema_message"): "",
    (Stream, "_write_activate_version_message"): "full_table_version",
    (Stream, "_generate_record_messages"): "record",
}
# What the SDK must go on doing, in its own words: function, what stands in it, and why it matters.
WORDS = [
    (Tap.run_sync_dry_run, "stream.ABORT_AT_RECORD_COUNT = dry_run_record_limit", "--test is recognised by it"),
    (Tap.run_sync_dry_run, "stream.sync()", "--test enters the run here"),
    (Tap.run_sync_dry_run, "if stream.parent_stream_type:", "and once: children are left to their root"),
    (Tap.setup_mapper, "self.mapper.register_raw_streams_from_catalog(self.catalog)", "ours does it for every stream"),
    (Stream.apply_catalog, "entry.replication_method or table_replication_method", "the metadata's comes second"),
]
ROOT = Path(__file__).parent.parent
OURS = (SDKStream, SDKTap, Command, LineWriter)


def parameters(function: Any) -> str:  # noqa: ANN401
    """Return a function's parameters without self, types and defaults."""
    text: list[str] = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in text:
            text.append("*")
        text.append(parameter.name)
    return ", ".join(text)


@pytest.mark.parametrize(("owner", "name"), [*OVERRIDES, *CALLED])
def test_the_sdk_has_what_is_overridden_and_called_with_the_same_parameters(owner: type, name: str) -> None:
    assert parameters(getattr(owner, name)) == {**OVERRIDES, **CALLED}[owner, name]


@pytest.mark.parametrize(("function", "words", "why"), WORDS)
def test_the_sdk_does_what_is_relied_on(function: Any, words: str, why: str) -> None:  # noqa: ANN401
    assert words in inspect.getsource(function), why


def overridden(ours: type) -> set[str]:
    """Return the names of the SDK's methods and properties that a class of this tap overrides."""
    theirs = [base for base in ours.__mro__ if base.__module__.startswith(("singer_sdk", "click"))]
    names = {name for base in theirs for name in vars(base)} & vars(ours).keys()
    return {name for name in names if hasattr(vars(ours)[name], "__get__") and not isinstance(vars(ours)[name], type)}


def test_the_sdk_is_overridden_in_its_folder_only_but_for_how_it_is_entered() -> None:
    streams: list[type] = [SnapshotStream, RememberingStream, *STREAMS]
    for ours in streams:
        assert overridden(ours) == set(), ours
    assert overridden(TapInstances) == {"discover_streams", "sync_all"}


def test_each_private_part_that_is_overridden_has_its_parameters_checked() -> None:
    known = {name for _, name in OVERRIDES} | {"_env_var_config"}  # a property of the class: see test_settings
    for ours in OURS:
        assert {name for name in overridden(ours) if re.match(r"_(?!_|abc_)", name)} <= known, ours


def table() -> list[list[str]]:
    """Return the cells of the design page's table of overrides."""
    section = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("## Where it departs")[2]
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]


def test_the_design_page_has_every_override_and_no_other() -> None:
    listed = {name for override, *_ in table() for name in re.findall(r"`(\w+)`", override)} - {"LineWriter", "Command"}
    assert listed == {"sync_all"}.union(*map(overridden, OURS))


def test_each_override_on_the_design_page_names_a_test_that_there_is() -> None:
    for override, _, test, *_ in table():
        [(module, name)] = re.findall(r"^`(test_\w+)::(test_\w+)`$", test)
        text = (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8")
        assert f"\ndef {name}(" in text, override
