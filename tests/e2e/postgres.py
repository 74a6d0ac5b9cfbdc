"""A real PostgreSQL that is thrown away: a cluster of its own in a temporary folder.

Debian's binaries are enough; nothing of an installed server is used or touched. Root
may not run PostgreSQL, so as root it runs as the user `postgres`, whom the binaries'
package has made.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/post*/bin",
)


class PostgresMissing(Exception):  # noqa: N818 - reads as what it says
    """No PostgreSQL server binaries are installed."""


def binaries() -> Path:
    """Find the folder with initdb and pg_ctl; of several versions the last."""
    found = [path for place in PLACES for path in sorted(Path("/").glob(f"{place[1:]}/initdb"))]
    on_path = shutil.which("initdb")
    if not found and on_path:
        found = [Path(on_path)]
    if not found:
        raise PostgresMissing("no PostgreSQL binaries here (Debian: apt-get install postgresql)")
    return found[-1].parent


@contextmanager
def cluster() -> Iterator[str]:
    """Start a cluster, give its URL, and remove every trace of it."""
    programs = binaries()
    # Not under a home, which the user postgres may not enter.
    folder = Path(tempfile.mkdtemp(prefix="tap-instances-pg-", dir="/tmp"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        as_user = [shutil.which("runuser") or "/usr/sbin/runuser", "-u", "postgres", "--"]
    data = folder / "data"
    control = [*as_user, str(programs / "pg_ctl"), "-D", str(data), "-w"]
    port = _free_port()
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c timezone=UTC"
    try:
        _run(
            [
                *as_user,
                *(str(programs / "initdb"), "-D", str(data), "--no-sync"),
                *("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"),
            ],
            folder,
        )
        _run([*control, "-l", str(folder / "log"), "-o", options, "start"], folder)
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            _run([*control, "-m", "immediate", "stop"], folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(  # noqa: S603 - no shell, and our own words
        command,
        cwd=folder,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    if done.returncode:
        log = folder / "log"
        more = log.read_text(encoding="utf-8") if log.exists() else ""
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{more}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
