"""The overrides of ``Stream``: rows of a page are written as they are, in as few steps as give the same messages."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

from singer_sdk import Stream
from singer_sdk.batch import Batcher
from singer_sdk.helpers._batch import SDKBatchMessage
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.mapper import SameRecordTransform
from typing_extensions import override

from tap_instances.columns import column_names, load_schema
from tap_instances.sdk.output import decode, encode
from tap_instances.state import Partitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from singer_sdk.batch import BaseBatcher
    from singer_sdk.singerlib import Catalog

    from tap_instances.records import Reading
    from tap_instances.sdk.output import LineWriter
    from tap_instances.sdk.tap import ConnectedTap

FULL_TABLE: Final = "FULL_TABLE"
PAGE: Final = 1000  # instances that are read, and rows that are written, at a time


class SyncError(Exception):
    """What ends a run, and what to do about it."""


class ConnectedStream(Stream):
    """A stream whose rows come from a business's snapshot.

    Subclasses set ``name``, ``primary_keys``, ``parent_stream_type``, and say which rows a page holds.
    """

    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.ROOT_ONLY  # rows are flat, and fit already
    can_be_full_table = False  # whether a catalog may ask an incremental stream for FULL_TABLE
    seen_type: type | None = None  # of what its partitions remember as "seen"
    records_written = 0

    # ------------------------------------------------------------------------------------------------ the catalog

    @property
    @override
    def schema(self) -> dict[str, Any]:
        """The declared columns; those that are secrets only with ``include_secrets``."""
        schema = load_schema(self.name)
        names = column_names(self.name, include_secrets=bool(self.config.get("include_secrets")))
        return {**schema, "properties": {name: schema["properties"][name] for name in names}}

    @override
    def apply_catalog(self, catalog: Catalog) -> None:
        """Take selection and replication method; never a secret column, and never a catalog's missing keys."""
        entry = catalog.get_stream(self.name)
        keys, replication_key = tuple(self.primary_keys), self.replication_key
        if entry:
            allowed = self.schema["properties"]
            secrets = set(load_schema(self.name)["properties"]) - set(allowed)
            for column in secrets:
                (entry.schema.properties or {}).pop(column, None)
            entry.key_properties = entry.key_properties or entry.metadata.root.table_key_properties or keys
        super().apply_catalog(catalog)
        self.primary_keys = self.primary_keys or keys
        self.replication_key = self.replication_key or replication_key
        self.forced_replication_method = None
        if entry:
            # The SDK lets the stream's method, which discovery wrote, beat the one that a user set in metadata.
            methods = {entry.replication_method, entry.metadata.root.forced_replication_method} - {None}
            if FULL_TABLE in methods and self.can_be_full_table:
                self.forced_replication_method = FULL_TABLE
            elif methods - {self.replication_method}:
                self.logger.warning("%s is always %s: another replication method is ignored", self.name,
                                    self.replication_method)  # fmt: skip

    @property
    @override
    def emit_activate_version_messages(self) -> bool:
        # The SDK sends ACTIVATE_VERSION at the start: a tap that dies after that has emptied the table.
        return False

    @override
    def finalize_state_progress_markers(self, state: dict[str, Any] | None = None) -> None:
        """Do nothing: the state holds no progress markers, and the SDK would make entries for parents."""

    # ----------------------------------------------------------------------------------------------------- a run

    @override
    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:
        """Never asked for: rows are written by :meth:`write`, as a run walks a snapshot."""
        raise NotImplementedError

    @override
    def _sync_records(self, context: Any = None, *, write_messages: bool = True) -> Any:
        # The SDK's loop asks for one record, syncs its children with a SCHEMA each, and writes it after them.
        cast("ConnectedTap", self._tap).run()
        return ()

    @override
    def _sync_batches(self, batch_config: Any, context: Any = None) -> None:
        # The SDK's writes rows to files before stream maps and deselection.
        cast("ConnectedTap", self._tap).run()

    @contextmanager
    def opened(self, *, activate: bool) -> Iterator[None]:
        """Get ready to write: one SCHEMA a run, one version a run, and the shortest way that gives the same."""
        self.records_written = 0
        self.bookmarks = Partitions(cast("dict[str, Any]", self._tap_state), self.name)
        self._batches: dict[str, list[dict[str, Any]]] = {}
        self._batch_config: Any = self.get_batch_config(self.config)
        columns, declared = self.schema["properties"], self.effective_schema.get("properties", {})
        kept = [name for name in columns if name in declared and self.mask["properties", name]]
        self.salt = b"" if len(kept) == len(columns) else ",".join(kept).encode()
        maps = self._tap.mapper.stream_maps.get(self.name, ())
        self.has_map = [type(stream_map) for stream_map in maps] != [SameRecordTransform]
        flat = any(stream_map.flattening_enabled for stream_map in maps)
        self._direct = not (self.has_map or flat or self.salt or self._batch_config)
        if not self.selected:
            yield
            return
        if activate and self.replication_method == FULL_TABLE:
            self._stream_version = self._initialized_at  # ms: the SDK's seconds are equal in runs that follow at once
        if self.parent_stream_type:  # the SDK wrote the root's
            self._write_schema_message()
        with self.get_record_counter() as self._counter:
            yield

    def begin(self, business_id: str) -> None:
        """Get ready for a business."""

    def finish(self, reading: Reading) -> None:
        """Write what only the whole of a business's list tells."""

    def commit(self, reading: Reading) -> None:
        """Remember a business, all of which was written."""

    def remembers(self, business_id: str) -> bool:
        """Tell whether the last sync saw an instance of this business."""
        return self.selected and bool((self.bookmarks.get(business_id) or {}).get("seen"))

    def write(self, rows: Iterable[bytes], observed_at: datetime) -> None:
        """Write finished rows as RECORDs, a page at a time, through selection, stream maps and batches.

        Where none of these is asked for, each row's bytes go into its line as they are: the same messages as the
        SDK's way (``_sync_records``, ``_generate_record_messages``) at a sixth of its cost.
        """
        if not self.selected:
            return
        if self.ABORT_AT_RECORD_COUNT is not None:  # --test
            rows = islice(rows, max(0, self.ABORT_AT_RECORD_COUNT - self.records_written))
        rows = iter(rows)
        while page := list(islice(rows, PAGE)):
            self._write_page(page, observed_at)

    def _write_page(self, rows: list[bytes], observed_at: datetime) -> None:
        self.records_written += len(rows)
        self._counter.increment(len(rows))
        writer: LineWriter = self._tap.message_writer  # type: ignore[assignment]
        if self._direct:
            head = encode({"type": "RECORD", "stream": self.name, "record": 0})[:-2]
            tail = b',"version":%d' % self._stream_version if self._stream_version else b""
            tail += b',"time_extracted":' + encode(observed_at) + b"}\n"
            rows[0] = head + rows[0]
            rows[-1] += tail
            writer.write((tail + head).join(rows))
            return
        messages = self._mapped(rows, observed_at)
        if self._batch_config is None:
            writer.write(b"".join([writer.format_message(message) + b"\n" for message in messages]))
            return
        for message in messages:
            batch = self._batches.setdefault(message.stream, [])
            batch.append(message.record)
            if len(batch) >= self._batch_config.batch_size:
                self.flush()

    def _mapped(self, rows: list[bytes], observed_at: datetime) -> Iterable[Any]:
        for row in rows:
            try:
                messages = list(self._generate_record_messages(decode(row)))
            except Exception as error:
                msg = (
                    f"stream_maps: an expression for {self.name} fails on a row ({error or type(error).__name__}): "
                    "correct it, and let it take nulls (a deleted row has little else)"
                )
                raise SyncError(msg) from error
            for message in messages:
                message.time_extracted = observed_at
                yield message

    def flush(self) -> None:
        """Write the rows that wait for a BATCH: as mapped and selected (the SDK would write them as they came)."""
        batches, self._batches = self._batches, {}
        for alias, rows in batches.items():
            batcher: BaseBatcher = Batcher(self.tap_name, alias, self._batch_config)
            for manifest in batcher.get_batches(iter(rows)):
                encoding = self._batch_config.encoding
                self._tap.write_message(SDKBatchMessage(stream=alias, encoding=encoding, manifest=manifest))

    def passes(self, row: bytes) -> bool:
        """Tell whether the stream's own map lets this row, and so what is below it, through."""
        if not self.has_map or not (maps := self._tap.mapper.stream_maps.get(self.name)):
            return True
        try:
            return bool(maps[0].get_filter_result(decode(row)))
        except Exception as error:
            why = error or type(error).__name__
            raise SyncError(f"stream_maps: the __filter__ of {self.name} fails on a row ({why}): correct it") from error

    def activate(self) -> None:
        """Tell the target that this run's version is the whole table."""
        if self.selected and self._stream_version:
            self._write_activate_version_message(self._stream_version)
