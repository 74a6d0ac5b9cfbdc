"""Where messages go: stdout, in whole lines."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Final

from singer_sdk.singerlib.encoding.base import GenericSingerWriter
from singer_sdk.singerlib.messages import Message, StateMessage
from typing_extensions import override

from tap_instances.values import encode

CLOSED_PIPE: Final = 141  # 128 + SIGPIPE, as a shell reports it


class LineWriter(GenericSingerWriter[bytes, Message]):
    """Writes messages to stdout as they are, a page of lines at a time.

    The SDK's writers flush each message, copy each STATE whole, and end in a traceback on a closed pipe.
    """

    @override
    def serialize_message(self, message: Message) -> bytes:
        if isinstance(message, StateMessage):  # its to_dict would copy it whole
            return encode({"type": "STATE", "value": message.value}) + b"\n"
        return encode(message.to_dict()) + b"\n"

    @override
    def write_message(self, message: Message) -> None:
        self.write(self.serialize_message(message))

    def write(self, lines: bytes) -> None:
        """Write whole lines; end quietly if nobody reads them any more."""
        try:
            if (buffer := getattr(sys.stdout, "buffer", None)) is None:
                sys.stdout.write(lines.decode())  # a test's text stream
            else:
                buffer.write(lines)
            sys.stdout.flush()
        except BrokenPipeError:
            drop_stdout()
            raise SystemExit(CLOSED_PIPE) from None


def drop_stdout() -> None:
    """Point stdout at the null device: nothing more is written, and the exit's own flush cannot block or fail."""
    with suppress(OSError, ValueError, AttributeError):  # there may be no stdout, or none that is a file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
