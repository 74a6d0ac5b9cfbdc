"""How a stream's finished rows become RECORD or BATCH messages: through selection, stream maps and flattening."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

from singer_sdk.batch import Batcher
from singer_sdk.helpers._batch import SDKBatchMessage
from singer_sdk.mapper import SameRecordTransform

from tap_instances.sdk.output import decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack
    from datetime import datetime

    from singer_sdk.batch import BaseBatcher

    from tap_instances.sdk.output import LineWriter
    from tap_instances.sdk.stream import SDKStream

PAGE: Final = 1000  # rows that are written at a time


class SyncError(Exception):
    """What ends a run, and what to do about it."""


class RecordWriter:
    """Writes one stream's rows during one run."""

    def __init__(self, stream: SDKStream, *, activate: bool, limit: int | None) -> None:
        """Find the shortest way that gives the messages asked for; ``limit`` is how many records ``--test`` wants.

        With ``activate``, the records of a FULL_TABLE stream carry a version, the same in the whole run.
        """
        self.stream, self._tap, self._limit = stream, stream._tap, limit  # noqa: SLF001
        self.count = 0
        self._batches: dict[str, list[dict[str, Any]]] = {}
        self._batch_config: Any = stream.get_batch_config(stream.config)
        columns, declared = stream.schema["properties"], stream.effective_schema.get("properties", {})
        kept = [name for name in columns if name in declared and stream.mask["properties", name]]
        self.deselection = b"" if len(kept) == len(columns) else ",".join(kept).encode()  # part of each row's digest
        maps = self._tap.mapper.stream_maps.get(stream.name, ())
        self.has_map = [type(stream_map) for stream_map in maps] != [SameRecordTransform]
        flat = any(stream_map.flattening_enabled for stream_map in maps)
        self._direct = not (self.has_map or flat or self.deselection or self._batch_config)
        if activate and stream.replication_method == "FULL_TABLE":
            # In milliseconds: the SDK's seconds are equal in two runs that follow each other at once.
            stream._stream_version = stream._initialized_at  # noqa: SLF001

    @property
    def version(self) -> int | None:
        """The version of the stream's records in this run."""
        return self.stream._stream_version  # noqa: SLF001

    def open(self, stack: ExitStack) -> None:
        """Write the SCHEMA, once per run, and count records until the stack closes."""
        if self.stream.selected:
            self.stream._write_schema_message()  # noqa: SLF001
            self._counter = stack.enter_context(self.stream.get_record_counter())

    def write(self, rows: Iterable[bytes], observed_at: datetime) -> None:
        """Write finished rows as RECORDs, a page at a time."""
        if not self.stream.selected:
            return
        if self._limit is not None:
            rows = islice(rows, max(0, self._limit - self.count))
        rows = iter(rows)
        while page := list(islice(rows, PAGE)):
            self._write_page(page, observed_at)

    def _write_page(self, rows: list[bytes], observed_at: datetime) -> None:
        self.count += len(rows)
        self._counter.increment(len(rows))
        writer = cast("LineWriter", self._tap.message_writer)
        if self._direct:  # the rows' bytes stand in their lines as they are
            head = encode({"type": "RECORD", "stream": self.stream.name, "record": 0})[:-2]
            tail = b',"version":%d' % self.version if self.version else b""
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
                messages = list(self.stream._generate_record_messages(decode(row)))  # noqa: SLF001
            except Exception as error:
                msg = (
                    f"stream_maps: an expression for {self.stream.name} fails on a row "
                    f"({error or type(error).__name__}): correct it, and let it take nulls (as in deleted rows)"
                )
                raise SyncError(msg) from error
            for message in messages:
                message.time_extracted = observed_at
                yield message

    def flush(self) -> None:
        """Write the rows that wait for a BATCH: as mapped and selected (the SDK would write them as they came)."""
        batches, self._batches = self._batches, {}
        for alias, rows in batches.items():
            batcher: BaseBatcher = Batcher(self.stream.tap_name, alias, self._batch_config)
            for manifest in batcher.get_batches(iter(rows)):
                encoding = self._batch_config.encoding
                self._tap.write_message(SDKBatchMessage(stream=alias, encoding=encoding, manifest=manifest))

    def passes(self, row: bytes) -> bool:
        """Return whether the stream's own map lets this row, and so what is below it, through."""
        if not self.has_map or not (maps := self._tap.mapper.stream_maps.get(self.stream.name)):
            return True
        try:
            return bool(maps[0].get_filter_result(decode(row)))
        except Exception as error:
            why = error or type(error).__name__
            msg = f"stream_maps: the __filter__ of {self.stream.name} fails on a row ({why}): correct it"
            raise SyncError(msg) from error

    def activate(self) -> None:
        """Tell the target that this run's version is the whole table."""
        if self.stream.selected and self.version:
            self.stream._write_activate_version_message(self.version)  # noqa: SLF001
