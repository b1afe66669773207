"""A noising process: its noise levels, what a network predicts in it, and how many nats a
difference of two predictions is worth.

A process is ``z_t = signal_t x0 + spread_t eps`` with eps ~ N(0, I). There are two:
variance-preserving diffusion in discrete steps (``mitune.diffusion.variance_preserving``), and
rectified flow (``mitune.diffusion.rectified_flow``), which is continuous. For every Gaussian
process, with SNR = signal^2 / spread^2 and the two predictions of x0, the mutual information of x0
and a condition is

    I = 1/2 integral |d SNR / d t|  E || x0_cond - x0_uncond ||^2  d t

(Guo, Shamai and Verdu 2005, as used by Kong et al. 2024 and Wang et al., Eq. 2). ``mi_weight`` is
the factor in this integral when the network's own prediction takes the place of x0.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from mitune.core.errors import UserError


def target(prediction: str, signal: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """What a network predicts, as ``of_noise eps + of_clean x0``: (of_noise, of_clean), each in
    ``signal``'s shape.

    Raises:
        UserError: ``prediction`` is none of "epsilon", "v_prediction" (Salimans and Ho, arXiv
            2202.00512) and "velocity" (of rectified flow).
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
    """A Gaussian process and the network's prediction in it.

    Each process has its own kind of times. Levels and weights are float64, in the times' shape.
    """

    @property
    def prediction(self) -> str:
        """The prediction type, a name that :func:`target` knows."""
        ...

    @property
    def conventions(self) -> Mapping[str, float]:
        """Names of the weightings of a score, with the t_min of each: only t > t_min counts."""
        ...

    def to(self, device: torch.device | str) -> "Process":
        """The same process with its tensors on ``device``, where times must then be."""
        ...

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """signal and spread."""
        ...

    def mi_weight(self, t: Tensor, convention: str) -> Tensor:
        """Nats per unit of ``|| prediction_cond - prediction_uncond ||^2`` at ``t``: the mean of
        their product over uniform t is the mutual information."""
        ...

    def loss_weight(self, t: Tensor, snr_gamma: float | None) -> Tensor:
        """Weight of the squared error at ``t`` in training: 1, or min-SNR's."""
        ...

    def least_t(self, convention: str, t_min: float | None) -> float:
        """Where the counted times begin; if t_min is None, the convention's own is used."""
        ...

    def draw_t(self, place: Tensor, least: float) -> Tensor:
        """Times at the positions ``place`` (float64 in [0, 1)) of the range that begins at
        ``least``."""
        ...

    def training_t(self, words: Tensor, t_range: tuple[int, int]) -> Tensor:
        """Training times, uniform over the network's timesteps ``t_range[0] <= t < t_range[1]``.

        Args:
            words: ``[B]`` int64, each a uniform 32-bit word.
            t_range: the first timestep, and the end (exclusive).
        """
        ...

    def model_t(self, t: Tensor) -> Tensor:
        """The timesteps that the network is given."""
        ...

    def counted(self, timesteps: Tensor, least: float) -> Tensor:
        """Which of a sampler's timesteps count, as bool."""
        ...

    def step_weights(self, timesteps: Tensor, convention: str, least: float) -> Tensor:
        """Weights of the squared differences at a sampler's ``timesteps`` (``[N]``, as the network
        is given them): the weighted sum is the mutual information. 0 where a timestep does not
        count."""
        ...


def check_convention(process: Process, convention: str) -> None:
    """Raise UserError if a process has no convention of that name."""
    if convention not in process.conventions:
        raise UserError(
            f"convention {convention!r} is not known: choose one of "
            f"{', '.join(process.conventions)}"
        )
