"""A schedule is a table: the N affine steps of a solver, and the weights of the score.

Every solver steps by ``z' = a_i z + b_i prediction + sigma_i w``, ``w ~ N(0, I)``. The N rows are
computed once on the host in float64. States of diffusion are variance-preserving throughout,
``z_t = sqrt(abar_t) z0 + sqrt(1 - abar_t) eps``. A solver with another variable (Euler's
``x = z sqrt(sigma^2 + 1)``) is rewritten for z, so that no other code has to know about it.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.diffusion import solvers
from mitune.diffusion.process import Process
from mitune.diffusion.rectified_flow import RectifiedFlow
from mitune.diffusion.solvers import SOLVERS, squared_signal
from mitune.diffusion.variance_preserving import VariancePreserving
from mitune.moved import OF_SCHEDULE

__all__ = ["SOLVERS", "Schedule"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """N steps of one solver for one model.

    Attributes:
        name: "ddpm", "ddim" or "euler".
        timesteps: ``[N]`` float64, descending, as the model is given them (fractional for Euler
            with linspace spacing).
        a, b, sigma: ``[N]`` float64, coefficients of the step, for the model's own prediction type.
        init_scale: the first latent is ``init_scale * noise``.
        process: the noising process and what the model predicts in it; on the CPU.
    """

    name: str
    timesteps: Tensor
    a: Tensor
    b: Tensor
    sigma: Tensor
    init_scale: float
    process: Process

    @classmethod
    def from_diffusers(
        cls,
        scheduler: Any,
        steps: int = 50,
        kind: str | None = None,
        eta: float = 0.0,
        *,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> "Schedule":
        """Build the table of ``steps`` steps that equals the diffusers class step by step.

        Args:
            scheduler: a diffusers scheduler, or its config; FlowMatchEulerDiscreteScheduler's gives
                rectified flow, whose states are not variance-preserving. Options that a scheduler
                object has only from its class's defaults are replaced by the defaults of ``kind``'s
                class, as in diffusers' own ``from_config``.
            steps: N, 1 to T.
            kind: one of SOLVERS; None takes the scheduler's own class.
            eta: noise of ddim, 0 to 1.
            sigmas: of a flow: its times before the shift, in the place of the scheduler's own N.
            mu: of a flow whose shift depends on the size of the picture: that shift.

        Raises:
            UserError: an unknown solver, a number out of range, or a config whose step is not
                affine.
        """
        if solvers.is_flow(scheduler):
            return cls._flow(scheduler, steps, kind, sigmas, mu)
        kind, native = solvers.resolve(scheduler, kind)
        levels = squared_signal(native)
        total = len(levels)
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
        if prediction == "epsilon" and float(levels[-1]) <= solvers.NO_SIGNAL:
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
            process=VariancePreserving(squared_signal=levels, prediction=prediction),
        )

    @classmethod
    def _flow(
        cls,
        scheduler: Any,
        steps: int,
        kind: str | None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> "Schedule":
        """Euler's method in rectified flow: ``z' = z + (t' - t) v``, for any spacing."""
        if kind not in (None, "euler"):
            raise UserError(f"scheduler {kind!r} does not solve a flow: choose euler")
        timesteps, times, scale = solvers.derive_flow(scheduler, steps, sigmas, mu)
        return cls(
            name="euler",
            timesteps=timesteps,
            a=torch.ones_like(timesteps),
            b=times[1:] - times[:-1],
            sigma=torch.zeros_like(timesteps),
            init_scale=1.0,
            process=RectifiedFlow(model_scale=scale),
        )

    def __getattr__(self, name: str) -> Any:
        """Attributes of the process, by the names that they had here."""
        if name not in OF_SCHEDULE:
            raise AttributeError(f"'Schedule' object has no attribute {name!r}")
        warnings.warn(f"Schedule.{name} is .process.{OF_SCHEDULE[name]} now", DeprecationWarning, 2)
        return getattr(self.process, OF_SCHEDULE[name])

    @property
    def steps(self) -> int:
        """N."""
        return len(self.timesteps)

    @classmethod
    def levels(cls, scheduler: Any) -> "Schedule":
        """A schedule that is used only for its noise levels and prediction type, which every solver
        shares.

        How the scheduler would step (its spacing, variance, clipping, own sigmas) does not matter
        for re-noising and training.

        Raises:
            UserError: as ``from_diffusers``, except for options of the step.
        """
        if solvers.is_flow(scheduler):
            return cls._flow(solvers.plain_flow(scheduler), 1, None)
        stepping = {"clip_sample": False, "thresholding": False, "variance_type": "fixed_small"}
        # The object's defaults count as if they were given: no other class's may replace them.
        own = {**stepping, "steps_offset": 0, "_use_default_values": []}
        return cls.from_diffusers(
            {**solvers.config_of(scheduler), **own, "timestep_spacing": "leading"},
            steps=1,
            kind="ddpm",
        )

    def weights(self, convention: str | None = None, t_min: float | None = None) -> Tensor:
        """``[N]`` float64 such that ``sum_i weights_i ||delta_i||^2`` is the mutual information
        over the counted steps, in nats: Eq. 2 for diffusion.

        Args:
            convention: a name in the process's ``conventions``; None is the first.
            t_min: only steps with t > t_min count; None takes the convention's own.

        Raises:
            UserError: unknown convention; or no step counts.
        """
        convention = convention or next(iter(self.process.conventions))
        least = self.process.least_t(convention, t_min)
        if not bool(self.process.counted(self.timesteps, least).any()):
            given = self.process.conventions[convention] if t_min is None else t_min
            raise UserError(
                f"t_min is {given:g}: no step of the schedule is above it, the first is at "
                f"{float(self.timesteps[0]):g}; use a lower t_min or more steps"
            )
        return self.process.step_weights(self.timesteps, convention, least)

    def table(self, weights: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """``[N, 5]`` float32 on ``device`` for ``mitune_kernels.step``: a, b, sigma, weight, t."""
        columns = torch.stack(
            [self.a, self.b, self.sigma, weights.double(), self.timesteps.double()], dim=1
        )
        return columns.to(device=device, dtype=torch.float32)
