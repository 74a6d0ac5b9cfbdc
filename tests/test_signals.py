"""The run ends well: on SIGTERM and SIGINT within seconds, on a closed pipe quietly; non-zero, and with no traceback.

Each test starts the tap as a process, waits until it is where it shall be, and ends it there.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import pytest

from tests.kit.faults import SURROUNDINGS, FaultServer, answer, settings, stall
from tests.kit.support import Run, run_cli

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kit.faults import Act, Connection

LATE: Final = 30  # seconds: what takes as long as that does not end by itself
PIPE: Final = 65536  # bytes that a pipe holds (less on some machines: then the tap waits earlier)
INSTANCES: Final = [
    {"instanceId": f"instance-{number}", "name": "x" * 500, "Webhook": [{"webhookId": f"webhook-{number}"}]}
    for number in range(3000)
]
BIG: Final = json.dumps({"Instances": INSTANCES}).encode()  # its rows are some MB
SIGNALS: Final = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]

both_signals = pytest.mark.parametrize(("number", "code"), SIGNALS, ids=["SIGTERM", "SIGINT"])


@contextmanager
def started(config: dict[str, Any], folder: Path, *, stdout: int | IO[bytes] = subprocess.PIPE) -> Iterator[Any]:
    """Start the tap with these settings; it is killed at the end of the block if it still runs."""
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name.upper() not in SURROUNDINGS}
    command = [sys.executable, "-m", "tap_instances", "--config", str(path)]
    process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env=environment)  # noqa: S603
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=LATE)


def log_line(process: subprocess.Popen[bytes], words: str) -> str:
    """Read the log up to the line with these words."""
    assert process.stderr is not None
    read = b""
    for line in process.stderr:
        read += line
        if words.encode() in line:
            return read.decode()
    raise AssertionError(read.decode())


def wait_until_the_pipe_is_full(pipe: IO[bytes]) -> None:
    """Wait until nothing more goes into a pipe: what is in it does not grow any more."""
    before, deadline = -1, time.monotonic() + LATE
    while time.monotonic() < deadline:
        now = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, struct.pack("i", 0)))[0]
        if now >= PIPE // 2 and now == before:
            return
        before = now
        time.sleep(0.1)
    raise AssertionError(before)


def check_quiet(log: bytes | str) -> None:
    """Check that nothing in the log says that something broke."""
    text = log if isinstance(log, str) else log.decode()
    for words in ("Traceback", "Exception ignored", "ERROR", "Aborted", "Fatal"):
        assert words not in text


def check_lines(out: bytes) -> None:
    """Check that every line is whole, but the last, after which nothing comes."""
    lines = out.split(b"\n")
    for line in lines[:-1]:
        json.loads(line)
    if lines[-1]:
        with pytest.raises(ValueError, match=r"line 1"):
            json.loads(lines[-1])
        assert lines[-1].startswith(b'{"type":"')


# ----------------------------------------------------------------------------------------------------------- signals


@both_signals
def test_a_signal_ends_slow_requests(number: int, code: int, tmp_path: Path) -> None:
    four = threading.Barrier(5)

    def slow(connection: Connection) -> None:
        four.wait(LATE)
        connection.wait()

    businesses = [{"business_id": f"b-{index}", "auth_token": "token-of-it"} for index in range(9)]
    with FaultServer(slow) as server:
        config = {"api_url": server.url, "businesses": businesses, "request_timeout": 600}
        with started(config, tmp_path) as process:
            four.wait(LATE)
            process.send_signal(number)
            out, log = process.communicate(timeout=LATE)
    assert process.returncode == code
    assert [json.loads(line)["type"] for line in out.splitlines()] == ["SCHEMA"] * 6
    check_quiet(log)


@both_signals
def test_a_signal_ends_a_wait_for_the_next_try(number: int, code: int, tmp_path: Path) -> None:
    with (
        FaultServer(answer(503, b"", Retry_After="290")) as server,
        started(settings(server.url), tmp_path) as process,
    ):
        log = log_line(process, "; try 2 of 3 in 290.0 s")
        process.send_signal(number)
        _, rest = process.communicate(timeout=LATE)
    assert process.returncode == code
    check_quiet(log + rest.decode())


@both_signals
def test_a_signal_ends_a_write_that_nobody_reads(number: int, code: int, tmp_path: Path) -> None:
    with FaultServer(answer(200, BIG)) as server, started(settings(server.url), tmp_path) as process:
        wait_until_the_pipe_is_full(process.stdout)
        process.send_signal(number)
        assert process.wait(timeout=LATE) == code
        out, log = process.communicate(timeout=LATE)
    assert out.count(b'"RECORD"') < len(INSTANCES)
    check_lines(out)
    check_quiet(log)


def test_a_second_signal_changes_nothing(tmp_path: Path) -> None:
    asked = threading.Event()

    def slow(connection: Connection) -> None:
        asked.set()
        connection.wait()

    with FaultServer(slow) as server, started(settings(server.url, request_timeout=600), tmp_path) as process:
        assert asked.wait(LATE)
        for _ in range(5):
            process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=LATE)
    assert process.returncode == 143
    check_quiet(log)


def test_a_killed_run_leaves_nothing_behind_and_the_next_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SURROUNDINGS:
        monkeypatch.delenv(name, raising=False)
    (files := tmp_path / "files").mkdir()
    monkeypatch.setenv("TMPDIR", str(files))
    with FaultServer(answer(200, BIG)) as server:
        with started(settings(server.url), tmp_path) as process:
            wait_until_the_pipe_is_full(process.stdout)
            process.kill()
            out, _ = process.communicate(timeout=LATE)
        assert list(files.iterdir()) == []
        killed = Run(process.returncode, out[: out.rfind(b"\n") + 1].decode(), "")
        assert killed.of("STATE") == []
        assert killed.of("ACTIVATE_VERSION") == []
        run = run_cli(settings(server.url))
    assert run.returncode == 0
    assert [len(run.records(stream)) for stream in ("instances", "webhooks")] == [len(INSTANCES)] * 2


@both_signals
def test_a_signal_ends_a_run_whose_log_nobody_reads(number: int, code: int, tmp_path: Path) -> None:
    businesses = [{"business_id": f"b-{index}-{'x' * 400}", "auth_token": "token-of-it"} for index in range(100)]
    with FaultServer(answer(503, b"")) as server:
        config = {"api_url": server.url, "businesses": businesses, "concurrency": 100, "max_retries": 100}
        with started(config, tmp_path) as process:
            wait_until_the_pipe_is_full(process.stderr)
            process.send_signal(number)
            assert process.wait(timeout=LATE) == code


# -------------------------------------------------------------------------------------------------------- a run's end

HANDLERS: Final = """
import atexit, logging

