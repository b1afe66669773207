"""A sampler as a policy: every step with noise draws from a normal distribution whose mean the
denoiser predicts, so a path has a likelihood that can be learned from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.diffusion.noise import candidate_keys
from mitune.diffusion.schedule import Schedule
from mitune.engine.walk import walk
from mitune.methods.sampling.guided import Guided


@dataclass(frozen=True, kw_only=True)
class Paths:
    """B paths of a sampler.

    Attributes:
        states: ``[N + 1, B, ...]`` float32, the latents before each step and at the end.
        log_probs: ``[N, B]`` float32, of each step; 0 where it adds no noise.
    """

    states: Tensor
    log_probs: Tensor


def noisy_steps(schedule: Schedule) -> list[int]:
    """The steps that add noise.

    Raises:
        UserError: there are none.
    """
    found = (schedule.sigma > 0).nonzero().flatten().tolist()
    if not found:
        raise UserError(
            "the sampler adds no noise, and its steps have no likelihood: expected an ancestral "
            "sampler such as ddpm"
        )
    return list(found)


def mean_of(guided: Guided, z: Tensor, step: int) -> Tensor:
    """The mean of the step from ``z`` ([B, ...]); gradients reach the denoiser's weights."""
    predicted = guided.guide(*guided.predict(z, step), step)
    a, b = float(guided.schedule.a[step]), float(guided.schedule.b[step])
    return a * z + b * predicted


def log_prob(mean: Tensor, after: Tensor, sigma: float) -> Tensor:
    """The log-density of ``after`` under a normal distribution, per element and without its
    constant: ``-mean ||after - mean||^2 / 2 sigma^2``, ``[B]``."""
    return -(after - mean).square().flatten(1).mean(1) / (2 * sigma**2)


def drawn(guided: Guided, keys: Sequence[tuple[int, str, int]]) -> Paths:
    """Take the paths of the candidates that ``keys``, (seed, prompt, index), name."""
    schedule = guided.schedule
    key = candidate_keys(keys).to(guided.model.device)
    states, log_probs = [], []
    for taken in walk(guided, schedule, key, guided.model.latent_shape):
        sigma = float(schedule.sigma[taken.number])
        density = log_prob(taken.mean, taken.after, sigma) if sigma else torch.zeros(len(keys))
        states.append(taken.z)
        log_probs.append(density.to(key.device))
    return Paths(states=torch.stack([*states, taken.after]), log_probs=torch.stack(log_probs))
