"""The commands: ``spec``, ``check``, ``discover``, ``read``."""

from __future__ import annotations

import argparse
import codecs
import logging
import signal
from contextlib import suppress
from datetime import MAXYEAR
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import msgspec
from singer_sdk.exceptions import ConfigValidationError
from typing_extensions import override

from source_codechat_instances import catalog
from source_codechat_instances.messages import CURSOR, AirbyteWriter, CommandError, SilentWriter
from tap_instances.memory import Time  # noqa: TC001 (msgspec reads it)
from tap_instances.tap import TapInstances
from tap_instances.values import compact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

USAGE: Final = (
    "the arguments must be one of: spec; check --config FILE; discover --config FILE; "
    "read --config FILE --catalog FILE [--state FILE]"
)
NULL: Final = msgspec.Raw(b"null")
NAMED: Final = 20  # failed businesses that a message names; the others are counted

logger = logging.getLogger("tap-instances")


class _Descriptor(msgspec.Struct):
    name: str


class _StreamState(msgspec.Struct):
    stream_descriptor: _Descriptor
    stream_state: msgspec.Raw = NULL  # the tap reads it


class _State(msgspec.Struct):
    type: Literal["STREAM"]
    stream: _StreamState


class _Cursors(msgspec.Struct):
    """The latest cursor in a stream's state: beside what the tap remembers, or of a stream that has nothing else."""

    beside: Time | None = msgspec.field(name=CURSOR, default=None)
    alone: Time | None = msgspec.field(name="observed_at", default=None)


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
    try:
        options = _parse(arguments)
        root.setLevel(logging.DEBUG if options.debug else logging.INFO)
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
    files = {"spec": (), "check": ("config",), "discover": ("config",), "read": ("config", "catalog", "state")}
    for name, options in files.items():
        command = commands.add_parser(name, allow_abbrev=False)
        command.add_argument("--debug", action="store_true", help="log more")
        for option in options:
            command.add_argument(f"--{option}", required=option != "state", type=Path)
    return parser.parse_args(arguments)


def _explained(error: Exception) -> CommandError:
    """Return what to tell of an error: one line, and whether settings, time or a correction will help."""
    logger.debug("where it happened", exc_info=error)
    if isinstance(error, CommandError):
        return error
    line = " ".join(str(error).split()) or "no details"
    if isinstance(error, ConfigValidationError):
        return CommandError(line)
    return CommandError(f"unexpected {type(error).__name__}: {line}: please report it", "system_error")


# ---------------------------------------------------------------------------------------------------------- commands


def _spec(_: argparse.Namespace, writer: AirbyteWriter) -> None:
    writer.send({"type": "SPEC", "spec": catalog.spec()})


def _check(options: argparse.Namespace, writer: AirbyteWriter) -> None:
    """Ask every business. Whatever is wrong is a FAILED status, not an error of the command."""
    status = {"status": "SUCCEEDED"}
    try:
        tap = _tap(options)
        _let_work(tap, tap.run_connection_test)
    except Exception as error:  # noqa: BLE001
        status = {"status": "FAILED", "message": writer.log.scrubbed(str(_explained(error)))}
    writer.send({"type": "CONNECTION_STATUS", "connectionStatus": status})


def _discover(options: argparse.Namespace, writer: AirbyteWriter) -> None:
    writer.send({"type": "CATALOG", "catalog": {"streams": catalog.airbyte_streams(_tap(options))}})


def _tap(options: argparse.Namespace) -> TapInstances:
    """Return the tap, without its handler of SIGTERM: PyAirbyte ends these commands so, and wants the default."""
    tap = TapInstances(config=_settings(options.config), message_writer=SilentWriter())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return tap


