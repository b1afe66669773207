"""Variance-preserving diffusion in discrete steps (Ho et al., arXiv 2006.11239)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.diffusion.process import check_convention

CONVENTIONS = {"paper": -1, "reference": 50}
"""Weightings of a score in diffusion, with the t_min of each: "paper" is Eq. 2, where every step
counts; "reference" is the authors' code, which drops alpha_t and counts only t > 50."""


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
        """The same process on ``device``."""
        return replace(self, squared_signal=self.squared_signal.to(device))

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``sqrt(abar_t)`` and ``sqrt(1 - abar_t)``."""
        abar = self.squared_signal[t]
        return abar.sqrt(), (1 - abar).sqrt()

    def mi_weight(self, t: Tensor, convention: str = "paper") -> Tensor:
        """``kappa_t = beta_t T / (2 alpha_t (1 - abar_t))`` (Wang et al., Eq. 2) with the
        per-unit-step beta_t and alpha_t of the training schedule; "reference" leaves alpha_t out.

        For v-prediction ``delta_eps = sqrt(abar_t) delta_v``, so abar_t is folded in. Because
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
        """1; or, with ``snr_gamma``, min-SNR's weight (Hang et al., arXiv 2303.09556, Eq. 5 and its
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
        """int64 timesteps ``least ... T-1``, uniform for uniform ``place``."""
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
        """Weights of the mean over the counted steps.

        The visited timesteps are the Monte-Carlo sample of t in Eq. 2, so the estimate is their
        mean, not the sum that Algorithm 2 prints (which is N times as large).
        """
        counted = self.counted(timesteps, least)
        return self.mi_weight(timesteps.round().long(), convention) * counted / counted.sum()
