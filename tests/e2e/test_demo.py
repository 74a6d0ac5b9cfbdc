"""What a stranger sees first: `make demo`."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys

import pytest

from demo.answers import ANSWERS
from demo.project import ROOT
from demo.run import QUESTIONS

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("plugins")]
COMMAND = [sys.executable, "-u", "-m", "demo.run"]


def test_the_demo_shows_every_table_and_answers_its_questions() -> None:
    shown = subprocess.run(  # noqa: S603 - our own module
        COMMAND, cwd=ROOT, check=False, capture_output=True, text=True, timeout=300
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    counts = dict(re.findall(r"^(\w+) \((\d+) rows\)$", shown.stdout, re.MULTILINE))
    assert list(counts) == [
        "businesses",
        "instances",
        "webhooks",
        "webhook_events",
        "connection_changes",
        "observations",
    ]
    assert all(int(count) for count in counts.values())
    for question, _ in (*QUESTIONS, *ANSWERS):
        assert f"-- {question}" in shown.stdout
    assert "(none)" not in shown.stdout, "every question has an answer"
    assert "not-a-real" not in shown.stdout, "no token, JWT or URL password"


def test_a_demo_that_is_stopped_stops_its_server() -> None:
    with subprocess.Popen(  # noqa: S603 - our own module
        COMMAND, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout
        try:
            for line in demo.stdout:
                found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
                if found:
                    break
            assert found
            address = ("127.0.0.1", int(found[1]))
            socket.create_connection(address, timeout=5).close()
        finally:
            demo.send_signal(signal.SIGTERM)
        rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == 128 + signal.SIGINT, rest
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
