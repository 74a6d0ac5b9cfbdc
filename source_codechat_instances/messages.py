"""Airbyte's messages on stdout: the tap's lines, translated as they are written, and its log lines."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Any, Final

import msgspec
from singer_sdk.singerlib.messages import Message, StateMessage
from typing_extensions import override

from tap_instances.sdk.writer import CLOSED_PIPE, LineWriter, drop_stdout, write_stdout

# Airbyte's destinations keep, of the rows with a key, the one with the highest cursor. So the cursor is a column of
# its own, which no row lacks: a deleted row has no updated_at, and an edited one may have an older one. From one sync
# to the next it does not go back, whatever the clock does: the latest one is part of each state.
CURSOR: Final = "_ab_observed_at"
# Streams of which the tap remembers nothing: their state is when they were last read.
STATELESS: Final = ("businesses", "instances")
# Streams whose rows of a business may delete what the next one has: a webhook moves. So their cursors never go back,
# though a later business's answer may have been complete before.
DELETING: Final = ("webhooks", "webhook_events")
LEVELS: Final = {logging.CRITICAL: "FATAL", logging.ERROR: "ERROR", logging.WARNING: "WARN", logging.INFO: "INFO"}


class CommandError(Exception):
    """Why a command failed, in words for people; ``failure_type`` is one of Airbyte's."""

    def __init__(self, message: str, failure_type: str = "config_error") -> None:
        super().__init__(message)
        self.failure_type = failure_type


class _Record(msgspec.Struct):
    """A RECORD line of the tap, whose row passes through undecoded."""

    stream: str
    record: msgspec.Raw
    time_extracted: datetime


_decode_lines: Final = msgspec.json.Decoder(_Record).decode_lines
_encode_lines: Final = msgspec.json.Encoder().encode_lines


class AirbyteWriter(LineWriter):
    """Takes what the tap writes, and writes Airbyte's messages."""

    def __init__(self) -> None:
        super().__init__()
        self.log = LogMessages(self)
        self.states: dict[str, Any] = {}  # configured stream -> its state, until the tap has one
        self._whole = threading.Lock()  # threads log, too: nothing may come between the parts of a line
        self._running: set[str] = set()
        self._counts: Counter[str] = Counter()  # records since the last STATE
        self._cursors: dict[str, datetime] = {}  # stream with deletions -> the cursor of its last row
        self._latest: datetime | None = None  # cursor, of this sync or of those before
        self._ahead = timedelta(0)  # of the clock

    def go_on_from(self, latest: datetime) -> None:
        """Let the cursors of this sync be later than those before it: the clock may have been set back."""
        self._latest = latest
        self._ahead = max(self._ahead, latest + timedelta(microseconds=1) - datetime.now(timezone.utc))

    @override
    def write(self, lines: bytes) -> None:
        records = _decode_lines(lines)  # of one stream and one business
        name, cursor = records[0].stream, records[0].time_extracted + self._ahead
        if name not in self._running:
            self._running.add(name)
            self.status("RUNNING", name)
        if name in DELETING:
            last = self._cursors.get(name, cursor)
            if cursor < last:
                cursor = last + timedelta(microseconds=1)
            self._cursors[name] = cursor
        self._latest = max(self._latest or cursor, cursor)
        if name in STATELESS:
            self.states[name] = {"observed_at": self._latest}
        self._counts[name] += len(records)
        tail = b',"%b":%b}' % (CURSOR.encode(), msgspec.json.encode(cursor))
        rows = [msgspec.Raw(bytes(record.record)[:-1] + tail) for record in records]
        self.send(*({"type": "RECORD", "record": {"stream": name, "data": row, "emitted_at": _now()}} for row in rows))

    @override
    def write_message(self, message: Message) -> None:
        if not isinstance(message, StateMessage):
            return  # SCHEMA: Airbyte has the columns from discover
        bookmarks = message.value["bookmarks"]
        for name, state in self.states.items():
            remembered = bookmarks.get(name)
            if isinstance(remembered, dict):  # else it is the given one, with its own
                remembered = {CURSOR: self._latest, **remembered}
            stream = {"stream_descriptor": {"name": name}, "stream_state": remembered or state}
            counted = {"recordCount": self._counts.pop(name, 0)}
            self.send({"type": "STATE", "state": {"type": "STREAM", "stream": stream, "sourceStats": counted}})

    def status(self, status: str, *names: str) -> None:
        """Write how it stands with these streams, or with every one: STARTED, RUNNING, COMPLETE or INCOMPLETE."""
        for name in names or self.states:
            what = {"stream_descriptor": {"name": name}, "status": status}
            trace = {"type": "STREAM_STATUS", "emitted_at": _now(), "stream_status": what}
            self.send({"type": "TRACE", "trace": trace})

    def error(self, problem: CommandError) -> None:
        """Write why a command failed."""
        error = {"message": self.log.scrubbed(str(problem)), "failure_type": problem.failure_type}
        self.send({"type": "TRACE", "trace": {"type": "ERROR", "emitted_at": _now(), "error": error}})

    def send(self, *messages: dict[str, Any]) -> None:
        """Write messages; if nobody reads them any more, or they cannot be written, end."""
        try:
            with self._whole:
                write_stdout(_encode_lines(messages))
        except OSError as error:
            if threading.current_thread() is not threading.main_thread():
                return  # a thread that logs would end alone; the main thread's next message fails, too
            drop_stdout()
            closed = isinstance(error, BrokenPipeError)
            raise SystemExit(CLOSED_PIPE if closed else f"messages cannot be written: {error}") from None


class SilentWriter(LineWriter):
    """Takes what the tap writes, and drops it."""

    @override
    def write(self, lines: bytes) -> None:
        pass


class LogMessages(logging.Handler):
    """Writes log lines as LOG messages."""

    def __init__(self, writer: AirbyteWriter) -> None:
        super().__init__()
        self.writer = writer

    @override
    def emit(self, record: logging.LogRecord) -> None:
        level = LEVELS.get(record.levelno, "DEBUG")
        self.writer.send({"type": "LOG", "log": {"level": level, "message": self.format(record)}})

    def scrubbed(self, text: str) -> str:
        """Return a text without this run's secrets: the tap sees to it that every handler's formatter hides them."""
        return self.format(logging.makeLogRecord({"msg": text}))


def _now() -> int:
    return int(time.time() * 1000)
