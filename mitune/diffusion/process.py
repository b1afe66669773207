"""What noise does to a latent, stated once: by how much it grows, what a network predicts of it,
and what a difference of two predictions is worth in nats.

A process is ``z_t = signal_t x0 + spread_t eps`` with eps ~ N(0, I). Two are here:
variance-preserving diffusion in discrete steps (``mitune.diffusion.variance_preserving``), and
rectified flow (``mitune.diffusion.rectified_flow``), which is continuous. For every Gaussian
process, with SNR = signal^2 / spread^2 and the two predictions of x0, the mutual information of x0
and a condition is

    I = 1/2 integral |d SNR / d t|  E || x0_cond - x0_uncond ||^2  d t

(Guo, Shamai and Verdu 2005, as Kong et al. 2024 and Wang et al., Eq. 2, use it);
``mi_weight`` is its factor for the network's own prediction in the place of x0.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from mitune.core.errors import UserError


def target(prediction: str, signal: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """What a network predicts, as ``of_noise eps + of_clean x0``, each in ``signal``'s shape.

    Raises:
        UserError: none of "epsilon", "v_prediction" (Salimans and Ho, arXiv 2202.00512) and
            "velocity" (of rectified flow).
    """
    one = torch.ones_like(signal)
    if prediction == "epsilon":
        return one, torch.zeros_like(signal)
    if prediction == "v_prediction":
        return signal, -spread
    if prediction == "velocity":
        return one, -one
    raise UserError(
        f"the prediction type {prediction!r} is not known: expected epsilon, v_prediction or "
        "velocity"
    )


class Process(Protocol):
    """A Gaussian process and the network's prediction in it. Times are of the process's own kind;
    all results are float64, in the times' shape."""

    @property
    def prediction(self) -> str:
        """A name of :func:`target`."""
        ...

    @property
    def conventions(self) -> Mapping[str, float]:
        """Names of the weights of a score, and the t_min of each: only t > t_min counts."""
        ...

    def to(self, device: torch.device | str) -> "Process":
        """The same with its numbers on ``device``, where times are then given."""
        ...

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """signal and spread."""
        ...

    def mi_weight(self, t: Tensor, convention: str) -> Tensor:
        """Nats for ``|| prediction_cond - prediction_uncond ||^2`` at ``t``, whose mean over t
        drawn evenly is the mutual information."""
        ...

    def loss_weight(self, t: Tensor, snr_gamma: float | None) -> Tensor:
        """Of the squared error at ``t`` in a training: 1, or min-SNR's."""
        ...

    def least_t(self, convention: str, t_min: float | None) -> float:
        """Where the counted times begin; without t_min the convention's own."""
        ...

    def draw_t(self, place: Tensor, least: float) -> Tensor:
        """Times at ``place`` (float64 in [0, 1)) of the range that begins at ``least``."""
        ...

    def training_t(self, words: Tensor, t_range: tuple[int, int]) -> Tensor:
        """Times for training, evenly over the network's timesteps ``t_range[0] <= t < t_range[1]``.

        Args:
            words: ``[B]`` int64, each a uniform 32-bit word.
            t_range: first and end.
        """
        ...

    def model_t(self, t: Tensor) -> Tensor:
        """What the network is given as its timestep."""
        ...

    def counted(self, timesteps: Tensor, least: float) -> Tensor:
        """Which of a sampler's timesteps count, bool."""
        ...

    def step_weights(self, timesteps: Tensor, convention: str, least: float) -> Tensor:
        """Of the squared differences at a sampler's ``timesteps`` (``[N]``, as the network is given
        them), so that their weighted sum is the mutual information, 0 below ``least``."""
        ...


def check_convention(process: Process, convention: str) -> None:
    """Raise UserError where a process has no weights of that name."""
    if convention not in process.conventions:
        raise UserError(
            f"convention {convention!r} is not known: choose one of "
            f"{', '.join(process.conventions)}"
        )
