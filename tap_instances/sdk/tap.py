"""The overrides of ``Tap`` and of its command line."""

from __future__ import annotations

import fnmatch
import logging
import os
import sys
import warnings
from copy import deepcopy
from typing import Any, NoReturn

import click
import msgspec
from singer_sdk import Tap
from singer_sdk.exceptions import ConfigValidationError
from singer_sdk.singerlib import Catalog
from typing_extensions import override

from tap_instances import settings
from tap_instances.columns import load_schema
from tap_instances.failures import one_line
from tap_instances.redact import scrub_logs
from tap_instances.sdk.stream import FULL_TABLE
from tap_instances.sdk.writer import CLOSED_PIPE, LineWriter, drop_stdout, end_without_reader

logger = logging.getLogger("tap-instances")


class Command(click.Command):
    """The command line. An error is one line; the SDK's prints a traceback, and a second line for wrong settings."""

    @override
    def main(self, *args: Any, **kwargs: Any) -> Any:
        logging.captureWarnings(capture=True)
        try:
            if sys.stdout is None:  # the tap was started with ">&-"
                settings.refuse(["stdout is closed: what the tap writes goes there"])
            try:
                return super().main(*args, **kwargs)
            finally:
                sys.stdout.flush()  # of --about: if this fails at exit, Python prints a traceback
        except Exception as error:  # noqa: BLE001 (the last resort)
            if isinstance(error, OSError):
                drop_stdout()  # such as a full disk
            if isinstance(error, BrokenPipeError):
                sys.exit(CLOSED_PIPE)
            lines = getattr(error, "errors", None) or [one_line(str(error)) or "no details"]
            if not isinstance(error, (OSError, ValueError, ConfigValidationError)):
                lines = [f"unexpected {type(error).__name__}: {lines[0]}: please report it"]
            for line in lines:
                logger.error("%s", line)  # noqa: TRY400 (one readable line; the traceback goes to DEBUG)
            logger.debug("where it happened", exc_info=True)
        sys.exit(1)


