"""Whatever happens to the world, the server and the target: after a whole run the tables tell what is true now."""

from __future__ import annotations

import os
import random
import sys

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.kit.state_machine import FullTable, StateMachine, WithActivateVersion

EXAMPLES = int(os.environ.get("STATE_EXAMPLES", "60"))
STEPS = 50  # of an example, at most


@pytest.mark.parametrize("machine", [StateMachine, WithActivateVersion, FullTable])
def test_after_a_whole_run_the_tables_are_the_world(
    machine: type[StateMachine], capsys: pytest.CaptureFixture[str]
) -> None:
    machine.counts.clear()
    chosen = int(os.environ.get("STATE_SEED") or random.getrandbits(32))
    how = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        print_blob=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(seed(chosen)(machine), settings=how)
    finally:
        with capsys.disabled():
            sys.stdout.write(f"\n{machine.__name__}, STATE_SEED={chosen}: {dict(machine.counts)}\n")
    assert machine.counts["steps"] >= 20 * EXAMPLES
    assert all(machine.counts[kind] for kind in ("whole runs", "crashed runs", "failed runs"))
