"""A few of the random schedules of faults; ``chaos.py`` runs many."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")


def test_a_random_schedule_of_faults_gives_the_fault_free_set() -> None:
    seed = random.randrange(2**31)
    script = Path(__file__).with_name("chaos.py")
    root = str(script.parents[2])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(script), "--schedules", "1", "--seed", str(seed)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, f"seed {seed}: {done.stdout[-1000:]}{done.stderr[-3000:]}"
    assert "1 schedules, each set the fault-free one" in done.stdout
