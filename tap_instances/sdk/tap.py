"""The overrides of ``Tap`` and of its command line."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from singer_sdk import Tap
from singer_sdk.cli import plugin_cli
from singer_sdk.helpers._classproperty import classproperty
from singer_sdk.plugin_base import SingerCommand
from singer_sdk.singerlib import Catalog
from typing_extensions import override

from tap_instances import settings
from tap_instances.redact import scrub_logs
from tap_instances.sdk.output import CLOSED_PIPE, LineWriter, drop_stdout
from tap_instances.sdk.stream import FULL_TABLE
from tap_instances.sdk.writer import SyncError

if TYPE_CHECKING:
    from types import FrameType


logger = logging.getLogger("tap-instances")


class Command(SingerCommand):
    """The command line. An error is one line; the SDK prints a traceback."""

    @override
    def main(self, *args: Any, **kwargs: Any) -> Any:
        if sys.stdout is None:  # the tap was started with ">&-"
            self.logger.error("stdout is closed: what the tap writes goes there")
            sys.exit(1)
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                sys.stdout.flush()  # of --about: if this fails at exit, Python prints a traceback
        except BrokenPipeError:
            drop_stdout()
            sys.exit(CLOSED_PIPE)
        except Exception as error:  # noqa: BLE001 (the last resort)
            if isinstance(error, OSError):
                drop_stdout()  # such as a full disk
            lines = getattr(error, "errors", None) or [" ".join(str(error).split()) or "no details"]
            known = isinstance(error, (OSError, ValueError, SyncError)) or "singer_sdk" in type(error).__module__
            for line in lines if known else [f"unexpected {type(error).__name__}: {lines[0]}: please report it"]:
                self.logger.error("%s", line)  # noqa: TRY400 (one readable line; the traceback goes to DEBUG)
            self.logger.debug("where it happened", exc_info=True)
        sys.exit(1)

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except BaseException:  # --test and --discover run, and end, while click parses the command line
            ctx.close()  # of the files --catalog and --state: click does it only after the parsing
            raise

    @override
    def invoke(self, ctx: click.Context) -> Any:
        # The SDK's sets a hook that logs tracebacks, and logs a second line for wrong settings.
        logging.captureWarnings(capture=True)
        return click.Command.invoke(self, ctx)


class SDKTap(Tap):
    """A tap of :class:`tap_instances.sdk.stream.SDKStream`. Its errors are one line, without secrets."""

    message_writer_class = LineWriter

    @classproperty
    @override
    def logger(cls) -> logging.Logger:  # noqa: N805
        # The SDK logs its steps at INFO, to the tap's logger. Here it gets another, which is quiet unless at DEBUG.
        quiet = not logger.isEnabledFor(logging.DEBUG)
        for name in ("singer_sdk", f"{cls.name}.sdk"):
            logging.getLogger(name).setLevel(logging.WARNING if quiet else logging.NOTSET)
        return logging.getLogger(f"{cls.name}.sdk")

    @override
    def __init__(self, *, catalog: Any = None, state: Any = None, **kwargs: Any) -> None:
        self.given_state = state  # an object, or its JSON; the SDK would copy it into a structure of its own
        super().__init__(catalog=_with_metadata_methods(catalog), **kwargs)
        if not logger.isEnabledFor(logging.DEBUG):  # the closing line has the same numbers
            self.metrics_logger.setLevel(logging.WARNING)

    @override
    def setup_mapper(self) -> None:
        streams = self.streams.values()  # made before the mapper: they remove secret columns from the catalog
        longest = max(len(column) for stream in streams for column in stream.schema["properties"])
        if self.config.get("flattening_max_key_length", longest + 1) <= longest:
            settings.refuse([f"flattening_max_key_length must be at least {longest + 1}: it would rename columns"])
        if not any(stream.selected for stream in streams):
            logger.warning("the catalog selects no stream: nothing is read")
        super(Tap, self).setup_mapper()
        # The SDK fails on a map of a deselected stream. Here its filter still applies to the streams below.
        catalog = deepcopy(self.catalog)
        for entry in catalog.streams:
            entry.metadata.root.selected = True
        self.mapper.register_raw_streams_from_catalog(catalog)

    @override
    def _handle_termination(self, signum: int, frame: FrameType | None) -> NoReturn:
        # The SDK writes a STATE and exits 0. A signal may come inside a write: nothing may follow half a line.
        signal.signal(signum, signal.SIG_IGN)
        drop_stdout()
        raise SystemExit(128 + signum)

    # -------------------------------------------------------------------------------------------------- settings

    @classproperty
    @override
    def _env_var_config(cls) -> dict[str, Any]:  # noqa: N805
        # The SDK's error for a bad value does not name the variable, and its .env is one above its own folder.
        cls.append_builtin_config(cls.config_jsonschema)
        return settings.from_environment()

    @override
    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        # The SDK's messages quote the value, which may be a secret. Discovery (no raise_errors) needs no settings.
        self.append_builtin_config(self.config_jsonschema)
        self._config, errors = settings.checked(self._config, read_file=raise_errors)
        scrub_logs(settings.secrets(self._config))
        if errors and raise_errors:
            settings.refuse(errors)
        settings.warn_of_unknown(self._config)
        return errors

    # ---------------------------------------------------------------------------------------------- command line

    @plugin_cli
    @override
    def cli(cls) -> click.Command:  # noqa: N805
        # The SDK sets up logging here, and ends in a traceback where one of these is wrong.
        levels, config = (f"{settings.PREFIX}LOGLEVEL", "LOGLEVEL"), "SINGER_SDK_LOG_CONFIG"
        for name in (*levels, config):
            if not os.environ.get(name, "unset").strip():
                del os.environ[name]
        for name in [name for name in levels if name in os.environ][:1]:
            if not isinstance(logging.getLevelName(os.environ[name].upper()), int):
                sys.exit(f"{name} must be DEBUG, INFO, WARNING, ERROR or CRITICAL: correct it, or unset it")
        try:
            if config in os.environ:
                Path(os.environ[config]).read_bytes()  # of a missing file the SDK only warns
            return super(SDKTap, cls).cli  # noqa: UP008 (not a method yet: there is no instance)
        except Exception:  # noqa: BLE001 (whatever a file may hold)
            sys.exit(
                "SINGER_SDK_LOG_CONFIG must name a YAML file with a logging configuration: correct it, or unset it"
            )

    @classmethod
    @override
    def get_singer_command(cls) -> Command:
        theirs = super().get_singer_command()
        return Command(
            name=theirs.name,
            callback=theirs.callback,
            params=theirs.params,
            context_settings=theirs.context_settings,
            help=theirs.help,
            logger=logger,
        )

    @classmethod
    @override
    def cb_config(cls, ctx: click.Context, param: click.Option, value: tuple[str, ...]) -> Any:
        # The SDK's error for a file that is not JSON does not name the file, and it takes no byte order mark.
        result = super().cb_config(ctx, param, tuple(path for path in value if path == "ENV"))
        for path in value:
            if path != "ENV":
                result.config |= settings.read_json("--config", path, dict, "is not a JSON object with the settings")
        return result

    @classmethod
    @override
    def invoke(cls, *, config: Any = None, state: Any = None, catalog: Any = None, **about: Any) -> None:
        # The SDK's names no file that cannot be read, and parses the state into more memory than it needs.
        super(Tap, cls).invoke(**about)
        cls.print_version(print_fn=cls.logger.info)
        given = None
        if catalog is not None:
            try:
                given = json.loads(catalog.buffer.read())
                Catalog.from_dict(given)
            except Exception as error:  # noqa: BLE001 (whatever shape a file may have)
                problem = "is not a catalog as --discover writes it"
                settings.refuse([settings.not_json("--catalog", catalog.name, problem, error)])
        tap = cls(
            config=config.config,
            parse_env_config=config.parse_env,
            catalog=given,
            state=None if state is None else state.buffer.read(),
        )
        tap.sync_all()


def _with_metadata_methods(catalog: Any) -> Any:  # noqa: ANN401
    """Move Meltano's ``replication-method`` in a stream's metadata to where the SDK looks for it."""
    for stream in catalog.get("streams", []) if isinstance(catalog, dict) else ():
        for entry in stream.get("metadata", []):
            metadata = entry.get("metadata") or {}
            method, forced = metadata.get("replication-method"), metadata.get("forced-replication-method")
            if method and forced != FULL_TABLE and not entry.get("breadcrumb"):
                metadata["forced-replication-method"] = method
    return catalog
