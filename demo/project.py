"""A throwaway Meltano project: the clone's pipeline, and nothing of anybody's own.

`Project(folder)` copies the clone's meltano.yml into a folder and links the plugins
that are installed in the clone, so that nothing is installed twice. State, log and
output are the folder's. Neither the clone's `.env` nor the caller's settings in the
environment are seen: no run of it can reach a real server or warehouse.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parent.parent
# What could point a run at something real, or at another project's state.
FOREIGN = ("MELTANO_", "TAP_INSTANCES_", "TARGET_", "DBT_", "PG")
LONGEST_RUN = 300  # seconds


class MeltanoMissing(Exception):  # noqa: N818 - reads as what it says
    """There is no Meltano to run."""


def find_meltano() -> Path:
    """Find the Meltano that `make` has set up, else one on the PATH."""
    own = ROOT / ".venv-meltano" / "bin" / "meltano"
    found = own if own.exists() else shutil.which("meltano")
    if found is None:
        raise MeltanoMissing("Meltano is not installed: run `make demo` or `make test` once.")
    return Path(found)


class Project:
    """A Meltano project in a folder of its own, made when it is not there."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        """Make the project; `settings` are environment variables for every run."""
        self.folder = folder
        self.log = folder / "meltano.log"
        self.output = folder / "output"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)} | {
            "NO_COLOR": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        self.environment |= settings or {}
        plugins = folder / ".meltano"
        plugins.mkdir(parents=True, exist_ok=True)
        self.output.mkdir(exist_ok=True)
        shutil.copy(ROOT / "meltano.yml", folder)
        for kind in ("extractors", "loaders", "utilities"):
            if not (plugins / kind).exists():
                (plugins / kind).symlink_to(ROOT / ".meltano" / kind)
        if not (folder / "dbt").exists():
            (folder / "dbt").symlink_to(ROOT / "dbt")

    def meltano(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run Meltano and wait; what it said is also added to the log.

        It gets a process group of its own, and when the waiting ends early, by Ctrl-C
        or because it takes too long, the group is ended: no tap or loader stays behind.
        """
        command = [str(find_meltano()), *arguments]
        with subprocess.Popen(  # noqa: S603 - no shell, and our own words
            command,
            cwd=self.folder,
            env=self.environment | settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=LONGEST_RUN)
            except BaseException:
                _end_group(process)
                raise
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ meltano {' '.join(arguments)}\n{said}\n")
        return subprocess.CompletedProcess(command, process.returncode, said)


def _end_group(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)


def install(*plugins: str) -> None:
    """Install plugins in the clone, where they are not: the projects link to them."""
    missing = [plugin for plugin in plugins if not list((ROOT / ".meltano").glob(f"*/{plugin}/venv/bin/{plugin}"))]
    if missing:
        subprocess.run(  # noqa: S603 - no shell, and our own words
            [str(find_meltano()), "install", *missing],
            cwd=ROOT,
            check=True,
            stdout=sys.stderr,
            timeout=LONGEST_RUN,
        )
