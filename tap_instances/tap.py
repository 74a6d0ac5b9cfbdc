"""The tap: which streams there are, and what it takes from its settings, catalog, state and command line."""

from __future__ import annotations

import difflib
import io
import json
import logging
import os
import re
import signal
from collections import Counter
from contextlib import suppress
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, ClassVar, NoReturn
from urllib.parse import urlsplit

import msgspec
from singer_sdk import Tap
from singer_sdk.exceptions import ConfigValidationError
from singer_sdk.helpers._classproperty import classproperty
from singer_sdk.singerlib import Catalog
from singer_sdk.singerlib.messages import StateMessage
from typing_extensions import override

from tap_instances import changes, settings
from tap_instances.client import Business, Client
from tap_instances.redact import ScrubbingFormatter
from tap_instances.sdk import FULL_TABLE, Command, ConnectedStream, LineWriter, drop_stdout
from tap_instances.streams import (
    BusinessesStream,
    ConnectionChangesStream,
    InstancesStream,
    RememberingStream,
    WebhookEventsStream,
    WebhooksStream,
)

if TYPE_CHECKING:
    from types import FrameType

    from click import Context, Option

LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|::1)\Z")


class TapInstances(Tap):
    """Singer tap for CodeChat: connected WhatsApp instances, their webhooks, and the events each webhook gets."""

    name = "tap-instances"
    config_jsonschema: ClassVar[dict[str, Any]] = settings.SETTINGS
    message_writer_class = LineWriter

    @override
    def __init__(self, *, catalog: Any = None, state: Any = None, **kwargs: Any) -> None:
        if state is not None and not isinstance(state, (dict, str, os.PathLike)):
            self.logger.warning("the state is no object and is not understood: everything is synced again")
            state = None
        super().__init__(catalog=_with_metadata_methods(catalog), state=state, **kwargs)

    @override
    def discover_streams(self) -> list[ConnectedStream]:
        return [
            BusinessesStream(self),
            InstancesStream(self),
            WebhooksStream(self),
            WebhookEventsStream(self),
            ConnectionChangesStream(self),
        ]

    @cached_property
    def businesses(self) -> list[Business]:
        """The configured businesses, in their order."""
        many = self.config.get("businesses")
        return [Business(entry["business_id"], entry["auth_token"]) for entry in many or [self.config]]

    @cached_property
    def client(self) -> Client:
        """The way to the configured server; made when the first request is due."""
        api_url, config = self.config["api_url"].strip(), self.config
        parts = urlsplit(api_url)
        if parts.scheme == "http" and not LOOPBACK.match(parts.hostname or ""):
            self.logger.warning("api_url is plain http: tokens and data cross the network unencrypted; use https")
        return Client(
            api_url,
            concurrency=int(config["concurrency"]),  # JSON Schema takes 4.0 for an integer
            request_timeout=int(config["request_timeout"]),
            max_retries=int(config["max_retries"]),
            user_agent=config.get("user_agent") or f"{self.name}/{self.plugin_version}",
        )

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
        self._hide_secrets()
        for name in self._config.keys() - self.config_jsonschema["properties"].keys():
            close = difflib.get_close_matches(name, self.config_jsonschema["properties"], n=1)
            hint = f": did you mean {close[0]!r}?" if close else ""
            self.logger.warning("setting %r is not known and is ignored%s", name, hint)
        return errors

    def _hide_secrets(self) -> None:
        many = self._config.get("businesses")
        entries = [self._config, *(many if isinstance(many, list) else ())]
        tokens = {entry.get("auth_token") for entry in entries if isinstance(entry, dict)}
        secrets = {token for token in tokens if isinstance(token, str) and token}
        loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
        for handler in {handler for logger in loggers for handler in getattr(logger, "handlers", ())}:
            inner = handler.formatter or logging.Formatter()
            known = secrets
            if isinstance(inner, ScrubbingFormatter):
                known, inner = secrets | inner.secrets, inner.inner
            handler.setFormatter(ScrubbingFormatter(inner, known))

    # ------------------------------------------------------------------------------------------ catalog and state

    @override
    def setup_mapper(self) -> None:
        _ = self.streams  # they take what must not be in it out of the catalog, before the mapper reads that
        super().setup_mapper()

    @override
    def load_state(self, state: dict[str, Any]) -> None:
        """Take over the state; what is not understood is left out, and so synced again."""
        if not state:
            return
        bookmarks = state.get("bookmarks")
        if not isinstance(bookmarks, dict) or not _is_json(bookmarks):
            self.logger.warning("the state is not understood (no bookmarks): everything is synced again")
            return
        own = {stream.name: stream for stream in self.streams.values()}
        kept = self._state.setdefault("bookmarks", {})
        for name, bookmark in bookmarks.items():
            stream = own.get(name)
            if isinstance(stream, (RememberingStream, ConnectionChangesStream)):
                kept[name] = {"partitions": self._understood(stream, bookmark)}
            elif stream is None:
                kept[name] = bookmark  # not this tap's: kept as it is

    def _understood(self, stream: ConnectedStream, bookmark: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        partitions = bookmark.get("partitions", None if bookmark else []) if isinstance(bookmark, dict) else None
        if not isinstance(partitions, list):
            self.logger.warning("the state of %s is not understood: it is synced in full", stream.name)
            return []
        configured = {entry.get("business_id") for entry in self.config.get("businesses") or [self.config]}
        contexts = [partition.get("context") if isinstance(partition, dict) else None for partition in partitions]
        ids = [context.get("business_id") if isinstance(context, dict) else None for context in contexts]
        count = Counter(business_id for business_id in ids if isinstance(business_id, str))
        result = []
        for partition, business_id in zip(partitions, ids, strict=True):
            one = isinstance(business_id, str) and count[business_id] == 1
            if one and (business_id not in configured or changes.understood(partition, stream.memory_type)):
                result.append(partition)
            else:
                self.logger.warning("the state of %s, business %.100r, is not understood: it is synced in full",
                                    stream.name, business_id)  # fmt: skip
        return result

    @override
    def _reset_state_progress_markers(self) -> None:
        """Do nothing: the state holds no progress markers, and the SDK would look for them in whatever is there."""

    def write_state(self) -> None:
        """Write a STATE message."""
        self.write_message(StateMessage(value=self.state))

    # ---------------------------------------------------------------------------------------------- command line

    @classmethod
    @override
    def cb_config(cls, ctx: Context, param: Option, value: tuple[str, ...]) -> Any:
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
    def invoke(cls, *, state: IO[str] | None = None, catalog: IO[str] | None = None, **kwargs: Any) -> None:
        if catalog is not None:
            try:
                value = json.load(catalog)
                Catalog.from_dict(value)
            except Exception as error:  # noqa: BLE001 (whatever shape a file may have)
                raise _unreadable("--catalog", catalog.name, "a catalog as --discover writes it", error) from None
            catalog = io.StringIO(json.dumps(value))
        if state is not None:
            value = None
            with suppress(ValueError, RecursionError):
                value = json.load(state)
            if not isinstance(value, dict):
                cls.logger.warning("the state file is no JSON object and is not understood: everything is synced again")
                value = {}
            state = io.StringIO(json.dumps(value))
        super().invoke(state=state, catalog=catalog, **kwargs)

    @override
    def _handle_termination(self, signum: int, frame: FrameType | None) -> NoReturn:
        # The SDK writes a STATE and exits 0. A signal may come inside a write: nothing may follow half a line.
        signal.signal(signum, signal.SIG_IGN)
        drop_stdout()
        raise SystemExit(128 + signum)

    @classmethod
    @override
    def get_singer_command(cls) -> Command:
        command = super().get_singer_command()
        return Command(
            name=command.name,
            callback=command.callback,
            params=command.params,
            context_settings=command.context_settings,
            help=command.help,
            logger=cls.logger,
        )


def _unreadable(option: str, path: str, what: str, error: Exception) -> ConfigValidationError:
    """Say which file is not what it must be, and where; never what it holds."""
    where = f" ({error})" if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) else ""
    return ConfigValidationError(f"{option} {path} is not {what}{where}")


def _is_json(value: Any) -> bool:  # noqa: ANN401
    """Tell whether a STATE can carry this: no lone surrogate, and nested no deeper than is sane."""
    try:
        msgspec.json.encode(value)
    except (ValueError, RecursionError):
        return False
    return True


def _with_metadata_methods(catalog: Any) -> Any:  # noqa: ANN401
    """Move Meltano's ``replication-method`` in a stream's metadata to where the SDK looks for it."""
    for stream in catalog.get("streams", []) if isinstance(catalog, dict) else ():
        for entry in stream.get("metadata", []):
            metadata = entry.get("metadata") or {}
            method, forced = metadata.get("replication-method"), metadata.get("forced-replication-method")
            if method and forced != FULL_TABLE and not entry.get("breadcrumb"):
                metadata["forced-replication-method"] = method
    return catalog
