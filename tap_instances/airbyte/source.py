"""The commands: ``spec``, ``check``, ``discover``, ``read``."""

from __future__ import annotations

import argparse
import codecs
import logging
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeVar

import msgspec
from singer_sdk.exceptions import ConfigValidationError
from typing_extensions import override

from tap_instances.airbyte.catalog import (
    HISTORIES,
    ConfiguredCatalog,
    airbyte_streams,
    not_offered,
    singer_catalog,
    spec,
)
from tap_instances.airbyte.messages import AirbyteWriter, CommandError, Progress
from tap_instances.client import SnapshotError
from tap_instances.tap import TapInstances
from tap_instances.values import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

USAGE: Final = (
    "the arguments must be one of: spec; check --config FILE; discover --config FILE; "
    "read --config FILE --catalog FILE [--state FILE]"
)
NAMED: Final = 20  # failed businesses that a message names; the others are counted

EMPTY: Final = msgspec.Raw(b"{}")

T = TypeVar("T")
logger = logging.getLogger("tap-instances")


class _Descriptor(msgspec.Struct):
    name: str


class _StreamState(msgspec.Struct):
    stream_descriptor: _Descriptor
    stream_state: msgspec.Raw = EMPTY  # the tap reads it


class _State(msgspec.Struct):
    type: Literal["STREAM"]
    stream: _StreamState


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """An empty object."""


class _Parser(argparse.ArgumentParser):
    @override
    def error(self, message: str) -> NoReturn:
        raise CommandError(USAGE)  # argparse's own message quotes arguments, one of which may be a secret


def run(arguments: Sequence[str]) -> int:
    """Run a command, writing Airbyte's messages to stdout; return the exit code."""
    writer = AirbyteWriter()
    root = logging.getLogger()
    level = root.level
    root.addHandler(writer.log)  # before a tap is made, which then hides its secrets in whatever is logged
    root.setLevel(logging.INFO)
    try:
        options = _parse(arguments)
        if options.debug:
            root.setLevel(logging.DEBUG)
        {"spec": _spec, "check": _check, "discover": _discover, "read": _read}[options.command](options, writer)
    except Exception as error:  # noqa: BLE001 (the last resort: never a traceback)
        writer.error(_explained(error))
        return 1
    finally:
        root.removeHandler(writer.log)
        root.setLevel(level)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="source-codechat-instances", description="CodeChat as a source for Airbyte")
    commands = parser.add_subparsers(dest="command", required=True)
    files = {"spec": (), "check": ("config",), "discover": ("config",), "read": ("config", "catalog")}
    for name, required in files.items():
        command = commands.add_parser(name, allow_abbrev=False)
        command.add_argument("--debug", action="store_true", help="log more")
        for option in required:
            command.add_argument(f"--{option}", required=True, type=Path)
        if name == "read":
            command.add_argument("--state", type=Path)
    return parser.parse_args(arguments)


def _explained(error: Exception) -> CommandError:
    """Return what to tell of an error: one line, and whether settings, time or a correction will help."""
    logger.debug("where it happened", exc_info=error)
    if isinstance(error, CommandError):
        return error
    line = "; ".join(getattr(error, "errors", None) or [" ".join(str(error).split()) or "no details"])
    if isinstance(error, ConfigValidationError):
        return CommandError(line)
    return CommandError(f"unexpected {type(error).__name__}: {line}: please report it", "system_error")


# ---------------------------------------------------------------------------------------------------------- commands


def _spec(_: argparse.Namespace, writer: AirbyteWriter) -> None:
    writer.send({"type": "SPEC", "spec": spec()})


def _check(options: argparse.Namespace, writer: AirbyteWriter) -> None:
    """Ask every business. Whatever is wrong is a FAILED status, not an error of the command."""
    try:
        tap = TapInstances(config=_settings(options.config))
        _end_by_sigterm()
        problem = _outcome(tap, tap.check)
    except Exception as error:  # noqa: BLE001
        problem = _explained(error)
    writer.connection_status(problem)


def _discover(options: argparse.Namespace, writer: AirbyteWriter) -> None:
    tap = TapInstances(config=_settings(options.config))
    streams = airbyte_streams(include_secrets=bool(tap.config.get("include_secrets")))
    _end_by_sigterm()
    writer.send({"type": "CATALOG", "catalog": {"streams": streams}})


