"""How tests run ``source-codechat-instances``: every message is checked against the models of Airbyte's protocol.

``python -m tests.kit.airbyte`` writes the files of ``airbyte/integration_tests`` anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from airbyte_protocol_dataclasses.models import AirbyteMessage, AirbyteStateBlob

from demo.codechat import CodeChat, World
from source_codechat_instances.messages import CURSOR
from source_codechat_instances.source import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

COMMAND: Final = (sys.executable, "-m", "source_codechat_instances")
FREE: Final = (AirbyteStateBlob,)  # models that take any keys


def check_message(message: dict[str, Any]) -> None:
    """Fail if a message is not as the protocol's models have it: a value of another type, or a key they lack."""
    _check_keys(message, msgspec.convert(message, AirbyteMessage))
    bodies = set(message) - {"type"}
    assert len(bodies) == 1, f"one message, one body: {bodies}"


def _check_keys(value: Any, model: Any) -> None:  # noqa: ANN401
    if isinstance(model, FREE):
        return
    if isinstance(model, list):
        for item, its_model in zip(value, model, strict=True):
            _check_keys(item, its_model)
    elif dataclasses.is_dataclass(model):
        known = {field.name for field in dataclasses.fields(model)}
        assert set(value) <= known, f"{type(model).__name__} has no {set(value) - known}"
        for name, inner in value.items():
            _check_keys(inner, getattr(model, name))


@dataclass
class Output:
    """What a command gave: its exit code, its messages in order, and what it wrote to stderr."""

    returncode: int
    stdout: str
    stderr: str = ""

    def __post_init__(self) -> None:
        self.messages: list[dict[str, Any]] = [json.loads(line) for line in self.stdout.split("\n") if line]
        for message in self.messages:
            check_message(message)

    def of(self, kind: str) -> list[Any]:
        """Return the bodies of the messages of a type."""
        field = {"CONNECTION_STATUS": "connectionStatus"}.get(kind, kind.lower())
        return [message[field] for message in self.messages if message["type"] == kind]

    def records(self, stream: str) -> list[dict[str, Any]]:
        """Return the records of a stream, in order."""
        return [record["data"] for record in self.of("RECORD") if record["stream"] == stream]

    def log(self, level: str) -> list[str]:
        """Return the log lines of a level."""
        return [log["message"] for log in self.of("LOG") if log["level"] == level]

    @property
    def statuses(self) -> dict[str, list[str]]:
        """Return each stream's statuses, in order."""
        found: dict[str, list[str]] = {}
        for trace in self.of("TRACE"):
            if trace["type"] == "STREAM_STATUS":
                status = trace["stream_status"]
                found.setdefault(status["stream_descriptor"]["name"], []).append(status["status"])
        return found

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Return the TRACE messages of type ERROR."""
        return [trace["error"] for trace in self.of("TRACE") if trace["type"] == "ERROR"]

    @property
    def state(self) -> list[dict[str, Any]]:
        """Return what Airbyte keeps and gives back: the last state of each stream, as it came."""
        last = {state["stream"]["stream_descriptor"]["name"]: state for state in self.of("STATE")}
        return list(last.values())

    @property
    def streams(self) -> dict[str, dict[str, Any]]:
        """Return the discovered streams by name."""
        return {stream["name"]: stream for stream in self.of("CATALOG")[0]["streams"]}


def configured(streams: dict[str, dict[str, Any]], *names: str, **modes: str) -> dict[str, Any]:
    """Return a configured catalog of these discovered streams, or all, incremental where no mode is given."""
    return {
        "streams": [
            {
                "stream": streams[name],
                "sync_mode": modes.get(name, "incremental"),
                "destination_sync_mode": "append_dedup",
                "cursor_field": streams[name]["default_cursor_field"],
                "primary_key": streams[name]["source_defined_primary_key"],
            }
            for name in names or streams
        ]
    }


@contextlib.contextmanager
def arguments(command: str, **inputs: Any) -> Iterator[list[str]]:  # noqa: ANN401
    """Give a command's arguments, with the inputs as files; bytes go into the file as they are."""
    with tempfile.TemporaryDirectory() as folder:
        made = [command]
        for option, value in inputs.items():
            path = Path(folder, f"{option}.json")
            path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
            made += [f"--{option}", str(path)]
        yield made


