"""SOLACE's self-confidence against its definition."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mitune.diffusion.schedule import Schedule
from mitune.scoring.confidence import confidence
from mitune.worlds.networks import scheduler

SCHEDULE = Schedule.levels(scheduler())
LATENTS = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
COND = {"text": torch.arange(3.0)[:, None]}


def test_it_is_minus_the_log_of_the_mean_squared_error_of_the_noise() -> None:
    """A model whose error of the noise is known."""
    wrong = torch.tensor([0.1, 0.5, 2.0])

    def denoise(z: Tensor, t: Tensor, cond: Any) -> Tensor:
        row = cond["text"][:, 0].long()
        signal, spread = (x.float().view(-1, 1, 1, 1) for x in SCHEDULE.process.levels(t))
        noise = (z - signal * LATENTS[row]) / spread
        return noise + wrong[row].view(-1, 1, 1, 1)

    found, t = confidence(denoise, LATENTS, COND, SCHEDULE, times=4, probes=2, batch=5)
    assert t.tolist() == [125, 375, 625, 875]
    for row, error in enumerate(wrong.tolist()):
        assert found[row].tolist() == pytest.approx([-math.log(error**2 + 1e-6)] * 4, rel=1e-3)


def test_probes_come_in_pairs_of_opposite_noise_that_all_pictures_share() -> None:
    seen: list[Tensor] = []

    def denoise(z: Tensor, t: Tensor, cond: Any) -> Tensor:
        row = cond["text"][:, 0].long()
        signal, spread = (x.float().view(-1, 1, 1, 1) for x in SCHEDULE.process.levels(t))
        seen.append((z - signal * LATENTS[row]) / spread)
        return torch.zeros_like(z)

    found, _ = confidence(denoise, LATENTS, COND, SCHEDULE, times=2, probes=4, batch=24)
    noise = seen[0].view(3, 2, 4, 2, 4, 4)
    assert torch.allclose(noise[:, :, :2], -noise[:, :, 2:], atol=1e-4)
    assert torch.allclose(noise[0], noise[1], atol=1e-4)
    assert not torch.allclose(noise[0, 0], noise[0, 1], atol=1e-1)
    again, _ = confidence(denoise, LATENTS, COND, SCHEDULE, times=2, probes=4, batch=7)
    assert torch.allclose(found, again)


def test_only_times_above_t_min_count_and_probes_are_even() -> None:
    def denoise(z: Tensor, t: Tensor, cond: Any) -> Tensor:
        return torch.zeros_like(z)

    _, t = confidence(denoise, LATENTS, COND, SCHEDULE, times=4, probes=2, t_min=400)
    assert float(t.min()) > 400
    with pytest.raises(ValueError, match="3 probes"):
        confidence(denoise, LATENTS, COND, SCHEDULE, probes=3)
