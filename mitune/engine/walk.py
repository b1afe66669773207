"""A sampler's steps one by one, from the keyed noise of candidates: for what has to see every step,
or to change it. The engine takes the same paths, many at once."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from mitune_kernels import normal
from torch import Tensor

from mitune.diffusion.schedule import Schedule


class Guidance(Protocol):
    """What happens in a step."""

    def before(self, z: Tensor, step: int) -> Tensor:
        """The latents ``[B, ...]`` with which the step is taken, in place of ``z``."""
        ...

    def predict(self, z: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The unconditional and the conditional prediction, ``[B, ...]`` float32 each."""
        ...

    def guide(self, uncond: Tensor, cond: Tensor, step: int) -> Tensor:
        """The prediction with which the step is taken."""
        ...


class Step(NamedTuple):
    """One step of B candidates."""

    number: int
    z: Tensor
    """``[B, ...]``, the latents before the step."""
    uncond: Tensor
    cond: Tensor
    mean: Tensor
    """``[B, ...]``, of the distribution that the next latents are drawn from."""
    noise: Tensor
    """``[B, ...]`` standard normal; 0 where the step adds none."""
    after: Tensor
    """``[B, ...]``, the next latents."""


@torch.no_grad()
def walk(
    guidance: Guidance, schedule: Schedule, keys: Tensor, shape: tuple[int, ...]
) -> Iterator[Step]:
    """Take all steps of some candidates.

    Args:
        guidance: predicts and guides.
        schedule: the sampler's.
        keys: ``[B, 4]`` int64, of ``mitune.diffusion.noise.candidate_keys``.
        shape: of a latent.

    Yields:
        Each step once it is taken.
    """
    first = torch.zeros(len(keys), dtype=torch.int64, device=keys.device)
    z = schedule.init_scale * normal(keys, first, shape)
    rows = torch.stack([schedule.a, schedule.b, schedule.sigma], dim=1).tolist()
    for number, (a, b, sigma) in enumerate(rows):
        z = guidance.before(z, number)
        uncond, cond = guidance.predict(z, number)
        mean = a * z + b * guidance.guide(uncond, cond, number)
        noise = normal(keys, first + number + 1, shape) if sigma else torch.zeros_like(mean)
        after = mean + sigma * noise
        yield Step(number, z, uncond, cond, mean, noise, after)
        z = after
