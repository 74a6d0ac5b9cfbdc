"""How long loaders take for what the tap writes, against the tap itself. See README.md.

``make bench-loading``: the tap writes the messages of a first run into a file; then each loader reads that file into a
database of its own, on this machine. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.run import CONTENDERS, HERE, Result, Serving, make_body, measure
from tests.e2e.postgres import cluster
from tests.kit.pages import loader_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

LOADERS = ("target-duckdb", "target-postgres")


def load(loader: str, messages: Path, place: dict[str, Any], folder: Path, result: Result) -> None:
    """Let a loader read the messages into a place, with the settings that meltano.yml gives it."""
    (folder / "target.json").write_text(json.dumps(loader_settings(loader) | place), encoding="utf-8")
    program = HERE.parent / ".meltano" / "loaders" / loader / "venv" / "bin" / loader
    command = shlex.join([str(program), "--config", str(folder / "target.json")])
    measure(["sh", "-c", f"PGTZ=UTC exec {command} <{shlex.quote(str(messages))}"], {}, folder, result)


def places(folder: Path, server: str, size: int, turn: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each loader with a database, or a schema, that is empty."""
    yield "target-duckdb", {"path": str(folder / f"{size}-{turn}.duckdb")}
    address = server.replace("postgresql:", "postgresql+psycopg:")
    yield "target-postgres", {"sqlalchemy_url": address, "default_target_schema": f"codechat_{size}_{turn}"}


def main() -> None:
    """Print one line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000", help="numbers of instances")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    print(f"| instances | tap | {' | '.join(LOADERS)} |")
    print("| --: | --: | --: | --: |")
    with cluster() as server, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in map(int, arguments.sizes.split(",")):
            results = {contender: Result() for contender in ("tap", *LOADERS)}
            messages = folder / f"{size}.jsonl"
            with Serving({"tap": make_body(size)}) as codechat:
                for turn in range(arguments.runs):
                    measure(CONTENDERS["tap"], codechat.config("tap"), folder, results["tap"])
                    (folder / "out").replace(messages)
                    for loader, place in places(folder, server, size, turn):
                        load(loader, messages, place, folder, results[loader])
            ratios = [f"{result.median / results['tap'].median:.1f}" for result in results.values()]
            print(f"| {size:,} | {' | '.join(ratios)} |")


if __name__ == "__main__":
    main()
