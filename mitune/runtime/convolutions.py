"""How cuDNN runs convolutions on a GPU: with which algorithm, and how exactly."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Inside this context, cuDNN's float32 convolutions multiply in float32. cuDNN's default is
    TF32, with ten bits of mantissa, while torch's matrix products are float32 by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def tried_convolutions() -> Iterator[None]:
    """Inside this context, cuDNN tries its algorithms on a convolution's first call and keeps the
    fastest for its shapes, unless torch is set to be deterministic."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
