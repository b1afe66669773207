"""Find how many samples fit into one pass by running passes, not by estimating memory."""

from collections.abc import Callable

import torch

from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.training.batches import Batches
from mitune.training.gradient import Gradient

_ON_CPU = 32
"""The micro-batch for "auto" on a CPU."""


def find_batch_size(
    gradient: Gradient, batches: Batches, config: TuneConfig, *, alone: bool = True
) -> int:
    """The micro-batch size to train with, at most ``config.batch``.

    A size given in the config is tried on a GPU; "auto" finds the largest size that fits. A CPU
    cannot report that memory is short: there nothing is tried, and "auto" is 32.

    Args:
        gradient: computes the gradient of a trial pass.
        batches: yields the samples of a trial pass.
        config: micro_batch and batch are used.
        alone: False if the process shares weights with others (FSDP): it then cannot try a pass on
            its own and takes the config's size.

    Raises:
        UserError: if the size in the config does not fit (the message names the largest that does),
            or not even one sample fits.
    """

    def attempt(size: int) -> None:
        gradient.begin()
        gradient.add(next(batches.step(0, size)))
        gradient.finish()

    asked = config.micro_batch
    if not alone and asked != "auto":
        return min(asked, config.batch)
    if batches.device.type == "cpu":  # out of memory, the system swaps or kills; nothing is raised
        return min(_ON_CPU if asked == "auto" else asked, config.batch)
    if asked == "auto":
        return largest(attempt, config.batch)
    size = min(asked, config.batch)
    if not _fits(attempt, size):
        best = largest(attempt, max(size - 1, 1))
        raise UserError(
            f"micro_batch is {asked}: that many samples do not fit into the memory of "
            f"{batches.device}; the largest that does is {best}"
        )
    return size


def largest(attempt: Callable[[int], None], most: int) -> int:
    """The largest size up to ``most`` that does not run out of memory, found by doubling the size
    from 1 and then bisecting.

    Raises:
        UserError: if size 1 runs out of memory.
    """
    good, bad = 0, most + 1
    size = 1
    while good < most and bad - good > 1:
        if _fits(attempt, size):
            good = size
        else:
            bad = size
        size = min(2 * good, most) if bad > most else (good + bad) // 2
        if good == 0 and bad == 1:
            raise UserError(
                "not even one sample fits into memory: expected a GPU with more, a lower "
                "precision, or fewer targets"
            )
    return good


def _fits(attempt: Callable[[int], None], size: int) -> bool:
    try:
        attempt(size)
    except (torch.OutOfMemoryError, MemoryError):
        fits = False
    else:
        fits = True
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return fits
