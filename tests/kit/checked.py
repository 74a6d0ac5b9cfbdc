"""Runs whose every message was checked: each RECORD against the SCHEMA before it, formats included."""

from __future__ import annotations

import contextlib
import io
from typing import Any, Final

from jsonschema import Draft202012Validator

from demo.codechat import Answer, CodeChat, Request, World
from tap_instances.tap import TapInstances
from tests.kit.support import TOKEN, Run, logged, sync

BUSINESS: Final = "9531985d-5d9d-49f8-9818-e811892f902b"  # of connected.json
STREAMS: Final = ("businesses", "instances", "webhooks", "webhook_events", "connection_changes", "observations")


def settings(server: CodeChat, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what reads connected.json's business from this server; ``None`` takes a setting away."""
    config = {"api_url": server.url, "business_id": BUSINESS, "auth_token": TOKEN, "max_retries": 0} | more
    return {name: value for name, value in config.items() if value is not None}


def checked(run: Run) -> Run:
    """Return the run, if each stream has one SCHEMA, before its first RECORD, and each RECORD is valid against it."""
    validators: dict[str, Draft202012Validator] = {}
    columns: dict[str, set[str]] = {}
    for message in run.messages:
        stream = str(message.get("stream"))
        if message["type"] == "SCHEMA":
            assert stream not in validators, f"a second SCHEMA for {stream}"
            Draft202012Validator.check_schema(message["schema"])
            checker = Draft202012Validator.FORMAT_CHECKER
            assert "date-time" in checker.checkers, "rfc3339-validator is not installed"
            validators[stream] = Draft202012Validator(message["schema"], format_checker=checker)
            columns[stream] = set(message["schema"]["properties"])
        elif message["type"] == "RECORD":
            validators[stream].validate(message["record"])
            assert set(message["record"]) <= columns[stream]
    return run


def read(body: Any, *, headers: dict[str, str] | None = None, **more: Any) -> Run:  # noqa: ANN401
    """Sync a server that answers 200 with this body (bytes go out as they are); the run is checked.

    ``state`` and ``catalog`` go to the tap, all else is settings.
    """

    def respond(_: Request) -> Answer:
        return Answer(200, body, headers or {})

    inputs = {name: more.pop(name, None) for name in ("state", "catalog")}
    with CodeChat(World([]), respond=respond) as server:
        return checked(sync(settings(server, **more), **inputs))


def command(*args: str) -> Run:
    """Run the command line in this process: all of it but the way that it logs."""
    out = io.StringIO()
    code: Any = None
    with logged("%(levelname)s %(message)s") as log:
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(log):
                TapInstances.get_singer_command().main(list(args), prog_name="tap-instances")
        except SystemExit as end:
            code = end.code
    return Run(int(code or 0), out.getvalue(), log.getvalue())
