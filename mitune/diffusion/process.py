"""What noise does to a latent, stated once: by how much it grows, what a network predicts of it,
and what a difference of two predictions is worth in nats.

A process is ``z_t = signal_t x0 + spread_t eps`` with eps ~ N(0, I). Two are here:
variance-preserving diffusion in discrete steps (Ho et al., arXiv 2006.11239), and rectified flow
(Liu et al., arXiv 2209.03003), which is continuous. For every Gaussian process, with SNR =
signal^2 / spread^2 and the two predictions of x0, the mutual information of x0 and a condition is

    I = 1/2 integral |d SNR / d t|  E || x0_cond - x0_uncond ||^2  d t

(Guo, Shamai and Verdu 2005, as Kong et al. 2024 and Wang et al., Eq. 2, use it);
``mi_weight`` is its factor for the network's own prediction in the place of x0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from mitune.core.errors import UserError

CONVENTIONS = {"paper": -1, "reference": 50}
"""Weights of a score in diffusion, and the t_min of each: "paper" is Eq. 2, where every step
counts; "reference" is the authors' code, which drops alpha_t and counts t > 50 only."""

FLOW_CONVENTIONS = {"integral": 0.0, "mean": 0.05}
"""The same in a flow: "integral" weighs each visited t by its part of the range; "mean" takes the
plain mean over t > 0.05, as RFMI's code does (Wang et al., arXiv 2503.14358). A sampler's t are not
spread evenly, so the two differ."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class VariancePreserving:
    """Diffusion in T discrete steps; times are the timesteps 0 ... T-1, int64.

    Attributes:
        squared_signal: ``[T]`` float64, abar.
        prediction: "epsilon" or "v_prediction".
    """

    squared_signal: Tensor
    prediction: str

    @property
    def conventions(self) -> Mapping[str, float]:
        """CONVENTIONS."""
        return CONVENTIONS

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return len(self.squared_signal)

    def to(self, device: torch.device | str) -> "VariancePreserving":
        """The same on ``device``."""
        return replace(self, squared_signal=self.squared_signal.to(device))

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``sqrt(abar_t)`` and ``sqrt(1 - abar_t)``."""
        abar = self.squared_signal[t]
        return abar.sqrt(), (1 - abar).sqrt()

    def mi_weight(self, t: Tensor, convention: str = "paper") -> Tensor:
        """``kappa_t = beta_t T / (2 alpha_t (1 - abar_t))`` (Wang et al., Eq. 2) with the
        per-unit-step beta_t and alpha_t of the training schedule; "reference" leaves alpha_t out.

        For v-prediction ``delta_eps = sqrt(abar_t) delta_v``, so abar_t is folded in. As
        ``abar_t / alpha_t = abar_(t-1)``, that weight is finite even where abar_t is 0.
        """
        check_convention(self, convention)
        return self._kappa[convention][t]

    @cached_property
    def _kappa(self) -> dict[str, Tensor]:
        abar = self.squared_signal
        before = torch.cat([abar.new_ones(1), abar[:-1]])
        alpha = abar / before
        kappa = (1 - alpha) * len(abar) / (2 * (1 - abar))
        if self.prediction == "v_prediction":
            return {"paper": kappa * before, "reference": kappa * abar}
        return {"paper": kappa / alpha, "reference": kappa}

    def loss_weight(self, t: Tensor, snr_gamma: float | None) -> Tensor:
        """1; or with ``snr_gamma`` min-SNR's (Hang et al., arXiv 2303.09556, Eq. 5 and its
        v-prediction form), with SNR = abar / (1 - abar)

            min(SNR, gamma) / SNR   for epsilon,   min(SNR, gamma) / (SNR + 1)   for v.
        """
        abar = self.squared_signal[t]
        if snr_gamma is None:
            return torch.ones_like(abar)
        snr = abar / (1 - abar)
        return snr.clamp(max=snr_gamma) / (snr if self.prediction == "epsilon" else snr + 1)

    def least_t(self, convention: str, t_min: float | None) -> int:
        """The smallest timestep that counts: ``t_min + 1``.

        Raises:
            UserError: unknown convention, or a t_min outside -1 ... T-2.
        """
        check_convention(self, convention)
        t_min = self.conventions[convention] if t_min is None else t_min
        last = len(self.squared_signal) - 2
        if not -1 <= t_min <= last:
            raise UserError(f"t_min is {t_min}: expected 0 to {last}, or -1 for every step")
        return int(t_min) + 1

    def draw_t(self, place: Tensor, least: float) -> Tensor:
        """int64 timesteps ``least ... T-1``, evenly."""
        return (least + place * (len(self.squared_signal) - least)).long()

    def training_t(self, words: Tensor, t_range: tuple[int, int]) -> Tensor:
        """int64 timesteps."""
        low, end = t_range
        return low + (words * (end - low) >> 32)

    def model_t(self, t: Tensor) -> Tensor:
        """The timesteps themselves."""
        return t

    def counted(self, timesteps: Tensor, least: float) -> Tensor:
        """Those above ``least - 1``, which is t_min."""
        return timesteps > least - 1

    def step_weights(self, timesteps: Tensor, convention: str, least: float) -> Tensor:
        """Those of the mean over the counted steps: the visited timesteps are the Monte-Carlo
        sample of t in Eq. 2, so the estimate is their mean, not the sum that Algorithm 2 prints
        (which is N times as much)."""
        counted = self.counted(timesteps, least)
        return self.mi_weight(timesteps.round().long(), convention) * counted / counted.sum()


