"""How cuDNN convolves on a GPU: with which algorithm, and how exactly."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """While entered, cuDNN's float32 convolutions multiply in float32. Its default is TF32, of ten
    bits of mantissa, while torch's matrix products are float32 by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def tried_convolutions() -> Iterator[None]:
    """While entered, cuDNN tries its algorithms on a convolution's first call and keeps the fastest
    for its shapes, unless torch is to be deterministic."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
