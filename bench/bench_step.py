"""The fused step against its plain torch reference: ``make bench``.

Bytes moved count one read of the two predictions and the latent and one write of the next latent.
"""

import mitune_kernels
import pytest
import torch

ROWS, ELEMENTS = 64, 4 * 32 * 32


@pytest.mark.parametrize("sigma", [0.0, 0.5], ids=["no-noise", "noise"])
@pytest.mark.parametrize("implementation", ["reference", "cpp"])
def test_step(benchmark, implementation, sigma):
    generator = torch.Generator().manual_seed(0)
    uncond, cond, z = torch.randn(3, ROWS, ELEMENTS, generator=generator)
    table = torch.tensor([[1.01, -0.2, sigma, 0.1]])
    index = torch.zeros(ROWS, dtype=torch.int64)
    key = torch.randint(0, 2**32, (ROWS, 4), generator=generator)
    score = torch.zeros(ROWS)
    benchmark.extra_info["bytes"] = 4 * ROWS * ELEMENTS * 4
    benchmark(
        mitune_kernels.step, uncond, cond, z, score, index, key, table, 7.5, impl=implementation
    )
