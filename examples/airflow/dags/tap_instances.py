"""CodeChat into PostgreSQL every hour, on any number of machines: a business is a task with a state of its own.

`businesses` lists the ids of the server's businesses; `sync` is mapped over them, as many at a time as the pool has
slots. A task runs `tap-instances --config=ENV | target-postgres --config=ENV`; both commands must be on each worker's
PATH. The tap finds each business's token by the admin token: no list of businesses or tokens is kept here.

From Airflow's secrets backend, or AIRFLOW_VAR_… and AIRFLOW_CONN_… in the workers' environment:

    Variable    codechat_api_url      base URL of the CodeChat server
    Variable    codechat_admin_token  the server's admin token
    Variable    codechat_state        a folder that every worker reaches: file:///…, s3://…
    Connection  warehouse             the PostgreSQL to load into
    Pool        codechat              its slots are how many businesses are read at a time

The admin token is read inside the tasks, and handed on in the environment of one process: it is in no XCom, no command
line and no log.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

from airflow.sdk import Connection, ObjectStoragePath, Variable, dag, get_current_context, task
from airflow.sdk.log import mask_secret


@dag(
    dag_id="tap_instances",
    schedule="@hourly",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,  # the API tells what is connected now: a missed hour cannot be read later
    max_active_runs=1,  # so that no two runs share a business's state
    doc_md=__doc__,
)
def tap_instances() -> None:
    """Map the businesses to tasks."""

    @task
    def businesses() -> list[str]:
        """List the ids of all businesses; one that is added or removed needs no deployment."""
        url = f"{Variable.get('codechat_api_url').rstrip('/')}/api/v2/admin/business"
        request = Request(url, headers={"Authorization": f"Bearer {admin_token()}"})  # noqa: S310 (from the settings)
        with urlopen(request, timeout=60) as response:  # noqa: S310
            return sorted(entry["businessId"] for entry in json.load(response) if not entry.get("deletedAt"))

    # The tap itself tries again what can pass; these tries are for the worker, the warehouse, and a token just changed.
    @task(
        pool="codechat",
        retries=2,
        retry_delay=timedelta(seconds=20),
        execution_timeout=timedelta(minutes=30),
        map_index_template="{{ business }}",
    )
    def sync(business_id: str) -> None:
        """Read one business, load it, and keep the state of what was loaded."""
        get_current_context()["business"] = business_id
        tap = {
            "TAP_INSTANCES_API_URL": Variable.get("codechat_api_url"),
            "TAP_INSTANCES_BUSINESSES": json.dumps([{"business_id": business_id}]),
            "TAP_INSTANCES_ADMIN_TOKEN": admin_token(),
        }
        uri = Connection.get("warehouse").get_uri()
        target = {
            "TARGET_POSTGRES_SQLALCHEMY_URL": f"postgresql+psycopg://{uri.partition('://')[2]}",
            "TARGET_POSTGRES_DEFAULT_TARGET_SCHEMA": "codechat",
            "PGTZ": "UTC",  # the loader's columns have no zone
        }
        state = ObjectStoragePath(Variable.get("codechat_state")) / f"{quote(business_id, safe='')}.json"
        pipe(tap, target, state)

    sync.expand(business_id=businesses())


def admin_token() -> str:
    """Return the server's admin token; Airflow hides it in logs."""
    token = Variable.get("codechat_admin_token")
    mask_secret(token)
    return token


def pipe(tap_settings: dict[str, str], target_settings: dict[str, str], state: ObjectStoragePath) -> None:
    """Run `tap | target` from the state that is kept; keep the last one that the target has loaded, whatever failed."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["tap-instances", "--config=ENV"]
        if state.exists():
            before = Path(folder, "state.json")
            before.write_text(state.read_text())
            command += ["--state", str(before)]
        # In a folder of their own: --config=ENV would read a .env found here.
        with (
            subprocess.Popen(  # noqa: S603 (no shell; its words are ours)
                command, stdout=subprocess.PIPE, env=os.environ | tap_settings, cwd=folder
            ) as tap,
            subprocess.Popen(
                ["target-postgres", "--config=ENV"],  # noqa: S607 (wherever the worker has it)
                stdin=tap.stdout,
                stdout=subprocess.PIPE,
                env=os.environ | target_settings,
                cwd=folder,
            ) as target,
        ):
            tap.stdout.close()  # the target's alone: the tap sees it when the target ends
            try:
                loaded = [line for line in target.stdout if line.endswith(b"\n")]
            except BaseException:  # a timeout, or somebody stops the task
                tap.terminate()
                target.terminate()
                raise
    if loaded:
        keep(loaded[-1].decode(), state)
    if tap.returncode or target.returncode:
        raise RuntimeError(f"tap-instances ended with {tap.returncode}, target-postgres with {target.returncode}")


def keep(text: str, state: ObjectStoragePath) -> None:
    """Write a file at once or not at all."""
    state.parent.mkdir(parents=True, exist_ok=True)
    new = state.with_name(f"{state.name}.new")
    new.write_text(text)
    new.replace(state)


tap_instances()
