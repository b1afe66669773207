"""A pool drawn with the caller's own random numbers, in the order in which diffusers draws them."""

from typing import NamedTuple

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from mitune.diffusion.schedule import Schedule
from mitune.models.protocol import Conditioning, LatentModel


class Pool(NamedTuple):
    """The candidates of a prompt."""

    latents: Tensor
    """``[M, C, H, W]`` float32 on the model's device."""
    terms: Tensor
    """``[M, N, 2]`` float32 there: for each step ``(||delta||^2, <uncond, delta>)``."""


@torch.no_grad()
def draw_pool(
    model: LatentModel,
    schedule: Schedule,
    cond: Conditioning,
    null: Conditioning,
    *,
    count: int,
    guidance: float,
    generator: torch.Generator | list[torch.Generator] | None,
    batch: int,
) -> Pool:
    """Take the steps of ``schedule`` with all candidates side by side.

    Args:
        model: predicts, in its own precision.
        schedule: the sampler's table.
        cond, null: one row of conditioning each.
        count: M.
        guidance: classifier-free guidance scale.
        generator: the caller's; as in diffusers it draws the first latents of all candidates at
            once, and after each step the noise of that step.
        batch: candidates in one call of the model.
    """
    shape = (count, *model.latent_shape)

    def noise() -> Tensor:
        drawn: Tensor = randn_tensor(shape, generator, model.device, torch.float32)
        return drawn

    z = noise() * schedule.init_scale
    terms = z.new_zeros(count, schedule.steps, 2)
    rows = zip(
        schedule.timesteps.tolist(),
        schedule.a.tolist(),
        schedule.b.tolist(),
        schedule.sigma.tolist(),
        strict=True,
    )
    for step, (t, a, b, sigma) in enumerate(rows):
        guided = torch.empty_like(z)
        for some in torch.arange(count, device=z.device).split(batch):
            uncond, text = _predict(model, z[some], t, cond, null)
            delta = text - uncond
            flat = delta.flatten(1)
            terms[some, step, 0] = flat.square().sum(1)
            terms[some, step, 1] = (uncond.flatten(1) * flat).sum(1)
            guided[some] = uncond + guidance * delta
        z = a * z + b * guided
        if sigma > 0:
            z = z + sigma * noise()
    return Pool(z, terms)


def _predict(
    model: LatentModel, z: Tensor, t: float, cond: Conditioning, null: Conditioning
) -> tuple[Tensor, Tensor]:
    both = {
        name: torch.cat([null[name].expand_as(own), own])
        for name, row in cond.items()
        for own in [row.expand(len(z), *row.shape[1:])]
    }
    times = torch.full((2 * len(z),), t, device=z.device)
    uncond, text = model(torch.cat([z, z]), times, both).float().chunk(2)
    return uncond, text
