"""Classifier-free guidance, step by step: what methods that act at sampling override."""

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from mitune.diffusion.schedule import Schedule
from mitune.models.protocol import Conditioning, LatentModel, concat, denoiser_of, take


class Guided:
    """The guidance of one batch of candidates; this class is plain classifier-free guidance.

    Args:
        model: with or without an adapter; its live networks are called, so that gradients reach the
            latents.
        prompts: B texts, one for each candidate.
        schedule: the sampler's.
        guidance: its scale.
    """

    def __init__(
        self, model: LatentModel, prompts: Sequence[str], schedule: Schedule, guidance: float
    ) -> None:
        self.model, self.prompts = model, list(prompts)
        self.schedule, self.guidance = schedule, guidance
        self.network = denoiser_of(model)
        self.cond = self._rows(model.encode_prompts(self.prompts))
        null = model.encode_null()
        self.null = self._rows(take(null, torch.zeros(len(self.prompts), dtype=torch.int64)))

    def _rows(self, cond: Conditioning) -> dict[str, Tensor]:
        return {name: tensor.to(self.model.device) for name, tensor in cond.items()}

    def rows(self, rows: Tensor) -> Self:
        """The guidance of some of the candidates ([M] int64, repeats allowed)."""
        part = copy.copy(self)
        part.prompts = [self.prompts[row] for row in rows.tolist()]
        part.cond, part.null = take(self.cond, rows), take(self.null, rows)
        return part

    def times(self, step: int, rows: int) -> Tensor:
        """``[rows]`` float32: the timestep of a step, as the network is given it."""
        t = float(self.schedule.timesteps[step])
        return torch.full((rows,), t, dtype=torch.float32, device=self.model.device)

    def call(self, z: Tensor, step: int, cond: Conditioning) -> Tensor:
        """The network's prediction at a step, float32."""
        made = self.model.call(self.network, z.to(self.model.dtype), self.times(step, len(z)), cond)
        return made.float()

    def before(self, z: Tensor, step: int) -> Tensor:
        """The latents ``[B, ...]`` with which the step is taken, in place of ``z``."""
        return z

    def predict(self, z: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The unconditional and the conditional prediction, ``[B, ...]`` float32 each."""
        both = self.call(torch.cat([z, z]), step, concat([self.null, self.cond]))
        uncond, cond = both.chunk(2)
        return uncond, cond

    def guide(self, uncond: Tensor, cond: Tensor, step: int) -> Tensor:
        """The prediction with which the step is taken."""
        return uncond + self.guidance * (cond - uncond)