def _read(options: argparse.Namespace, writer: AirbyteWriter) -> None:
    """Emit the configured streams; of a read that fails, what could be read, and its state."""
    config = _settings(options.config)
    configured = _load("--catalog", options.catalog, catalog.ConfiguredCatalog, "a configured catalog")
    selected = catalog.singer_catalog(configured)
    states = _states(options.state) if options.state else {}
    for each in configured.streams:
        name = each.stream.name
        if each.sync_mode == "full_refresh":
            states.pop(name, None)  # without a state the tap emits everything
            if name in catalog.HISTORIES:
                logger.warning("%s is a history: a full_refresh gives only what is connected now", name)
        writer.states[name] = states.get(name, {})
    if cursors := [cursor for state in states.values() if (cursor := _latest_cursor(state))]:
        writer.go_on_from(max(cursors))
    state = msgspec.json.encode({"bookmarks": states})
    tap = TapInstances(config=config, catalog=selected, state=state, message_writer=writer)
    writer.status("STARTED")
    try:
        _let_work(tap, tap.sync_all)
    except Exception:
        writer.status("INCOMPLETE")
        raise
    writer.status("COMPLETE")


def _let_work(tap: TapInstances, action: Callable[[], object]) -> None:
    """Let the tap work; raise a :class:`CommandError` if a business failed, or a row had no key."""
    try:
        action()
    except SystemExit as end:
        if end.code != 1:
            raise  # a signal came, or nobody reads stdout any more
        if not tap.failed:
            what = "some rows have no key and were not emitted: the log says which"
            raise CommandError(what, "system_error") from end
        kind = "" if end.__cause__ else "business "  # it is the server's list that cannot be read
        lines = [f"{kind}{name}: {error}" for name, error in tap.failed.items()]
        message = "; ".join(lines[:NAMED])
        if len(lines) > 1:
            message = f"{len(lines)} businesses failed: {message}"
        if len(lines) > NAMED:
            message += f"; and {len(lines) - NAMED} more"
        can_pass = all(getattr(error, "transient", False) for error in tap.failed.values())
        raise CommandError(message, "transient_error" if can_pass else "config_error") from end


# ------------------------------------------------------------------------------------------------------------ inputs


def _load(option: str, path: Path, kind: Any, what: str) -> Any:  # noqa: ANN401
    """Return what a JSON file holds; ``what`` says what it must be."""
    try:
        return msgspec.json.decode(path.read_bytes().removeprefix(codecs.BOM_UTF8), type=kind)
    except OSError as error:
        raise CommandError(f"the file of {option} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CommandError(f"the file of {option} is not {what}: {error}") from error


def _settings(path: Path) -> dict[str, Any]:
    """Return the settings as the tap takes them."""
    config = _load("--config", path, dict[str, Any], "a JSON object with the settings")
    config = {name: value for name, value in config.items() if value not in (None, [])}  # an empty list in a form
    if foreign := catalog.not_offered() & config.keys():
        raise CommandError(f"{min(foreign)} is a setting of the Singer tap, not of this source: remove it")
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


def _states(path: Path) -> dict[str, msgspec.Raw]:
    """Return the state that Airbyte gives back: stream -> its state. What is of another shape counts as none."""
    given = _load("--state", path, list[msgspec.Raw] | dict[str, msgspec.Raw] | None, "JSON with a list of states")
    if isinstance(given, dict):  # one of another shape, or {}, which some clients have for none
        given = [value for value in given.values() if value != NULL]
    states = {}
    for item in given or ():
        try:
            stream = msgspec.json.decode(compact(bytes(item)), type=_State).stream
        except msgspec.DecodeError:
            logger.warning("a state is not understood (it is not one of type STREAM): its streams are synced in full")
            continue
        if stream.stream_state != NULL:
            states[stream.stream_descriptor.name] = stream.stream_state
    return states


def _latest_cursor(state: msgspec.Raw) -> datetime | None:
    """Return the cursor in a stream's state, if it has one after which there can be others."""
    with suppress(msgspec.MsgspecError):
        cursors = msgspec.json.decode(state, type=_Cursors)
        cursor = cursors.beside or cursors.alone
        return cursor if cursor and cursor.year < MAXYEAR else None
    return None
