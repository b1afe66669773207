"""Rectified flow (Liu et al., arXiv 2209.03003)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.diffusion.process import check_convention

FLOW_CONVENTIONS = {"integral": 0.0, "mean": 0.05}
"""Weightings of a score in a flow, with the t_min of each: "integral" weights each visited t by its
part of the range; "mean" takes the plain mean over t > 0.05, as RFMI's code does (Wang et al.,
arXiv 2503.14358). A sampler's t are not evenly spaced, so the two differ."""


@dataclass(frozen=True, kw_only=True)
class RectifiedFlow:
    """``z_t = (1 - t) x0 + t eps``, t in (0, 1], and a network that predicts the velocity
    ``eps - x0``; times are float64.

    Attributes:
        model_scale: the timestep that the network is given at t = 1.
    """

    model_scale: float = 1000.0
    prediction: str = "velocity"

    @property
    def conventions(self) -> Mapping[str, float]:
        """FLOW_CONVENTIONS."""
        return FLOW_CONVENTIONS

    def to(self, device: torch.device | str) -> "RectifiedFlow":
        """Return the process itself: it has no tensors."""
        return self

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``1 - t`` and ``t``."""
        t = t.double()
        return 1 - t, t

    def mi_weight(self, t: Tensor, convention: str = "integral") -> Tensor:
        """``(1 - t) / t``: half the slope of the SNR, 2 (1 - t) / t^3, times t^2, because x0 is
        ``z - t v``."""
        check_convention(self, convention)
        t = t.double()
        return (1 - t) / t

    def loss_weight(self, t: Tensor, snr_gamma: float | None) -> Tensor:
        """1.

        Raises:
            UserError: snr_gamma is given; min-SNR needs the SNR of diffusion.
        """
        if snr_gamma is not None:
            raise UserError(f"snr_gamma is {snr_gamma}: expected none for a flow model")
        return torch.ones_like(t, dtype=torch.float64)

    def least_t(self, convention: str, t_min: float | None) -> float:
        """``t_min``.

        Raises:
            UserError: unknown convention, or a t_min outside [0, 1).
        """
        check_convention(self, convention)
        t_min = self.conventions[convention] if t_min is None else t_min
        if not 0 <= t_min < 1:
            raise UserError(f"t_min is {t_min}: expected 0 to below 1 for a flow model")
        return float(t_min)

    def draw_t(self, place: Tensor, least: float) -> Tensor:
        """Times in (least, 1]. ``place`` counts from 1 down, since the weight is infinite at
        t = 0."""
        return 1 - place * (1 - least)

    def training_t(self, words: Tensor, t_range: tuple[int, int]) -> Tensor:
        """Times in (0, 1], float64: each word maps to the middle of its part of the range, so t is
        never 0."""
        low, end = t_range
        return (low + (words.double() + 0.5) / 2**32 * (end - low)) / self.model_scale

    def model_t(self, t: Tensor) -> Tensor:
        """``model_scale t``, float32."""
        return (self.model_scale * t).float()

    def counted(self, timesteps: Tensor, least: float) -> Tensor:
        """Those above ``least``."""
        return timesteps.double() / self.model_scale > least

    def step_weights(self, timesteps: Tensor, convention: str, least: float) -> Tensor:
        """For "integral", each t's weight times the distance to the next t (0 after the last); for
        "mean", its weight divided by the number of counted steps."""
        t = timesteps.double() / self.model_scale
        counted = self.counted(timesteps, least)
        weight = self.mi_weight(t, convention) * counted
        if convention == "mean":
            return weight / counted.sum()
        return weight * (t - torch.cat([t[1:], t.new_zeros(1)]))
