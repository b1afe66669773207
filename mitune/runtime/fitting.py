"""The largest size that fits into a device's memory, found by trying."""

from collections.abc import Callable

import torch

from mitune.core.errors import UserError


def largest(attempt: Callable[[int], None], most: int, *, what: str, mend: str) -> int:
    """The largest size up to ``most`` that does not run out of memory, found by doubling the size
    from 1 and then bisecting.

    Args:
        attempt: does the work of a size.
        what: names one unit of the size in a message, such as "sample".
        mend: what to do where not one fits.

    Raises:
        UserError: if size 1 runs out of memory.
    """
    good, bad = 0, most + 1
    size = 1
    while good < most and bad - good > 1:
        if fits(attempt, size):
            good = size
        else:
            bad = size
        size = min(2 * good, most) if bad > most else (good + bad) // 2
        if good == 0 and bad == 1:
            raise UserError(f"not even one {what} fits into memory: expected {mend}")
    return good


def fits(attempt: Callable[[int], None], size: int) -> bool:
    """Whether the work of that size does not run out of memory."""
    try:
        attempt(size)
    except (torch.OutOfMemoryError, MemoryError):
        fitted = False
    else:
        fitted = True
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return fitted
