"""What this tap relies on inside the SDK: a change there fails here, by name, before it fails in a pipeline."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from singer_sdk import Stream, Tap
from singer_sdk.plugin_base import PluginBase, SingerCommand

from tap_instances.sdk.output import LineWriter
from tap_instances.sdk.stream import ConnectedStream
from tap_instances.sdk.tap import Command, ConnectedTap
from tap_instances.streams import (
    BusinessesStream,
    ConnectionChangesStream,
    InstancesStream,
    WebhookEventsStream,
    WebhooksStream,
)
from tap_instances.tap import TapInstances

# What is overridden of the SDK's private parts, with the parameters that the SDK calls it with.
OVERRIDES: dict[tuple[type, str], str] = {
    (Stream, "_sync_records"): "context, *, write_messages",
    (Stream, "_sync_batches"): "batch_config, context",
    (Tap, "_handle_termination"): "signum, frame",
    (Tap, "_reset_state_progress_markers"): "",
    (PluginBase, "_validate_config"): "*, raise_errors",
}
# What is called of them.
CALLED: dict[tuple[type, str], str] = {
    (Stream, "_write_schema_message"): "",
    (Stream, "_write_activate_version_message"): "full_table_version",
    (Stream, "_generate_record_messages"): "record",
}
# What the SDK must go on doing, in its own words: function, what stands in it, and why it matters.
WORDS = [
    (Stream.sync, "self._sync_records(context=context)", "the root's run is entered here"),
    (Stream.sync, "self._sync_batches(batch_config, context=context)", "and here, with batch_config"),
    (Stream.sync, "self._write_schema_message()", "the root's SCHEMA is written before its run"),
    (Stream.sync, "and self.emit_activate_version_messages", "a false property keeps ACTIVATE_VERSION from the start"),
    (Stream.sync, "except Exception:", "SystemExit passes it"),
    (Tap.sync_all, "if stream.parent_stream_type:", "children are left to their root"),
    (Tap.sync_all, "stream.finalize_state_progress_markers()", "is overridden: it would make entries for parents"),
    (Tap.setup_mapper, "self.mapper.register_raw_streams_from_catalog(self.catalog)", "ours does it for every stream"),
    (Tap.invoke, "load_json(state.read())", "ours gives it a text that was checked"),
    (Tap.run_sync_dry_run, "stream.ABORT_AT_RECORD_COUNT = dry_run_record_limit", "--test is recognised by it"),
    (Stream._generate_record_messages, "version=self._stream_version", "FULL_TABLE records carry the run's version"),
    (SingerCommand.invoke, "super().invoke(ctx)", "the command's own hook replaces it"),
]
ROOT = Path(__file__).parent.parent
STREAMS = (BusinessesStream, InstancesStream, WebhooksStream, WebhookEventsStream, ConnectionChangesStream)


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


def test_private_parts_are_overridden_in_the_sdk_folder_only_and_are_in_the_table() -> None:
    known = {name for _, name in OVERRIDES} | {"_env_var_config"}  # a property of the class: see test_settings
    for ours in (ConnectedStream, ConnectedTap, Command, LineWriter):
        assert {name for name in overridden(ours) if re.match(r"_(?!_|abc_)", name)} <= known, ours
    for ours in (*STREAMS, TapInstances):
        assert {name for name in overridden(ours) if re.match(r"_(?!_|abc_)", name)} == set(), ours


def test_the_design_page_has_every_override_and_no_other() -> None:
    section = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("## Where it departs")[2]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    listed = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} - {"LineWriter", "Command"}
    assert listed == set().union(*map(overridden, (ConnectedStream, ConnectedTap, Command, LineWriter)))
