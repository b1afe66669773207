"""A schedule is a table: a solver's N affine steps and the weights of the score.

Every solver moves by ``z' = a_i z + b_i prediction + sigma_i w``, ``w ~ N(0, I)``, with N rows
computed once on the host in float64. States are variance-preserving throughout,
``z_t = sqrt(abar_t) z0 + sqrt(1 - abar_t) eps``: a solver with another variable of its own (Euler's
``x = z sqrt(sigma^2 + 1)``) is written for z, so that nothing else has to know.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.diffusion import solvers
from mitune.diffusion.solvers import SOLVERS

__all__ = ["CONVENTIONS", "SOLVERS", "Schedule"]

CONVENTIONS = {"paper": -1, "reference": 50}
"""Names of the weights, and the t_min of each: "paper" is Eq. 2, where every step counts;
"reference" is the authors' code, which drops alpha_t and counts t > 50 only."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """N steps of one solver for one model.

    Attributes:
        name: "ddpm", "ddim" or "euler".
        timesteps: ``[N]`` float64, descending, as the model is given them (fractional for Euler
            with linspace).
        a, b, sigma: ``[N]`` float64, coefficients of the step, for the model's own prediction type.
        init_scale: the first latent is ``init_scale * noise``.
        alphas_cumprod: ``[T]`` float64, abar of the training schedule.
        prediction: "epsilon" or "v_prediction".
    """

    name: str
    timesteps: Tensor
    a: Tensor
    b: Tensor
    sigma: Tensor
    init_scale: float
    alphas_cumprod: Tensor
    prediction: str

    @classmethod
    def from_diffusers(
        cls, scheduler: Any, steps: int = 50, kind: str | None = None, eta: float = 0.0
    ) -> "Schedule":
        """The table of ``steps`` steps, equal to what the diffusers class does step by step.

        Args:
            scheduler: a diffusers scheduler, or its config. Options that a scheduler object holds
                only by its class's default give way to the defaults of ``kind``'s class, as in
                diffusers' own ``from_config``.
            steps: N, 1 to T.
            kind: one of SOLVERS; None takes the scheduler's own class.
            eta: noise of ddim, 0 to 1.

        Raises:
            UserError: an unknown solver, a number out of range, or a config whose step is not
                affine.
        """
        kind, native = solvers.resolve(scheduler, kind)
        total = len(native.alphas_cumprod)
        if not 1 <= steps <= total:
            raise UserError(
                f"steps is {steps}: expected 1 to {total}, the model's training timesteps"
            )
        if not 0 <= eta <= 1:
            raise UserError(f"eta is {eta}: expected 0 to 1")
        prediction = native.config.prediction_type
        if prediction not in ("epsilon", "v_prediction"):
            raise UserError(
                f"the scheduler's prediction_type is {prediction!r}: expected 'epsilon' or "
                "'v_prediction'"
            )
        if prediction == "epsilon" and float(native.alphas_cumprod[-1]) <= solvers.NO_SIGNAL:
            raise UserError(
                "the scheduler ends without signal (rescale_betas_zero_snr) and its "
                "prediction_type is 'epsilon': expected 'v_prediction', as the noise that is all "
                "of the last latent tells nothing of a picture; give the prediction_type that the "
                "model was trained with, or rescale_betas_zero_snr=False"
            )
        timesteps, rows, scale = solvers.derive(kind, native, steps, eta)
        a, b = rows.fold(prediction)
        return cls(
            name=kind,
            timesteps=timesteps,
            a=a,
            b=b,
            sigma=rows.sigma,
            init_scale=scale,
            alphas_cumprod=native.alphas_cumprod.double(),
            prediction=prediction,
        )

    @property
    def steps(self) -> int:
        """N."""
        return len(self.timesteps)

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    def kappa(self, t: Tensor, convention: str = "paper") -> Tensor:
        """Weight of ``||delta||^2`` at timesteps ``t`` ([...] int64), float64, in nats.

        ``kappa_t = beta_t T / (2 alpha_t (1 - abar_t))`` (Wang et al., Eq. 2) with the
        per-unit-step beta_t and alpha_t of the training schedule; "reference" leaves alpha_t out.
        For v-prediction ``delta_eps = sqrt(abar_t) delta_v``, so abar_t is folded in. As
        ``abar_t / alpha_t = abar_(t-1)``, that weight is finite even where abar_t is 0.

        Raises:
            UserError: unknown convention.
        """
        _check(convention)
        abar = self.alphas_cumprod
        before = torch.cat([abar.new_ones(1), abar[:-1]])
        alpha = abar / before
        kappa = (1 - alpha) * self.num_train_timesteps / (2 * (1 - abar))
        if self.prediction == "v_prediction":
            kappa = kappa * (before if convention == "paper" else abar)
        elif convention == "paper":
            kappa = kappa / alpha
        return kappa[t]

    @classmethod
    def levels(cls, scheduler: Any) -> "Schedule":
        """A schedule for its noise levels and prediction type alone, which every solver shares.

        How the scheduler would step (its spacing, variance, clipping, own sigmas) does not matter
        to who re-noises or trains.

        Raises:
            UserError: as ``from_diffusers``, but for options of the step.
        """
        stepping = {"clip_sample": False, "thresholding": False, "variance_type": "fixed_small"}
        # What the object holds by default counts like what was given: nothing may go back to
        # defaults.
        own = {**stepping, "steps_offset": 0, "_use_default_values": []}
        return cls.from_diffusers(
            {**solvers.config_of(scheduler), **own, "timestep_spacing": "leading"},
            steps=1,
            kind="ddpm",
        )

    def least_t(self, convention: str, t_min: int | None) -> int:
        """The smallest timestep that counts: ``t_min + 1``, or without t_min the convention's own.

        Raises:
            UserError: unknown convention, or a t_min outside -1 ... T-2.
        """
        _check(convention)
        if t_min is None:
            return CONVENTIONS[convention] + 1
        if not -1 <= t_min <= self.num_train_timesteps - 2:
            raise UserError(
                f"t_min is {t_min}: expected 0 to {self.num_train_timesteps - 2}, or -1 for every "
                "step"
            )
        return t_min + 1

    def weights(self, convention: str = "paper", t_min: int | None = None) -> Tensor:
        """``[N]`` float64 such that ``sum_i weights_i ||delta_i||^2`` is the mean of Eq. 2 over the
        counted steps, in nats.

        The N visited timesteps are the Monte-Carlo sample of t in Eq. 2, so the estimate is their
        mean, not the sum that Algorithm 2 prints (which is N times as much).

        Args:
            convention: "paper" or "reference".
            t_min: only steps with t > t_min count.

        Raises:
            UserError: unknown convention; or no step counts.
        """
        least = self.least_t(convention, t_min)
        counted = self.timesteps > least - 1
        if not bool(counted.any()):
            raise UserError(
                f"t_min is {least - 1}: no step of the schedule is above it, the first is at "
                f"{float(self.timesteps[0]):g}; use a lower t_min or more steps"
            )
        return self.kappa(self.timesteps.round().long(), convention) * counted / counted.sum()

    def table(self, weights: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """``[N, 5]`` float32 on ``device`` for ``mitune_kernels.step``: a, b, sigma, weight, t."""
        columns = torch.stack(
            [self.a, self.b, self.sigma, weights.double(), self.timesteps.double()], dim=1
        )
        return columns.to(device=device, dtype=torch.float32)


def _check(convention: str) -> None:
    if convention not in CONVENTIONS:
        raise UserError(
            f"convention {convention!r} is not known: choose one of {', '.join(CONVENTIONS)}"
        )
