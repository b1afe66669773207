"""The score of RFMI (Wang et al., arXiv 2503.14358) as its authors run it, from what generation
records."""

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.diffusion.rectified_flow import RectifiedFlow
from mitune.diffusion.schedule import Schedule


def rfmi(terms: Tensor, schedule: Schedule, guidance: float, t_min: float | None = None) -> Tensor:
    """The mean over a sampler's steps with t_min < t < 1 of ``(1 - t) / t <v_g, v_g - v_u>``, with
    the guided velocity ``v_g = v_u + guidance (v_c - v_u)``.

    It is neither the mutual information nor its mean over the steps: guidance is in it, and so is
    the unconditional velocity's own part along the difference.

    Args:
        terms: ``[..., N, 2]``, for each step ``(||v_c - v_u||^2, <v_u, v_c - v_u>)``; NaN for steps
            that were not taken.
        schedule: of the sampler, with N steps.
        guidance: of the sampler.
        t_min: where the counted steps begin; None: 0.05, as in the authors' code.

    Returns:
        ``[...]`` float64, in nats times the square of the guidance.

    Raises:
        UserError: as :func:`rfmi_weights`.
    """
    squared, cross = terms.double().unbind(-1)
    return (guidance * cross + guidance**2 * squared) @ rfmi_weights(schedule, t_min)


def rfmi_weights(schedule: Schedule, t_min: float | None = None) -> Tensor:
    """``(1 - t) / t`` over the number of counted steps, ``[N]`` float64; 0 for the others.

    Raises:
        UserError: the process is not a flow's, or no step counts.
    """
    process = schedule.process
    if not isinstance(process, RectifiedFlow):
        raise UserError(
            "estimator rfmi belongs to a flow, and this model is one of diffusion: expected "
            "trajectory, orthogonal or standard"
        )
    least = process.least_t("mean", t_min)
    t = schedule.timesteps.double() / process.model_scale
    counted = (t > least) & (t < 1)
    if not bool(counted.any()):
        raise UserError(
            f"t_min is {least:g}: no step of the schedule is above it and below 1; use a lower "
            "t_min or more steps"
        )
    return torch.where(counted, (1 - t) / t, 0.0) / counted.sum()
