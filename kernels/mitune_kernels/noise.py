"""The noise of candidates: a pure function of the key, the step and the element.

Generation has no other source of randomness: the same candidate gets the same noise in any batch,
shard or machine.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mitune_kernels.checks import check_tensor
from mitune_kernels.dispatch import choose
from mitune_kernels.ops import IMPLEMENTATIONS

_PHILOX = {name: getattr(torch.ops.mitune, f"philox_{name}").default for name in IMPLEMENTATIONS}
_NORMAL = {name: getattr(torch.ops.mitune, f"normal_{name}").default for name in IMPLEMENTATIONS}
_MOST_ELEMENTS = 4 << 32
"""Number of elements in a row that the 32-bit block counter can distinguish."""


def philox(key: Tensor, step: Tensor, count: int, impl: str = "auto") -> Tensor:
    """Philox-4x32-10 words (Salmon et al., SC 2011): the integers behind :func:`normal`.

    Element e of a row is lane e % 4 of the block with counter (e // 4, step, candidate, prompt) and
    key (seed_lo, seed_hi).

    Args:
        key: ``[B, 4]`` int64, the row's seed_lo, seed_hi, candidate, prompt, each a uint32 (higher
            bits are ignored).
        step: ``[B]`` int64: 0 for the initial noise, i + 1 for the noise that table row i adds.
        count: words per row.
        impl: ``auto`` or a name of :func:`mitune_kernels.implementations`.

    Returns:
        ``[B, count]`` int64 holding uint32; the same on every implementation.

    Raises:
        ValueError: an argument of another shape, dtype or device; an unknown ``impl``.
        RuntimeError: the named implementation is not available here.
    """
    _check(key, step, count)
    words: Tensor = _PHILOX[choose(impl, key.device)](key, step, count)
    return words


def normal(key: Tensor, step: Tensor, shape: Sequence[int], impl: str = "auto") -> Tensor:
    """Standard normal noise of each row, by Box-Muller in float32 on the words of :func:`philox`.

    Args:
        key: ``[B, 4]`` int64, the row's seed_lo, seed_hi, candidate, prompt, each a uint32 (higher
            bits are ignored).
        step: ``[B]`` int64: 0 for the initial noise z_T, i + 1 for the noise that table row i adds.
        shape: of one row; elements are counted in C order.
        impl: ``auto`` or a name of :func:`mitune_kernels.implementations`.

    Returns:
        ``[B, *shape]`` float32, contiguous. All implementations agree bit for bit.

    Raises:
        ValueError: an argument of another shape, dtype or device; an unknown ``impl``.
        RuntimeError: the named implementation is not available here.
    """
    if any(size < 0 for size in shape):
        raise ValueError(f"shape: got {list(shape)}, expected sizes of at least 0")
    count = math.prod(shape)
    _check(key, step, count)
    values: Tensor = _NORMAL[choose(impl, key.device)](key, step, count)
    return values.view(step.shape[0], *shape)


def _check(key: Tensor, step: Tensor, count: int) -> None:
    rows = step.shape[0] if step.dim() == 1 else math.prod(key.shape[:1])
    check_tensor("step", step, torch.int64, (rows,), step.device)
    check_tensor("key", key, torch.int64, (rows, 4), step.device)
    if not 0 <= count <= _MOST_ELEMENTS:
        raise ValueError(f"count: got {count}, expected 0 to {_MOST_ELEMENTS}")
