"""What the C library does with memory that is freed."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
import threading
import torch
from mitune.runtime.malloc import keep_freed_memory
kept = {kept} and keep_freed_memory()
def use():
    for _ in range(50):
        [torch.ones(1 << 18) for _ in range(12)]
def measure():
    use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use()
    print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=measure)
thread.start()
thread.join()
"""


def _faults(kept: bool) -> tuple[bool, int]:
    # Of one thread: where others allocate too, it is by chance what lies at the heap's end.
    made = subprocess.run(
        [sys.executable, "-c", FAULTS.format(kept=kept)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    worked, faults = made.stdout.split()
    return worked == "True", int(faults)


def test_memory_that_is_freed_and_wanted_again_costs_no_page_faults() -> None:
    worked, faults = _faults(kept=True)
    if not worked:
        pytest.skip("the C library is not glibc")
    without = _faults(kept=False)[1]
    assert without > 10_000  # 12 MiB in pages, 50 times: 150 000 at most
    assert faults < 1024  # the heap may still grow once, by a tensor of 256 pages
