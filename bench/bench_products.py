"""Float32 products of the embedded UNet's shapes on a CPU, by the library that torch takes and by
oneDNN (``mitune.runtime.compile.onednn``): ``make bench``."""

import pytest
import torch
from torch.nn import functional as F

from mitune.runtime.compile.onednn import product

WAYS = {
    "linear": F.linear,
    "onednn": product,
    "convolution": lambda x, w: F.conv2d(x.T[None, :, :, None], w[:, :, None, None]),
}
"""Each of x ``[n, in]`` and weight ``[out, in]``."""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "shape",
    [(2560, 64, 64), (2560, 64, 512), (640, 128, 128), (640, 128, 1024), (640, 512, 128)],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_product(benchmark, way, shape):
    """Of n, in and out, n the rows of 40 pictures."""
    n, into, out = shape
    x, weight = torch.randn(n, into), torch.randn(out, into)
    with torch.inference_mode():
        benchmark.pedantic(WAYS[way], args=(x, weight), rounds=30, iterations=10, warmup_rounds=3)
    tflop = 2 * n * into * out / 1e12
    benchmark.extra_info["tflop_per_s"] = tflop / benchmark.stats.stats.median
