"""How a stream's finished rows become RECORD or BATCH messages: through selection, stream maps and flattening.

And where messages go: stdout, in whole lines.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

from singer_sdk.batch import Batcher
from singer_sdk.exceptions import MapExpressionError
from singer_sdk.helpers._batch import SDKBatchMessage
from singer_sdk.mapper import RemoveRecordTransform, SameRecordTransform
from singer_sdk.singerlib.encoding.base import GenericSingerWriter
from singer_sdk.singerlib.messages import Message, StateMessage
from typing_extensions import override

from tap_instances.sdk.stream import FULL_TABLE
from tap_instances.values import decode, encode, encode_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import ExitStack
    from datetime import datetime

    from tap_instances.sdk.stream import SDKStream

PAGE: Final = 250  # instances or rows at a time: few enough for the processor's cache
CLOSED_PIPE: Final = 141  # 128 + SIGPIPE, as a shell reports it


class LineWriter(GenericSingerWriter[bytes, Message]):
    """Writes messages to stdout as they are, a page of lines at a time.

    The SDK's writers flush each message, copy each STATE whole, and end in a traceback on a closed pipe.
    """

    @override
    def serialize_message(self, message: Message) -> bytes:
        if isinstance(message, StateMessage):  # its to_dict would copy it whole
            return encode_lines([{"type": "STATE", "value": message.value}])
        return encode_lines([message.to_dict()])

    @override
    def write_message(self, message: Message) -> None:
        self.write(self.serialize_message(message))

    def write(self, lines: bytes) -> None:
        """Write whole lines; end quietly if nobody reads them any more."""
        try:
            write_stdout(lines)
        except OSError as error:
            drop_stdout()
            if isinstance(error, BrokenPipeError):
                raise SystemExit(CLOSED_PIPE) from None
            msg = f"stdout cannot be written: {error.strerror}"
            raise OSError(msg) from error


def write_stdout(lines: bytes) -> None:
    """Write all of this to stdout."""
    if (buffer := getattr(sys.stdout, "buffer", None)) is None:
        sys.stdout.write(lines.decode())  # a text stream
    else:
        while lines:  # an unbuffered one (PYTHONUNBUFFERED) may take a part at a time
            lines = lines[buffer.write(lines) :]
    sys.stdout.flush()


def drop_stdout() -> None:
    """Point stdout at the null device: nothing more is written, and the exit's own flush cannot block or fail."""
    with suppress(OSError, ValueError, AttributeError):  # there may be no stdout, or none that is a file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def end_without_reader() -> None:
    """From now on, end this process as soon as nobody reads stdout any more: a slow server can delay the next write."""

    def watch() -> None:
        poll = select.poll()
        with suppress(OSError, ValueError):  # it may be no file
            poll.register(sys.stdout, 0)
            if poll.poll()[0][1] & (select.POLLERR | select.POLLHUP):
                os._exit(CLOSED_PIPE)

    threading.Thread(target=watch, name="stdout", daemon=True).start()


class SyncError(Exception):
    """What ends a run, and what to do about it."""


