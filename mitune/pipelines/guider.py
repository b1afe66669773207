"""Mutual information inside any modular pipeline of diffusers that takes a guider."""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.guiders.guider_utils import GuiderOutput
from torch import Tensor

from mitune.core.errors import UserError
from mitune.diffusion.schedule import Schedule
from mitune.diffusion.solvers import is_flow

_SAME = 1e-3
"""Two timesteps that differ by less are one."""


class MIGuidance(ClassifierFreeGuidance):  # type: ignore[misc]
    """Classifier-free guidance that also scores what is drawn: Eq. 2 of Wang et al. along the
    sampler's own path, from the two predictions that guidance makes anyway.

    The second prediction must be that of no prompt: with a negative prompt the number is not
    mutual information. Some pipelines make it only with ``negative_prompt=""``.

    Args:
        guidance_scale: as diffusers'; at 1 both predictions are made all the same.
        guidance_rescale, use_original_formulation: as diffusers'; the score sees the two raw
            predictions alone.

    Attributes:
        scheduler: of the pipeline, whose noise levels the score needs; set by :func:`guider`.
        convention, t_min: of the score, as in ``mitune.Schedule.weights``.
        terms: after a run ``[B, N, 2]`` float32 on the CPU, for each step
            ``(||delta||^2, <uncond, delta>)``, unweighted, in the order in which they were taken.
        nats: ``[B]`` float32 on the CPU, the score of each row of the batch.
    """

    scheduler: Any = None
    convention: str | None = None
    t_min: float | None = None

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        guidance_scale: float = 7.5,
        guidance_rescale: float = 0.0,
        use_original_formulation: bool = False,
    ) -> None:
        super().__init__(guidance_scale, guidance_rescale, use_original_formulation)
        self._taken: list[Tensor] = []
        self._weights: list[float] = []
        self._table: tuple[Tensor, Tensor] | None = None

    def set_state(self, step: int, num_inference_steps: int, timestep: Tensor) -> None:
        super().set_state(step, num_inference_steps, timestep)
        if step == 0:
            self._taken, self._weights, self._table = [], [], None

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor | None = None) -> GuiderOutput:
        if pred_uncond is None:
            raise UserError(
                "the pipeline made no prediction without the prompt: expected one at every step; "
                "let the guider be enabled and the negative prompt empty"
            )
        uncond = pred_uncond.flatten(1).double()
        delta = pred_cond.flatten(1).double() - uncond
        if not bool(delta.any()):
            raise UserError(
                "both predictions are the same: expected one with and one without the prompt; some "
                "pipelines make the second one only if they are given negative_prompt=''"
            )
        terms = torch.stack([delta.square().sum(1), (uncond * delta).sum(1)], dim=1)
        self._taken.append(terms.float().cpu())
        self._weights.append(self._weight())
        return super().forward(pred_cond, pred_uncond)

    @property
    def terms(self) -> Tensor:
        if not self._taken:
            raise UserError("the guider has no scores yet: run the pipeline that it was given to")
        return torch.stack(self._taken, dim=1)

    @property
    def nats(self) -> Tensor:
        weights = torch.tensor(self._weights, dtype=torch.float64)
        return (self.terms[..., 0].double() @ weights).float()

    def _is_cfg_enabled(self) -> bool:
        return bool(self._enabled)  # at a scale of 1 too

    def _weight(self) -> float:
        """Of the step that the pipeline takes, found by its timestep: a pipeline that begins later,
        as from a picture, visits only the last ones, and sums over these."""
        if self.scheduler is None:
            raise UserError(
                "the guider knows no scheduler: expected that of the pipeline; make it "
                "with mitune.guider(pipe)"
            )
        if self._table is None:
            self._table = visited(self.scheduler, self.convention, self.t_min)
        timesteps, weights = self._table
        now = float(torch.as_tensor(self._timestep).flatten()[0])
        apart, index = (timesteps - now).abs().min(0)
        if float(apart) > _SAME:
            raise UserError(
                f"the pipeline is at timestep {now:g}, which its scheduler does not visit in "
                f"{len(timesteps)} steps: expected the scheduler that the guider was made with"
            )
        return float(weights[index])


def visited(scheduler: Any, convention: str | None, t_min: float | None) -> tuple[Tensor, Tensor]:
    """The timesteps that a diffusers scheduler was set to, and the weight of each in the score,
    both ``[N]`` float64."""
    if scheduler.num_inference_steps is None:
        raise UserError(
            "the scheduler has no timesteps: expected the one that the pipeline has set; make the "
            "guider with mitune.guider(pipe)"
        )
    if is_flow(scheduler):  # whatever times and shift the pipeline gave it
        process = Schedule.levels(scheduler).process
        timesteps = scheduler.timesteps.double().cpu()
        name = convention or next(iter(process.conventions))
        return timesteps, process.step_weights(timesteps, name, process.least_t(name, t_min))
    schedule = Schedule.from_diffusers(scheduler, scheduler.num_inference_steps)
    return schedule.timesteps, schedule.weights(convention, t_min)


def guider(
    pipe: Any,
    guidance_scale: float = 7.5,
    *,
    convention: str | None = None,
    t_min: float | None = None,
    **options: Any,
) -> MIGuidance:
    """A guider for a modular pipeline, which also scores what is drawn.

    ::

        pipe.update_components(guider=mitune.guider(pipe, guidance_scale=5.0))
        images = pipe(
            prompt="a red circle", num_images_per_prompt=16, negative_prompt="", output="images"
        )
        best = images[int(pipe.guider.nats.argmax())]

    Args:
        pipe: a modular pipeline, with the ``scheduler`` that it will use; or that scheduler itself.
        guidance_scale: of classifier-free guidance; the score does not see it.
        convention: weights of the score, as in ``mitune.Schedule.weights``; None: Eq. 2 for
            diffusion, the integral for a flow.
        t_min: only steps with t > t_min count; None: the convention's own.
        options: of diffusers' ClassifierFreeGuidance: guidance_rescale, use_original_formulation.
    """
    made: MIGuidance = MIGuidance(guidance_scale=guidance_scale, **options)
    made.scheduler = getattr(pipe, "scheduler", pipe)
    made.convention, made.t_min = convention, t_min
    return made
