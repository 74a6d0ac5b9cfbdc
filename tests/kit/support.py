"""How tests run the tap: as its own process (:func:`run_cli`), or, quicker, inside this one (:func:`sync`)."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from singer_sdk.exceptions import ConfigValidationError

from tap_instances.tap import TapInstances

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTED: Final = Path(__file__).parent.parent / "data" / "connected.json"  # the API's own example
COUNTS: Final = {  # of its records
    "businesses": 1,
    "instances": 2,
    "webhooks": 3,
    "webhook_events": 3,
    "connection_changes": 2,
    "observations": 1,
}
TOKEN: Final = "not-a-real-business-token-4b1d"


@dataclass
class Run:
    """What a run gave: its exit code, its messages in order, and its log lines."""

    returncode: int
    stdout: str
    stderr: str
    messages: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # U+2028 may stand raw inside a line: "\n" alone ends one.
        self.messages = [json.loads(line) for line in self.stdout.split("\n") if line.startswith('{"type"')]

    def of(self, kind: str, stream: str | None = None) -> list[dict[str, Any]]:
        """Return the messages of a type, and of a stream if one is named."""
        return [m for m in self.messages if m["type"] == kind and stream in {None, m.get("stream")}]

    def records(self, stream: str) -> list[dict[str, Any]]:
        """Return the records of a stream, in order."""
        return [message["record"] for message in self.of("RECORD", stream)]

    def lines(self, level: str) -> list[str]:
        """Return the log lines of a level."""
        return [line for line in self.stderr.splitlines() if level in line]

    @property
    def state(self) -> dict[str, Any]:
        """Return the value of the last STATE."""
        value: dict[str, Any] = self.of("STATE")[-1]["value"]
        return value


class Parts(io.RawIOBase):
    """A file that takes a part of what is written, as a pipe may whose reader is slow."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        """Say so, as a file does."""
        return True

    def write(self, data: Any, /) -> int:  # noqa: ANN401
        """Take some of it."""
        part = bytes(data[:100])
        self.taken += part
        return len(part)


class Unbuffered(io.TextIOWrapper):
    """A stdout as PYTHONUNBUFFERED makes it."""

    def __init__(self) -> None:
        self.raw = Parts()
        super().__init__(self.raw, write_through=True)  # type: ignore[arg-type]  # Python itself does so


def run_cli(
    config: dict[str, Any] | None,
    *args: str,
    state: Any = None,  # noqa: ANN401
    catalog: dict[str, Any] | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 60,
) -> Run:
    """Run ``python -m tap_instances`` with these inputs as files."""
    command = [sys.executable, "-m", "tap_instances"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAP_INSTANCES_")}
    with tempfile.TemporaryDirectory() as folder:
        for option, value in (("config", config), ("state", state), ("catalog", catalog)):
            if value is not None:
                path = Path(folder) / f"{option}.json"
                path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
                command += [f"--{option}", str(path)]
        done = subprocess.run(  # noqa: S603
            [*command, *args], capture_output=True, env=environment | (env or {}), timeout=timeout, check=False
        )
    return Run(done.returncode, done.stdout.decode(), done.stderr.decode())


@contextlib.contextmanager
def logged(layout: str) -> Iterator[io.StringIO]:
    """Give what is logged at INFO and above while the block lasts, in this layout."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter(layout))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield log
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def sync(config: dict[str, Any], *, state: dict[str, Any] | None = None, catalog: dict[str, Any] | None = None) -> Run:
    """Run a sync in this process; inputs are copied, so that the tap cannot change them."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n")
    code: Any = 0
    with logged("%(levelname)s %(name)s %(message)s") as log:
        try:
            with contextlib.redirect_stdout(out):
                inputs = {"config": config, "state": state, "catalog": catalog}
                copies: dict[str, Any] = {name: json.loads(json.dumps(value)) for name, value in inputs.items()}
                TapInstances(**copies).sync_all()
        except SystemExit as end:
            code = end.code
    out.flush()
    return Run(int(code or 0), out.buffer.getvalue().decode(), log.getvalue())


def refusals(config: dict[str, Any]) -> list[str]:
    """Return the lines with which settings are refused; none if they are taken."""
    try:
        TapInstances(config=config)
    except ConfigValidationError as error:
        return error.errors
    return []


def discover(**config: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the discovered catalog, everything selected."""
    catalog: dict[str, Any] = json.loads(json.dumps(TapInstances(config=config, validate_config=False).catalog_dict))
    return catalog


def select(catalog: dict[str, Any], *streams: str) -> dict[str, Any]:
    """Select these streams in the catalog, and no others."""
    for entry in catalog["streams"]:
        for metadata in entry["metadata"]:
            if not metadata["breadcrumb"]:
                metadata["metadata"]["selected"] = entry["tap_stream_id"] in streams
    return catalog
