"""How many samples fit into one pass: measured by trying, never guessed."""

from collections.abc import Callable

import torch

from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.training.batches import Batches
from mitune.training.gradient import Gradient

_ON_CPU = 32
"""What "auto" is there."""


def find_batch_size(
    gradient: Gradient, batches: Batches, config: TuneConfig, *, alone: bool = True
) -> int:
    """The micro-batch to train with: the config's, which is tried where memory may be short; or
    with "auto" the largest that fits (on a CPU, which cannot be asked, 32). Not ``alone``, a
    process that shares weights with others cannot try.

    Raises:
        UserError: one that does not fit (the message names the largest that does), or not even one
            sample fits.
    """

    def attempt(size: int) -> None:
        gradient.begin()
        gradient.add(next(batches.step(0, size)))
        gradient.finish()

    asked = config.micro_batch
    if not alone and asked != "auto":
        return min(asked, config.batch)
    if batches.device.type == "cpu":  # whose system would swap, or kill, rather than refuse
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
    """The largest size up to ``most`` that does not run out of memory: doubled from 1, then halved
    in between.

    Raises:
        UserError: 1 runs out of memory.
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