def _read(options: argparse.Namespace, writer: AirbyteWriter) -> None:
    """Emit the configured streams.

    Raises:
        CommandError: A business failed, or a row had no key; what could be read, and its state, is emitted.
    """
    config = _settings(options.config)
    configured = _load("--catalog", options.catalog, ConfiguredCatalog, "a configured catalog")
    catalog = singer_catalog(configured, include_secrets=config.get("include_secrets") is True)
    remembered = {entry["tap_stream_id"] for entry in catalog["streams"] if entry.get("replication_key")}
    given = _states(options.state)
    for each in configured.streams:
        name = each.stream.name
        if each.sync_mode == "full_refresh":
            given.pop(name, None)  # without a state the tap emits everything
            if name in HISTORIES:
                logger.warning("%s is a history: a full_refresh gives only what is connected now", name)
        writer.progress[name] = Progress(name in remembered, given.get(name, EMPTY))
    state = encode({"bookmarks": {name: given[name] for name in remembered & given.keys()}})
    tap = TapInstances(config=config, catalog=catalog, state=state, message_writer=writer)
    writer.status("STARTED")
    problem = _outcome(tap, tap.sync_all)
    writer.status("INCOMPLETE" if problem else "COMPLETE")
    if problem:
        raise problem


def _outcome(tap: TapInstances, action: Callable[[], dict[str, Exception] | None]) -> CommandError | None:
    """Let the tap work; return what went wrong, if anything did."""
    try:
        failed = action()
    except SystemExit as end:
        if end.code != 1:
            raise  # a signal came, or nobody reads stdout any more
        if isinstance(end.__cause__, SnapshotError):
            return CommandError(f"the list of businesses: {end.__cause__}", _failure_type(end.__cause__))
        failed = tap.failed
        if not failed:
            return CommandError("some rows have no key and were not emitted: the log says which", "system_error")
    except Exception as error:  # noqa: BLE001
        return _explained(error)
    if not failed:
        return None
    lines = [f"business {business_id}: {error}" for business_id, error in failed.items()]
    message = "; ".join(lines[:NAMED])
    if len(lines) > 1:
        message = f"{len(lines)} businesses failed: {message}"
    if len(lines) > NAMED:
        message += f"; and {len(lines) - NAMED} more"
    return CommandError(message, _failure_type(*failed.values()), "; ".join(lines))


def _failure_type(*errors: Exception) -> str:
    """Tell whether it is enough to try again later."""
    return "transient_error" if all(getattr(error, "transient", False) for error in errors) else "config_error"


def _end_by_sigterm() -> None:
    """Undo the tap's handler: PyAirbyte ends a command by SIGTERM once it has its answer, and wants the default."""
    with suppress(ValueError):  # only a main thread has signals
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


# ------------------------------------------------------------------------------------------------------------ inputs


def _load(option: str, path: Path, kind: type[T], what: str) -> T:
    """Return what a JSON file holds.

    Raises:
        CommandError: It cannot be read, or is of another shape.
    """
    try:
        return msgspec.json.decode(path.read_bytes().removeprefix(codecs.BOM_UTF8), type=kind)
    except OSError as error:
        raise CommandError(f"the file of {option} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CommandError(f"the file of {option} is not {what}: {error}") from error


def _settings(path: Path) -> dict[str, Any]:
    """Return the settings as the tap takes them."""
    config = _load("--config", path, dict[str, Any], "a JSON object with the settings")
    config = {name: value for name, value in config.items() if value is not None}
    for name in sorted(not_offered() & config.keys()):
        raise CommandError(f"{name} is a setting of the Singer tap, not of this source: remove it")
    if "headers" in config:
        config["headers"] = _headers(config["headers"])
    return config


def _headers(pairs: Any) -> dict[str, str]:  # noqa: ANN401
    """Return a list of ``{name, value}`` as an object."""
    try:
        headers = {pair["name"] + "": pair["value"] for pair in pairs}  # a name is a text
    except (TypeError, KeyError):
        raise CommandError("headers must be a list of {name, value}") from None
    if len(headers) < len(pairs):
        raise CommandError("headers has a name twice: give each once")
    return headers


def _states(path: Path | None) -> dict[str, msgspec.Raw]:
    """Return the state that Airbyte gives back: stream -> its state."""
    if path is None:
        return {}
    items = _load("--state", path, list[_State] | _Nothing, "a list of states of type STREAM")  # type: ignore[arg-type]
    if isinstance(items, _Nothing):
        return {}
    streams = [item.stream for item in items if bytes(item.stream.stream_state) != b"null"]
    return {stream.stream_descriptor.name: stream.stream_state for stream in streams}
