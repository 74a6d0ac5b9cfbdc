"""The overrides of ``Tap`` and of its command line."""

from __future__ import annotations

import json
import logging
import signal
import sys
from copy import deepcopy
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click
from singer_sdk import Tap
from singer_sdk.exceptions import ConfigValidationError
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


class Command(SingerCommand):
    """The command line. The SDK ends in a traceback on an unreadable file or an unexpected error."""

    @override
    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # what --about printed: the exit's own flush would complain in many lines
        except BrokenPipeError:
            drop_stdout()
            sys.exit(CLOSED_PIPE)
        except Exception as error:  # noqa: BLE001 (the last resort)
            if isinstance(error, OSError):
                drop_stdout()  # a full disk, say
            lines = getattr(error, "errors", None) or [" ".join(str(error).split()) or "no details"]
            known = isinstance(error, (OSError, ValueError, SyncError)) or "singer_sdk" in type(error).__module__
            for line in lines if known else [f"unexpected {type(error).__name__}: {lines[0]}: please report it"]:
                self.logger.error("%s", line)  # noqa: TRY400 (a line for people)
            self.logger.debug("where it happened", exc_info=True)
        sys.exit(1)

    @override
    def invoke(self, ctx: click.Context) -> Any:
        # The SDK's sets a hook that logs tracebacks, and adds a second line to each wrong setting's.
        logging.captureWarnings(capture=True)
        return click.Command.invoke(self, ctx)


class ConnectedTap(Tap):
    """A tap of :class:`tap_instances.sdk.stream.ConnectedStream`: one clear line for whatever is wrong, no secret."""

    message_writer_class = LineWriter

    @override
    def __init__(self, *, catalog: Any = None, state: Any = None, **kwargs: Any) -> None:
        self.given_state = state  # an object, or its JSON; the SDK would copy it into a structure of its own
        super().__init__(catalog=_with_metadata_methods(catalog), **kwargs)

    @override
    def setup_mapper(self) -> None:
        _ = self.streams  # they take what must not be in it out of the catalog, before the mapper reads that
        super(Tap, self).setup_mapper()
        # The SDK's fails on a map of a deselected stream. Here its filter still counts for what is below.
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
        # The SDK's names no setting in the error of a bad value.
        cls.append_builtin_config(cls.config_jsonschema)
        return settings.from_environment(cls.config_jsonschema["properties"], cls._env_var_prefix)

    @override
    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        # The SDK's messages quote the value, which may be a secret.
        self.append_builtin_config(self.config_jsonschema)
        errors = settings.wrong(self._config, self.config_jsonschema)
        if errors and raise_errors:
            settings.refuse(errors)
        scrub_logs(settings.secrets(self._config))
        settings.warn_of_unknown(self._config, self.config_jsonschema)
        return errors

    # ---------------------------------------------------------------------------------------------- command line

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
            logger=cls.logger,
        )

    @classmethod
    @override
    def cb_config(cls, ctx: click.Context, param: click.Option, value: tuple[str, ...]) -> Any:
        # The SDK's error on a file that is no JSON does not name the file.
        result = super().cb_config(ctx, param, ())
        for path in value:
            try:
                one = super().cb_config(ctx, param, (path,))
            except (RecursionError, TypeError, ValueError) as error:
                raise _unreadable("--config", path, "a JSON object with the settings", error) from None
            result.config |= one.config
            result.parse_env |= one.parse_env
        return result

    @classmethod
    @override
    def invoke(cls, *, config: Any = None, state: Any = None, catalog: IO[str] | None = None, **about: Any) -> None:
        # The SDK's names no file that cannot be read, and parses the state into more memory than it needs.
        super(Tap, cls).invoke(**about)
        cls.print_version(print_fn=cls.logger.info)
        given = None
        if catalog is not None:
            try:
                given = json.loads(catalog.read())
                Catalog.from_dict(given)
            except Exception as error:  # noqa: BLE001 (whatever shape a file may have)
                raise _unreadable("--catalog", catalog.name, "a catalog as --discover writes it", error) from None
        tap = cls(
            config=config.config,
            parse_env_config=config.parse_env,
            catalog=given,
            state=None if state is None else state.buffer.read(),
        )
        tap.sync_all()


def _unreadable(option: str, path: str, what: str, error: Exception) -> ConfigValidationError:
    """Say which file is not what it must be, and where; never what it holds."""
    line, column = getattr(error, "lineno", None), getattr(error, "colno", None)  # the SDK may parse by simplejson
    where = f" (line {line}, column {column})" if line else ""
    return ConfigValidationError(f"{option} {path} is not {what}{where}")


def _with_metadata_methods(catalog: Any) -> Any:  # noqa: ANN401
    """Move Meltano's ``replication-method`` in a stream's metadata to where the SDK looks for it."""
    for stream in catalog.get("streams", []) if isinstance(catalog, dict) else ():
        for entry in stream.get("metadata", []):
            metadata = entry.get("metadata") or {}
            method, forced = metadata.get("replication-method"), metadata.get("forced-replication-method")
            if method and forced != FULL_TABLE and not entry.get("breadcrumb"):
                metadata["forced-replication-method"] = method
    return catalog
