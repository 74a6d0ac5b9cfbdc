"""How fast the tap is, against a floor and the SDK's template, side by side on this machine. See README.md.

``python -m benchmarks.run`` (``make bench``): each contender is a process of its own that reads the same body from a
server on the loopback and writes to a file; rounds are interleaved, the median counts. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.codechat import UNDOCUMENTED_FLAG, Answer, Business, CodeChat, Request, World

HERE = Path(__file__).parent
TOKEN = "not-a-real-token-of-the-benchmark"  # noqa: S105
CONTENDERS = {
    "floor": [sys.executable, "-m", "benchmarks.floor", "CONFIG"],
    "tap": [sys.executable, "-m", "tap_instances", "--config", "CONFIG"],
    "template": [sys.executable, "-m", "benchmarks.template_tap", "--config", "CONFIG"],
    "empty SDK tap": [sys.executable, "-m", "benchmarks.template_tap", "--empty", "--config", "CONFIG"],
}
TEMPLATE_MOST = 10_000  # instances; above, it takes minutes


@dataclass
class Result:
    """A contender's rounds."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: int = 0  # MB
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Of the wall-clock seconds."""
        return statistics.median(self.seconds)


def make_body(instances: int, *, seed: int = 1, unknown: bool = False) -> bytes:
    """Make a 200 body: each instance has two webhooks; if ``unknown``, each object has one key that nobody knows."""
    world = World([], seed=seed)
    items = []
    for index in range(instances):
        item = world.new_instance(index, "Padaria São João 🥖")
        item["Webhook"] = [world.new_webhook(item["instanceId"], created=world.now) for _ in range(2)]
        for webhook in item["Webhook"]:
            webhook["WebhookEvents"].pop(UNDOCUMENTED_FLAG, None)
            if unknown:
                webhook["WebhookEvents"][UNDOCUMENTED_FLAG] = True
        if unknown:
            item["integration"] = "baileys"
        items.append(item)
    return json.dumps({"businessId": "b", "name": "Bench", "Instances": items}, ensure_ascii=False).encode()


LAUNCHER = """
import json, os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - started
process.returncode = os.waitstatus_to_exitcode(status)
result = [process.returncode, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024]
print(json.dumps(result), file=open(os.environ["RESULT"], "w"))
"""


def measure(command: list[str], config: dict[str, Any], folder: Path, result: Result) -> None:
    """Run a command once; add what it took and what it wrote."""
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    argv = [str(folder / "config.json") if word == "CONFIG" else word for word in command]
    # A launcher of a few MB: a child's peak counts from its parent's size on, and this process holds the bodies.
    launcher = [sys.executable, "-S", "-c", LAUNCHER, *argv]
    environment = {**os.environ, "RESULT": str(folder / "result.json")}
    with (folder / "out").open("wb") as out, (folder / "log").open("wb") as log:
        subprocess.run(launcher, stdout=out, stderr=log, cwd=HERE.parent, env=environment, check=True)  # noqa: S603
    code, seconds, cpu, peak = json.loads((folder / "result.json").read_text())
    if code:
        sys.exit(f"{command}: exit {code}\n{(folder / 'log').read_text()[-2000:]}")
    result.seconds.append(seconds)
    result.cpu.append(cpu)
    result.peak = max(result.peak, peak)
    if not result.counts:
        with (folder / "out").open("rb") as lines:
            for line in lines:
                if kind := re.match(rb'\{"type": ?"([A-Z_]+)"', line):
                    name = kind[1].decode()
                    result.counts[name] = result.counts.get(name, 0) + 1
        result.counts["log lines"] = len((folder / "log").read_bytes().splitlines())


def rounds(contenders: dict[str, tuple[list[str], dict[str, Any]]], runs: int) -> dict[str, Result]:
    """Run contenders in turn, so many times, after one turn that does not count."""
    results = {name: Result() for name in contenders}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:  # noqa: S108
        for turn in range(-1, runs):
            for name, (command, config) in contenders.items():
                print(f"  {name}, round {turn + 1} of {runs}", file=sys.stderr, flush=True)
                measure(command, config, Path(folder), Result() if turn < 0 else results[name])
    return results


def table(title: str, results: dict[str, Result], floor: str, body: int | None = None) -> None:
    """Print one Markdown table, with each contender's time as a multiple of the floor's."""
    size = f" ({body / 1e6:.1f} MB)" if body else ""
    print(f"\n### {title}{size}\n")
    print(f"| | median, s | min to max, s | CPU, s | x {floor} | peak MB | RECORD | SCHEMA | STATE | log lines |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name, r in results.items():
        counts = " | ".join(f"{r.counts.get(kind, 0):,}" for kind in ("RECORD", "SCHEMA", "STATE", "log lines"))
        span = f"{min(r.seconds):.2f} to {max(r.seconds):.2f}"
        ratio = r.median / results[floor].median
        print(
            f"| {name} | {r.median:.2f} | {span} | {statistics.median(r.cpu):.2f} | {ratio:.2f} | {r.peak} | {counts} |"
        )


def last_state(config: dict[str, Any], path: Path) -> Path:
    """Run the tap, and write the value of its last STATE to a file."""
    (path / "first.json").write_text(json.dumps(config), encoding="utf-8")
    argv = [*CONTENDERS["tap"][:-1], str(path / "first.json")]
    out = subprocess.run(argv, check=True, cwd=HERE.parent, capture_output=True).stdout  # noqa: S603
    line = out[out.rindex(b'{"type":"STATE"') :]
    (path / "state.json").write_text(json.dumps(json.loads(line)["value"]), encoding="utf-8")
    return path / "state.json"


def one_business(sizes: list[int], runs: int) -> None:
    """Compare on one business of each size: also with unknown keys, and with the state of a run before."""
    for instances in sizes:
        bodies = {"tap": make_body(instances), "tap, unknown keys": make_body(instances, unknown=True)}
        with Serving(bodies) as server, tempfile.TemporaryDirectory() as folder:
            plain = server.config("tap")
            contenders = {"floor": (CONTENDERS["floor"], plain), "tap": (CONTENDERS["tap"], plain)}
            if instances == 1:
                contenders["empty SDK tap"] = (CONTENDERS["empty SDK tap"], plain)
            else:
                contenders["tap, unknown keys"] = (CONTENDERS["tap"], server.config("tap, unknown keys"))
                again = [*CONTENDERS["tap"], "--state", str(last_state(plain, Path(folder)))]
                contenders["tap, nothing changed"] = (again, plain)
            if instances <= TEMPLATE_MOST:
                contenders["template"] = (CONTENDERS["template"], plain)
            results = rounds(contenders, runs)
        table(f"{instances:,} instances, two webhooks each", results, "floor", len(bodies["tap"]))


def many_businesses(runs: int) -> None:
    """Compare on many small businesses, without latency and with it."""
    bodies = {f"business-{number}": make_body(10, seed=number) for number in range(1000)}
    with Serving(bodies) as server:
        config = server.config(*bodies)
        names = ("floor", "tap")
        results = rounds({name: (CONTENDERS[name], config) for name in names}, runs)
        table("1,000 businesses of 10 instances, no latency", results, "floor")
    some = list(bodies)[:200]
    with Serving({name: bodies[name] for name in some}, latency=0.3) as server:
        config = server.config(*some)
        contenders = {f"concurrency {n}": (CONTENDERS["tap"], {**config, "concurrency": n}) for n in (1, 4, 8, 16)}
        results = rounds(contenders, 1)
        table("200 businesses of 10 instances, each answer after 300 ms", results, "concurrency 1")


class Serving(CodeChat):
    """Serves ready bodies, each after some seconds."""

    def __init__(self, bodies: dict[str, bytes], latency: float = 0) -> None:
        """Take a body for each business id."""
        ids = {name: name.replace(" ", "-").replace(",", "") for name in bodies}
        self.ready = {ids[name]: body for name, body in bodies.items()}
        super().__init__(World(Business(key, TOKEN, {}) for key in self.ready), respond=self.ready_answer)
        self.latency, self.ids = latency, ids

    def ready_answer(self, request: Request) -> Answer:
        """Answer without building anything."""
        time.sleep(self.latency)
        return Answer(200, self.ready[request.path.split("/")[4]], {"Content-Type": "application/json"})

    def config(self, *names: str) -> dict[str, Any]:
        """Return the settings for these businesses."""
        entries = [{"business_id": self.ids[name], "auth_token": TOKEN} for name in names]
        # With secrets, as the floor has them.
        shared = {"api_url": self.url, "include_secrets": True}
        return {**shared, **entries[0]} if len(entries) == 1 else {**shared, "businesses": entries}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,10000,50000", help="numbers of instances")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--skip-many", action="store_true", help="leave the many businesses out")
    arguments = parser.parse_args()
    one_business([int(size) for size in arguments.sizes.split(",")], arguments.runs)
    if not arguments.skip_many:
        many_businesses(arguments.runs)


if __name__ == "__main__":
    main()
