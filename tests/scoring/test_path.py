"""The log-ratio of a path against the closed form of the Gaussian world, and against the engine's
path."""

from typing import Any

import gaussian
import pytest
import torch

from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.diffusion.noise import candidate_keys
from mitune.diffusion.schedule import Schedule
from mitune.engine.stream import generate
from mitune.scoring.path import path_ratio

PROMPTS = ["a red circle", "a blue square and a green triangle"]


class Denoiser:
    """The Gaussian world's, of records of conditioning."""

    def __init__(self) -> None:
        self._of = gaussian.Denoiser()

    def __call__(self, z: Any, t: Any, cond: Any) -> Any:
        return self._of(z, t, cond["p"])


def path(count: int, steps: int, guidance: float, **changes: Any) -> tuple[Any, ...]:
    p, _ = gaussian.pairs(count)
    keys = torch.zeros(count, 4, dtype=torch.int64)
    keys[:, 2] = torch.arange(count)
    schedule = Schedule.from_diffusers(gaussian.scheduler(), steps)
    null = {"p": gaussian.NULL.view(1, -1)}
    found, z = path_ratio(
        Denoiser(), keys, {"p": p}, null, schedule, (gaussian.D,), guidance=guidance, **changes
    )
    return p, found, z


def test_of_fine_steps_it_is_the_pointwise_log_ratio_of_where_they_end() -> None:
    """The reverse of the noising process has its joint distribution, so the path beyond z0 says
    nothing about p; what is left over is the error of the steps."""
    p, found, z = path(200, 1000, 1.0)
    truth = gaussian.log_ratio(p, z)
    assert float(torch.corrcoef(torch.stack([found, truth]))[0, 1]) > 0.99
    assert float(found.mean()) == pytest.approx(float(truth.mean()), rel=0.02)


def test_guidance_raises_it_and_the_batch_changes_nothing() -> None:
    _, plain, _ = path(40, 50, 1.0)
    _, guided, _ = path(40, 50, 3.0)
    assert float(guided.mean()) > float(plain.mean())
    assert torch.allclose(path(40, 50, 3.0, batch=7)[1], guided, rtol=1e-5)
    assert not torch.allclose(path(40, 50, 3.0, t_min=400)[1], guided, rtol=1e-2)


def test_a_path_is_the_engines(exact_model: Any) -> None:
    sampler = SamplerConfig(steps=6, guidance=2.0)
    made = list(generate(exact_model, PROMPTS, candidates=3, sampler=sampler, slots=6))
    keys = candidate_keys([(c.seed, c.prompt, c.index) for c in made])
    rows = torch.tensor([PROMPTS.index(c.prompt) for c in made])
    encoded = exact_model.encode_prompts(PROMPTS)
    found, ends = path_ratio(
        exact_model,
        keys,
        {name: tensor[rows] for name, tensor in encoded.items()},
        exact_model.encode_null(),
        exact_model.schedule(sampler),
        exact_model.latent_shape,
        guidance=2.0,
    )
    assert torch.isfinite(found).all()
    assert torch.allclose(ends, torch.stack([c.latent for c in made]), atol=1e-3)


def test_a_sampler_without_noise_is_refused() -> None:
    schedule = Schedule.from_diffusers(gaussian.scheduler(), 10, "ddim")
    keys = torch.zeros(1, 4, dtype=torch.int64)
    p, _ = gaussian.pairs(1)
    null = {"p": gaussian.NULL.view(1, -1)}
    with pytest.raises(UserError, match="ancestral"):
        path_ratio(Denoiser(), keys, {"p": p}, null, schedule, (gaussian.D,), guidance=1.0)