class SDKTap(Tap):
    """A tap of :class:`tap_instances.sdk.stream.SDKStream`. Its errors are one line, without secrets."""

    logger = logging.getLogger("singer_sdk")  # to which the SDK tells its steps
    message_writer: LineWriter
    message_writer_class = LineWriter

    @override
    def __init__(self, *, catalog: Any = None, state: Any = None, **kwargs: Any) -> None:
        # An object, or its JSON; the SDK would copy it into a structure of its own.
        self.given_state = {} if state is None else state
        self.append_builtin_config(self.config_jsonschema)
        if catalog is not None and not isinstance(catalog, Catalog):
            catalog = _catalog(catalog)
        # The SDK's steps and numbers are of use at DEBUG only.
        level = logging.NOTSET if logger.isEnabledFor(logging.DEBUG) else logging.WARNING
        self.logger.setLevel(level)
        logger.disabled = False  # a logging configuration disables what it does not name, if it does not say otherwise
        logging.getLogger("urllib3").setLevel(level and logging.ERROR)  # it warns of odd headers with a traceback
        warnings.filterwarnings("ignore", "Python .* end of life")  # the SDK's, at each start: two lines of every log
        warnings.filterwarnings("error", "Assignment .* attempted")  # "=" for "==" in a stream map: it counts as true
        super().__init__(catalog=catalog, **kwargs)
        self.metrics_logger.setLevel(level)

    @override
    def setup_mapper(self) -> None:
        # The streams are made before the mapper: they remove secret columns from the catalog.
        settings.warn_of_unknown("the catalog's stream", self.catalog, self.streams, " is not known")
        # The SDK fails on a map of a deselected stream. Here its filter still applies to the streams below.
        catalog = deepcopy(self.catalog)
        for entry in catalog.streams:
            entry.metadata.root.selected = True
            entry.stream = entry.tap_stream_id  # by which the SDK looks for a map: it may be another name
        try:
            super(Tap, self).setup_mapper()
            self.mapper.register_raw_streams_from_catalog(catalog)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the user's to correct)
            line = f"stream_maps must be corrected: {one_line(str(error))}"
            settings.refuse(getattr(error, "errors", [line]))  # those of flattening have lines of their own
        self._warn_of_unknown_columns()

    def _warn_of_unknown_columns(self) -> None:
        """Log a warning for each stream in the stream maps, and each column to remove, that does not exist."""
        for key, stream_map in self.mapper.stream_maps_dict.items():  # without __else__
            columns = stream_map if isinstance(stream_map, dict) else {}
            name = columns.get("__source__", key)
            if not (streams := fnmatch.filter(self.streams, name)):  # a name may be a pattern
                settings.warn_of_unknown("stream_maps names", [name], self.streams, ", which is no stream")
                continue
            # Secret columns, too: they may be removed to make sure.
            known = {column for stream in streams for column in load_schema(stream)["properties"]}
            gone = [column for column, value in columns.items() if value in (None, "__NULL__") and column[:2] != "__"]
            settings.warn_of_unknown("stream_maps removes", gone, known, f" of {name}, which has no such column")

    @override
    def _handle_termination(self, signum: int, frame: Any) -> NoReturn:
        # The SDK writes a STATE and exits 0. A signal may come inside a write: nothing may follow half a line. And a
        # thread may wait for somebody to read the log: whatever else is done could wait for that thread.
        os._exit(128 + signum)

    # -------------------------------------------------------------------------------------------------- settings

    @property
    @override
    def _env_var_config(self) -> dict[str, Any]:
        # The SDK's error for a bad value does not name the variable, and its .env is one above its own folder.
        return settings.from_environment()

    @override
    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        # The SDK's messages quote the value, which may be a secret. Discovery (no raise_errors) needs no settings.
        self._config, errors = settings.checked(self._config, read_file=raise_errors)
        scrub_logs(*settings.secrets(self._config))
        if errors and raise_errors:
            settings.refuse(errors)
        known = settings.SETTINGS["properties"]
        settings.warn_of_unknown("setting", self._config, known, " is not known and is ignored")
        return errors

    # ---------------------------------------------------------------------------------------------- command line

    @classmethod
    @override
    def get_singer_command(cls) -> click.Command:
        theirs = super().get_singer_command()
        for option in theirs.params:
            if isinstance(option.type, click.File):  # opened when it is read: --test and --discover would not close it
                option.type = click.File("rb", lazy=True)
        return Command(theirs.name, theirs.context_settings, theirs.callback, theirs.params, theirs.help)

    @classmethod
    @override
    def cb_config(cls, ctx: click.Context, param: click.Option, value: tuple[str, ...]) -> Any:
        # The SDK's error for a file that is not JSON does not name the file, and it takes no byte order mark.
        result = super().cb_config(ctx, param, tuple(path for path in value if path == "ENV"))
        for path in value:
            if path != "ENV":
                result.config |= settings.read_json("--config", path, "is not a JSON object with the settings")
        return result

    @classmethod
    @override
    def invoke(cls, *, config: Any = None, state: Any = None, catalog: Any = None, **about: Any) -> None:
        # The SDK's names no file that cannot be read, and parses the state into more memory than it needs.
        super(Tap, cls).invoke(**about)
        if catalog:
            problem = "is not a catalog as --discover writes it"
            catalog = settings.read_json("--catalog", catalog.name, problem, _catalog)
        state = state and state.read()
        tap = cls(config=config.config, parse_env_config=config.parse_env, catalog=catalog, state=state)
        cls.print_version(print_fn=cls.logger.info)
        end_without_reader()
        tap.sync_all()


def _catalog(given: dict[str, Any]) -> Catalog:
    """Return a catalog; Meltano's ``replication-method`` counts as what the SDK looks for."""
    streams = msgspec.convert(given["streams"], list[dict[str, Any]])
    for metadata in [entry["metadata"] for stream in streams for entry in stream.get("metadata", ())]:
        method = metadata.get("replication-method")
        if method and metadata.get("forced-replication-method") != FULL_TABLE:
            metadata["forced-replication-method"] = method
    return Catalog.from_dict({"streams": streams})
