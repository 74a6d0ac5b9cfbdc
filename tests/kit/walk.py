"""Runs what the pages tell a reader to type: in an empty home, with a bare environment."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.kit.pages import blocks, files
from tools.docs import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LONGEST = 200  # seconds
# Where the machine gets packages and certificates from: no business of a page's.
MACHINE = ("PIP_", "UV_", "SSL_", "REQUESTS_")


def commands(page: str, text: str) -> str:
    """Return the one block of commands of a page that holds this text."""
    [block] = [block.text for block in blocks("sh") if block.page == page and text in block.text]
    return block


def clone(folder: Path) -> Path:
    """Copy the project's files into a folder, as `git clone` and `make demo` leave it; environments are links."""
    for name in files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv-meltano").symlink_to(ROOT / ".venv-meltano")
    (folder / ".meltano").mkdir()
    for kind in ("extractors", "loaders"):
        (folder / ".meltano" / kind).symlink_to(ROOT / ".meltano" / kind)
    return folder


def tap_in(folder: Path) -> Path:
    """Return a folder for `PATH` with the command `tap-instances`, as an installation puts it there."""
    folder.mkdir(parents=True, exist_ok=True)
    command = folder / "tap-instances"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tap_instances "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return folder


def bash(
    script: str, folder: Path, *, path: tuple[Path, ...] = (), environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run commands one after another until one fails; its output and its log come together."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    cleanup = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"  # a server in the background holds the output open
    return subprocess.run(  # noqa: S603 (what our own pages say)
        ["bash", "-euo", "pipefail", "-c", cleanup + script],  # noqa: S607
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name.startswith(MACHINE)}
        | {"LANG": "C.UTF-8", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        | dict(environment or {})
        | {"HOME": str(home), "PATH": os.pathsep.join([*map(str, path), "/usr/local/bin", "/usr/bin", "/bin"])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST,
        check=False,
    )


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