class AtTheEnd(logging.Handler):
    def __init__(self, path):
        super().__init__()
        self.lines = []
        atexit.register(lambda: open(path, "w").write("\\n".join(self.lines)))

    def emit(self, record):
        self.lines.append(self.format(record))
"""


def test_what_is_to_be_done_at_the_exit_is_done(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS, encoding="utf-8")
    handler = {"class": "handlers.AtTheEnd", "path": str(tmp_path / "log.txt")}
    layout = {"version": 1, "handlers": {"end": handler}, "root": {"handlers": ["end"], "level": "INFO"}}
    (tmp_path / "logging.yaml").write_text(json.dumps(layout), encoding="utf-8")
    around = {"SINGER_SDK_LOG_CONFIG": str(tmp_path / "logging.yaml"), "PYTHONPATH": str(tmp_path)}
    with FaultServer(answer(401, b"")) as server:
        run = run_cli(settings(server.url), env=around)
    assert run.returncode == 1
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "401 Unauthorized" in log  # though the configuration disables the loggers that it does not name
    assert "0 of 1 businesses read" in log


# ------------------------------------------------------------------------------------------------------ closed pipes


@pytest.mark.parametrize("act", [answer(200, BIG), stall()], ids=["while rows are written", "while the server is slow"])
def test_a_reader_that_goes_away_ends_the_run_quietly(act: Act, tmp_path: Path) -> None:
    with (
        FaultServer(act) as server,
        started({**settings(server.url), "request_timeout": 600}, tmp_path) as process,
    ):
        assert json.loads(process.stdout.readline())["type"] == "SCHEMA"
        process.stdout.close()
        log = process.stderr.read()
        assert process.wait(timeout=LATE) == 141
        process.stdout = None
    check_quiet(log)


def test_a_reader_that_never_was_ends_the_run_quietly(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed, FaultServer(answer()) as server:
        with started(settings(server.url), tmp_path, stdout=closed) as process:
            _, log = process.communicate(timeout=LATE)
        assert server.requests == []
    assert process.returncode == 141
    check_quiet(log)


@pytest.mark.parametrize("option", ["--discover", "--about", "--help"])
def test_a_reader_of_another_command_that_never_was_ends_it_quietly(option: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [sys.executable, "-m", "tap_instances", option]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, timeout=LATE, check=False)  # noqa: S603
    assert done.returncode != 0
    check_quiet(done.stderr)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_line(unbuffered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with (
        Path("/dev/full").open("wb") as full,
        FaultServer(answer()) as server,
        started(settings(server.url), tmp_path, stdout=full) as process,
    ):
        _, log = process.communicate(timeout=LATE)
    assert process.returncode == 1
    [line] = [line for line in log.decode().splitlines() if "ERROR" in line]
    assert "stdout cannot be written: No space left on device" in line
    assert b"Traceback" not in log
    assert b"Exception ignored" not in log


def test_no_stdout_at_all_is_one_line_of_the_airbyte_source_too() -> None:
    command = ["sh", "-c", 'exec "$0" -m source_codechat_instances spec >&-', sys.executable]
    done = subprocess.run(command, stderr=subprocess.PIPE, timeout=LATE, check=False)  # noqa: S603
    assert (done.returncode, done.stderr) == (1, b"stdout is closed: what the source writes goes there\n")


def test_a_reader_of_the_demo_that_goes_away_ends_it_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [sys.executable, "-c", "from demo.run import say; say('one line')"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, timeout=LATE, check=False)  # noqa: S603
    assert (done.returncode, done.stderr) == (141, b"")


def test_no_stdout_at_all_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with FaultServer(answer()) as server:
        path.write_text(json.dumps(settings(server.url)), encoding="utf-8")
        command = ["sh", "-c", 'exec "$0" -m tap_instances --config "$1" >&-', sys.executable, str(path)]
        done = subprocess.run(command, stderr=subprocess.PIPE, timeout=LATE, check=False)  # noqa: S603
    assert done.returncode == 1
    [line] = [line for line in done.stderr.decode().splitlines() if "ERROR" in line]
    assert "stdout is closed" in line
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_ctrl_c_while_the_tap_is_still_being_imported_ends_it_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "xxhash.py").write_text(
        "import sys, time\nprint('here', file=sys.stderr, flush=True)\ntime.sleep(30)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "tap_instances", "--version"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)  # noqa: S603
    try:
        log_line(process, "here")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=LATE)[1] == b""
        assert process.returncode == -signal.SIGINT  # as a shell reports it: 130
    finally:
        process.kill()
        process.communicate(timeout=LATE)