def airbyte(command: str, **inputs: Any) -> Output:  # noqa: ANN401
    """Run a command in this process."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n")
    with arguments(command, **inputs) as made, contextlib.redirect_stdout(out):
        code = run(made)
    out.flush()
    return Output(code, out.buffer.getvalue().decode())


def airbyte_cli(*args: str, env: dict[str, str] | None = None) -> Output:
    """Run a command as a process."""
    done = subprocess.run([*COMMAND, *args], capture_output=True, timeout=60, env=os.environ | (env or {}), check=False)  # noqa: S603
    return Output(done.returncode, done.stdout.decode(), done.stderr.decode())


def discovered(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the streams that these settings have."""
    return airbyte("discover", config=config).streams


def read(
    config: dict[str, Any],
    *names: str,
    state: list[dict[str, Any]] | None = None,
    **modes: str,
) -> Output:
    """Read streams, all if none is named, in this process."""
    inputs: dict[str, Any] = {"config": config, "catalog": configured(discovered(config), *names, **modes)}
    return airbyte("read", **inputs, **({} if state is None else {"state": state}))


# ------------------------------------------------------------------------------ the files of airbyte/integration_tests

INTEGRATION_TESTS: Final = Path(__file__).parent.parent.parent / "airbyte" / "integration_tests"
NOW: Final = "2026-11-25T12:00:00Z"  # stands for whatever time it is
PORT: Final = 8080


def world() -> World:
    """Return what `python -m demo.codechat --businesses 1 --instances 4` serves."""
    return World.seeded(businesses=1, instances=4)


def timeless(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return RECORD bodies as had they been read at NOW."""
    times = {CURSOR, "observed_at", "previous_observed_at"}
    made = []
    for record in records:
        data = {name: NOW if name in times else value for name, value in record["data"].items()}
        made.append({"stream": record["stream"], "data": data, "emitted_at": 1795608000000})
    return made


def integration_tests() -> dict[str, str]:
    """Return file name -> what it must hold."""
    business = next(iter(world().businesses.values()))
    config = {"api_url": f"http://127.0.0.1:{PORT}", "business_id": business.id, "auth_token": business.token}
    with CodeChat(world()) as server:
        found = read(config | {"api_url": server.url})
        catalog = configured(discovered(config))
    for stream in catalog["streams"]:
        stream["stream"]["json_schema"] = {}  # all columns
    # As of a clock that is far ahead: times decide nothing, so all is read that is not remembered.
    late = "9999-12-31T23:59:59Z"
    of_business = {"context": {"business_id": business.id}, "version": 2, "replication_key_value": late}
    partitions: dict[str, dict[str, Any]] = {
        "webhooks": {"replication_key": "updated_at", "observed_at": late, "seen": {}},
        "webhook_events": {"replication_key": "updated_at", "observed_at": late, "seen": {}},
        "connection_changes": {"replication_key": "observed_at", "seen": []},
        "observations": {"replication_key": "observed_at"},
    }
    state = [
        {
            "type": "STREAM",
            "stream": {"stream_descriptor": {"name": name}, "stream_state": {"partitions": [of_business | partition]}},
        }
        for name, partition in partitions.items()
    ]
    return {
        "config.json": _pretty(config),
        "invalid_config.json": _pretty(config | {"auth_token": "not-the-token-of-this-business"}),
        "configured_catalog.json": _pretty(catalog),
        "abnormal_state.json": _pretty(state),
        "expected_records.jsonl": "".join(
            f"{json.dumps(r, ensure_ascii=False)}\n" for r in timeless(found.of("RECORD"))
        ),
    }


def _line(value: Any) -> str:  # noqa: ANN401
    return json.dumps(value, ensure_ascii=False)


def _pretty(value: Any) -> str:  # noqa: ANN401
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


if __name__ == "__main__":
    for file_name, text in integration_tests().items():
        (INTEGRATION_TESTS / file_name).write_text(text, encoding="utf-8")
