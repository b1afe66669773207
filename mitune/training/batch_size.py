"""Find how many samples fit into one pass by running passes, not by estimating memory."""

from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.runtime.fitting import fits, largest
from mitune.training.batches import Batches
from mitune.training.gradient import Gradient

_ON_CPU = 32
"""The micro-batch for "auto" on a CPU."""
_MEND = "a GPU with more, gradient_checkpointing, a lower precision, or fewer targets"


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
        return largest(attempt, config.batch, what="sample", mend=_MEND)
    size = min(asked, config.batch)
    if not fits(attempt, size):
        best = largest(attempt, max(size - 1, 1), what="sample", mend=_MEND)
        raise UserError(
            f"micro_batch is {asked}: that many samples do not fit into the memory of "
            f"{batches.device}; the largest that does is {best}"
        )
    return size