class RecordWriter:
    """Writes one stream's rows during one run."""

    def __init__(self, stream: SDKStream, *, activate: bool) -> None:
        """Let rows go out as they are, but where a map, flattening or deselection needs them as objects.

        With ``activate``, the records of a FULL_TABLE stream carry a version, the same in the whole run.
        """
        self.stream, self._tap = stream, stream._tap  # noqa: SLF001
        self.count = 0
        self._limit = stream.ABORT_AT_RECORD_COUNT or sys.maxsize  # set by --test
        self._batch_config: Any = stream.get_batch_config(stream.config)
        self._batches: dict[str, list[bytes]] = {}
        columns, declared = stream.schema["properties"], stream.effective_schema.get("properties", {})
        kept = [name for name in columns if name in declared and stream.mask["properties", name]]
        # Part of each row's digest; empty if it is all of them.
        self.selected_columns = b"" if len(kept) == len(columns) else ",".join(kept).encode()
        self._maps = self._tap.mapper.stream_maps.get(stream.name, [])
        self.has_map = any(not isinstance(stream_map, SameRecordTransform) for stream_map in self._maps)
        self.has_copies = len(self._maps) > 1  # those of other maps, by __source__
        is_dropped = bool(self._maps) and all(isinstance(each, RemoveRecordTransform) for each in self._maps)
        self.is_written = stream.selected and not is_dropped
        # In milliseconds: the SDK's seconds are equal in two runs that follow each other at once.
        is_versioned = activate and self.is_written and stream.replication_method == FULL_TABLE
        self.version = self._tap.initialized_at if is_versioned else None
        flat = any(stream_map.flattening_enabled for stream_map in self._maps)
        self._is_direct = not (self.has_map or flat or self.selected_columns)

    def open(self, stack: ExitStack) -> None:
        """Write the SCHEMA, once per run, and count records until the stack closes."""
        if self.stream.selected:
            self.stream._write_schema_message()  # noqa: SLF001
            self._counter = stack.enter_context(self.stream.get_record_counter())

    def write(self, rows: Iterable[bytes], observed_at: datetime) -> None:
        """Write finished rows, a page at a time."""
        rows = islice(rows, max(0, self._limit - self.count) if self.stream.selected else 0)
        while page := list(islice(rows, PAGE)):
            for alias, mapped in self._mapped(page).items():
                self.count += len(mapped)
                self._counter.increment(len(mapped))
                self._put(alias, mapped, observed_at)

    def _mapped(self, rows: list[bytes]) -> dict[str, list[bytes]]:
        """Return rows as selected, mapped and flattened, by the stream that they go to."""
        if self._is_direct:  # they stay the bytes that they are
            return {self.stream.name: rows}
        mapped: dict[str, list[bytes]] = {}
        with self._expressions():
            for row in rows:
                for message in self.stream._generate_record_messages(decode(row)):  # noqa: SLF001
                    mapped.setdefault(message.stream, []).append(encode(message.record))
        return mapped

    def _put(self, alias: str, rows: list[bytes], observed_at: datetime) -> None:
        if self._batch_config:
            for row in rows:
                batch = self._batches.setdefault(alias, [])
                batch.append(row)
                if len(batch) >= self._batch_config.batch_size:
                    self.flush()
            return
        head = encode({"type": "RECORD", "stream": alias, "record": 0})[:-2]
        tail = b',"version":%d' % self.version if self.version else b""
        tail += b',"time_extracted":' + encode(observed_at) + b"}\n"
        rows[0] = head + rows[0]
        rows[-1] += tail
        cast("LineWriter", self._tap.message_writer).write((tail + head).join(rows))

    def flush(self) -> None:
        """Write the rows that wait for a BATCH: as mapped and selected (the SDK would write them as they came)."""
        batches, self._batches = self._batches, {}
        for alias, rows in batches.items():
            try:
                manifests = list(Batcher(self._tap.name, alias, self._batch_config).get_batches(map(decode, rows)))
            except Exception as error:
                why = str(error) or type(error).__name__
                msg = f"batch_config: a batch cannot be written ({why}): check its storage"
                raise OSError(msg) from error
            for manifest in manifests:
                message = SDKBatchMessage(stream=alias, encoding=self._batch_config.encoding, manifest=manifest)
                self._tap.write_message(message)

    def passes(self, row: bytes) -> bool:
        """Return whether the stream's own map lets this row, and so what is below it, through."""
        if not self.has_map:
            return True
        with self._expressions():
            return self._maps[0].get_filter_result(decode(row))

    @contextmanager
    def _expressions(self) -> Iterator[None]:
        """Turn whatever a stream map's expression raises into a :class:`SyncError`: it is the user's to correct."""
        try:
            yield
        except Exception as error:
            # Other errors than these may quote the row.
            why = error if isinstance(error, (MapExpressionError, TypeError, Warning)) else type(error).__name__
            msg = (
                f"stream_maps: an expression for {self.stream.name} fails on a row "
                f"({why}): correct it, and let it take nulls (as in deleted rows)"
            )
            raise SyncError(msg) from error

    def activate(self) -> None:
        """Tell the target that this run's version is the whole table."""
        if self.version:
            self.stream._write_activate_version_message(self.version)  # noqa: SLF001
