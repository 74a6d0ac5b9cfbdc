"""Every Python, and the ends of the dependencies' ranges: `make pythons`, or `make pythons NOX='-s lowest'`.

A Python that is not on this machine is skipped with a message; where CI is set, it fails.
"""

from __future__ import annotations

from pathlib import Path

import nox

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
ENVIRONMENTS = Path(".venv-nox", "environments")

nox.options.envdir = str(ENVIRONMENTS)
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """Run the quick tests with the newest dependencies that are declared."""
    session.install("--upgrade", "--group", "test", "--editable", ".")
    _test(session)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run them with the lowest; what only tests need may be newer."""
    session.install("--resolution", "lowest-direct", "--editable", ".")
    session.install("--group", "test")
    _test(session)


@nox.session(python=PYTHONS)
def wheel(session: nox.Session) -> None:
    """Install the wheel where nothing else is, and use it."""
    built = Path(session.create_tmp())
    for old in built.glob("*.whl"):
        old.unlink()
    session.run("uv", "build", "--quiet", "--wheel", "--out-dir", str(built), external=True)
    session.install(*map(str, built.glob("*.whl")))
    session.run("python", "-m", "tools.try_installed", f"{session.bin}/tap-instances")


def _test(session: nox.Session) -> None:
    packages = ("singer-sdk", "msgspec", "requests", "typing-extensions", "urllib3")
    versions = "import importlib.metadata as m, sys; print(*(f'{p} {m.version(p)}' for p in sys.argv[1:]), sep=', ')"
    session.run("python", "-c", versions, *packages)
    session.run("python", "-m", "pytest", "-q", "-m", "not e2e", *session.posargs)
