"""The operations of mitune: one solver step with its score and its noise, the noise alone, and the
re-noising of given latents with its score.

Every operation has a public function that validates, picks an implementation by name and calls one
registered torch operation. ``reference`` is plain torch and runs on every device; ``cpp`` is the
compiled CPU extension; ``triton`` and ``cuda`` are for GPUs; ``auto`` is the fastest one that is
known to be right on the device (``mitune_kernels.checked``). All of them draw the same noise, and
``reference`` and ``cpp`` return the same bits.
"""

from mitune_kernels.dispatch import implementations
from mitune_kernels.noise import normal, philox
from mitune_kernels.renoise import renoise, renoise_score
from mitune_kernels.step import step, step_out

__all__ = ["implementations", "normal", "philox", "renoise", "renoise_score", "step", "step_out"]
