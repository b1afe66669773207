"""The fused step against eager torch and torch.compile of its reference: ``make bench``.

``bytes`` is what a step has to move, one read of both predictions and the latent and one write of
the next; ``bandwidth_fraction`` divides its rate by that of a copy measured beside it.
"""

import pytest
import torch

from mitune.bench.step import Case, median_seconds, timeable

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ELEMENTS = 16384


@pytest.mark.parametrize("noisy", [False, True], ids=["no-noise", "noise"])
@pytest.mark.parametrize("rows", [1, 8, 64, 128, 1024])
@pytest.mark.parametrize("way", ["eager", "compiled", *timeable(DEVICE)])
def test_step(benchmark, way, rows, noisy):
    case = Case(rows, ELEMENTS, noisy=noisy, device=DEVICE)
    step = {"eager": case.eager, "compiled": case.compiled}.get(way, lambda: case.fused(way))()
    step()  # compiles what needs it
    wait = torch.cuda.synchronize if DEVICE.type == "cuda" else lambda: None

    def run():
        step()
        wait()

    copy = median_seconds(case.copy(), at_least=0.2)
    benchmark(run)
    benchmark.extra_info["bytes"] = case.bytes
    benchmark.extra_info["copy_bytes_per_s"] = case.bytes / copy
    benchmark.extra_info["bandwidth_fraction"] = copy / benchmark.stats.stats.median
