"""The operations of mitune: one solver step with its score and its noise, and the noise alone.

Every operation has a public function that validates, picks an implementation by name and calls one
registered torch operation. ``reference`` is plain torch and runs on every device; ``cpp`` is the
compiled CPU extension; ``triton`` is for GPUs; ``auto`` is the fastest one that was measured on the
device's kind. All of them draw the same noise, and ``reference`` and ``cpp`` return the same bits.
"""

from mitune_kernels.dispatch import implementations
from mitune_kernels.noise import normal, philox
from mitune_kernels.step import step, step_out

__all__ = ["implementations", "normal", "philox", "step", "step_out"]