@dataclass(frozen=True, kw_only=True)
class RectifiedFlow:
    """``z_t = (1 - t) x0 + t eps``, t in (0, 1], and a network that predicts the velocity
    ``eps - x0``; times are float64.

    Attributes:
        model_scale: the network's timestep at t = 1.
    """

    model_scale: float = 1000.0
    prediction: str = "velocity"

    @property
    def conventions(self) -> Mapping[str, float]:
        """FLOW_CONVENTIONS."""
        return FLOW_CONVENTIONS

    def to(self, device: torch.device | str) -> "RectifiedFlow":
        """It has no numbers."""
        return self

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``1 - t`` and ``t``."""
        t = t.double()
        return 1 - t, t

    def mi_weight(self, t: Tensor, convention: str = "integral") -> Tensor:
        """``(1 - t) / t``: half the slope of the SNR, 2 (1 - t) / t^3, times t^2, as x0 is
        ``z - t v``."""
        check_convention(self, convention)
        t = t.double()
        return (1 - t) / t

    def loss_weight(self, t: Tensor, snr_gamma: float | None) -> Tensor:
        """1.

        Raises:
            UserError: snr_gamma is given: min-SNR is about diffusion's SNR.
        """
        if snr_gamma is not None:
            raise UserError(f"snr_gamma is {snr_gamma}: expected none for a flow model")
        return torch.ones_like(t, dtype=torch.float64)

    def least_t(self, convention: str, t_min: float | None) -> float:
        """``t_min``.

        Raises:
            UserError: unknown convention, or a t_min outside 0 ... 1.
        """
        check_convention(self, convention)
        t_min = self.conventions[convention] if t_min is None else t_min
        if not 0 <= t_min < 1:
            raise UserError(f"t_min is {t_min}: expected 0 to below 1 for a flow model")
        return float(t_min)

    def draw_t(self, place: Tensor, least: float) -> Tensor:
        """Times of (least, 1]: the place counts from 1 down, since at t = 0 the weight is
        infinite."""
        return 1 - place * (1 - least)

    def training_t(self, words: Tensor, t_range: tuple[int, int]) -> Tensor:
        """Times in (0, 1], float64: the middle of each word's part of the range, never 0."""
        low, end = t_range
        return (low + (words.double() + 0.5) / 2**32 * (end - low)) / self.model_scale

    def model_t(self, t: Tensor) -> Tensor:
        """``model_scale t``, float32."""
        return (self.model_scale * t).float()

    def counted(self, timesteps: Tensor, least: float) -> Tensor:
        """Those above ``least``."""
        return timesteps.double() / self.model_scale > least

    def step_weights(self, timesteps: Tensor, convention: str, least: float) -> Tensor:
        """Integral: each t's weight times the way to the next t (0 after the last); mean: over
        the counted steps."""
        t = timesteps.double() / self.model_scale
        counted = self.counted(timesteps, least)
        weight = self.mi_weight(t, convention) * counted
        if convention == "mean":
            return weight / counted.sum()
        return weight * (t - torch.cat([t[1:], t.new_zeros(1)]))


def check_convention(process: Process, convention: str) -> None:
    """Raise UserError where a process has no weights of that name."""
    if convention not in process.conventions:
        raise UserError(
            f"convention {convention!r} is not known: choose one of "
            f"{', '.join(process.conventions)}"
        )
