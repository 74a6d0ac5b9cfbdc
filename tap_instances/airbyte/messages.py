"""Airbyte's messages on stdout: the tap's lines, translated as they are written, and its log lines."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any, Final

import msgspec
from typing_extensions import override

from tap_instances.sdk.output import CLOSED_PIPE, LineWriter, drop_stdout
from tap_instances.values import encode

# Airbyte's destinations keep, of the rows with a key, the one with the highest cursor. So the cursor is a column of
# its own, which no row lacks: a deleted row has no updated_at, and an edited one may have an older one.
CURSOR: Final = "_ab_observed_at"
LEVELS: Final = {logging.CRITICAL: "FATAL", logging.ERROR: "ERROR", logging.WARNING: "WARN", logging.INFO: "INFO"}


class CommandError(Exception):
    """Why a command failed, in words for people; ``failure_type`` is one of Airbyte's."""

    def __init__(self, message: str, failure_type: str = "config_error", internal: str | None = None) -> None:
        super().__init__(message)
        self.failure_type, self.internal = failure_type, internal or message


class Progress(msgspec.Struct):
    """How far a configured stream is."""

    remembers: bool  # whether the tap's own state has something of it
    state: Any  # if not: when it was last read
    records: int = 0  # since the last STATE
    running: bool = False


class _Bookmarks(msgspec.Struct, frozen=True):
    bookmarks: dict[str, msgspec.Raw] = {}


class _Line(msgspec.Struct):
    """A line of the tap; rows and states pass through undecoded."""

    type: str
    stream: str = ""
    record: msgspec.Raw = msgspec.Raw(b"{}")
    time_extracted: str = ""
    value: _Bookmarks = _Bookmarks()


_decode: Final = msgspec.json.Decoder(_Line).decode


class AirbyteWriter(LineWriter):
    """Takes the tap's Singer lines and writes Airbyte's messages, for the streams in ``progress``."""

    def __init__(self) -> None:
        super().__init__()
        self.progress: dict[str, Progress] = {}
        self.log = LogMessages(self)
        self._lock = threading.RLock()  # threads log
        self._ended: int | None = None  # the exit code, once nothing more can be written

    @override
    def write(self, lines: bytes) -> None:
        out: list[bytes] = []
        of: tuple[str, str] | None = None
        for text in lines.split(b"\n")[:-1]:
            line = _decode(text)
            if line.type == "STATE":
                out += [_encoded(message) for message in self._states(line.value.bookmarks)]
            if line.type != "RECORD":
                continue
            if of != (line.stream, line.time_extracted):
                of, progress = (line.stream, line.time_extracted), self.progress[line.stream]
                head = b'{"type":"RECORD","record":{"stream":%b,"data":' % encode(line.stream)
                tail = b',"%b":%b},"emitted_at":%d}}\n' % (CURSOR.encode(), encode(line.time_extracted), _now())
                if not progress.running:
                    progress.running = True
                    out.append(_encoded(_status(line.stream, "RUNNING")))
                if not progress.remembers:
                    progress.state = {"observed_at": line.time_extracted}
            progress.records += 1
            out += (head, bytes(line.record)[:-1], tail)
        self._put(b"".join(out))

    def _states(self, bookmarks: dict[str, msgspec.Raw]) -> list[dict[str, Any]]:
        messages = []
        for name, progress in self.progress.items():
            state = bookmarks.get(name, {}) if progress.remembers else progress.state
            stream = {"stream_descriptor": {"name": name}, "stream_state": state}
            counted, progress.records = {"recordCount": progress.records}, 0
            messages.append({"type": "STATE", "state": {"type": "STREAM", "stream": stream, "sourceStats": counted}})
        return messages

    def send(self, message: dict[str, Any]) -> None:
        """Write a message."""
        self._put(_encoded(message))

    def status(self, status: str) -> None:
        """Write how it stands with every stream: STARTED, COMPLETE or INCOMPLETE."""
        for name in self.progress:
            self.send(_status(name, status))

    def connection_status(self, problem: CommandError | None) -> None:
        """Write the result of ``check``."""
        status = {"status": "SUCCEEDED"}
        if problem:
            status = {"status": "FAILED", "message": self.log.scrubbed(str(problem))}
        self.send({"type": "CONNECTION_STATUS", "connectionStatus": status})

    def error(self, problem: CommandError) -> None:
        """Write why a command failed."""
        texts = {"message": str(problem), "internal_message": problem.internal}
        error = {name: self.log.scrubbed(text) for name, text in texts.items()} | {"failure_type": problem.failure_type}
        self.send({"type": "TRACE", "trace": {"type": "ERROR", "emitted_at": _now(), "error": error}})

    def _put(self, data: bytes) -> None:
        with self._lock:
            if self._ended is not None:
                raise SystemExit(self._ended)
            try:
                super().write(data)
            except SystemExit:
                self._ended = CLOSED_PIPE
                raise
            except OSError as error:  # a full disk, say: there is no other place for messages
                self._ended = 1
                drop_stdout()
                sys.stderr.write(f"messages cannot be written: {error}\n")
                raise SystemExit(1) from None


class LogMessages(logging.Handler):
    """Writes log lines as LOG messages."""

    def __init__(self, writer: AirbyteWriter) -> None:
        super().__init__()
        self.writer = writer

    @override
    def emit(self, record: logging.LogRecord) -> None:
        level = next((name for least, name in LEVELS.items() if record.levelno >= least), "DEBUG")
        try:
            self.writer.send({"type": "LOG", "log": {"level": level, "message": self.format(record)}})
        except SystemExit:  # nobody reads any more; in a thread this would end the thread alone
            if threading.current_thread() is threading.main_thread():
                raise

    def scrubbed(self, text: str) -> str:
        """Return a text without this run's secrets: the tap sees to it that every handler's formatter hides them."""
        return self.format(logging.makeLogRecord({"msg": text}))


def _now() -> int:
    return int(time.time() * 1000)


def _encoded(message: dict[str, Any]) -> bytes:
    return encode(message) + b"\n"


def _status(stream: str, status: str) -> dict[str, Any]:
    what = {"stream_descriptor": {"name": stream}, "status": status}
    return {"type": "TRACE", "trace": {"type": "STREAM_STATUS", "emitted_at": _now(), "stream_status": what}}
