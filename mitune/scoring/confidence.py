"""SOLACE's self-confidence of a model in given pictures: how well its conditional pass recovers the
noise that they are re-noised with (Kim and Cho, CVPR 2026, arXiv 2603.00918).

It is the ``standard`` estimator without its unconditional term: it prefers what is likely under the
prompt, whether or not the prompt is what makes it likely.
"""

from collections.abc import Mapping

import torch
from mitune_kernels import normal
from torch import Tensor

from mitune.diffusion.process import Process, target
from mitune.diffusion.schedule import Schedule
from mitune.models.protocol import Denoiser, take
from mitune.scoring.estimate import noise_keys

_LEAST = 1e-6
"""Added to the squared error, as the authors do."""


@torch.no_grad()
def confidence(
    denoise: Denoiser,
    z0: Tensor,
    cond: Mapping[str, Tensor],
    schedule: Schedule,
    *,
    times: int = 8,
    probes: int = 8,
    seed: int = 0,
    batch: int = 64,
    t_min: float | None = None,
) -> tuple[Tensor, Tensor]:
    """At each of some times minus the logarithm of the mean squared error of the recovered noise.

    Args:
        denoise: ``(z [B, ...], t [B], cond of B rows) -> [B, ...]``.
        z0: ``[N, ...]`` float32.
        cond: N rows.
        schedule: of the model's levels of noise.
        times: evenly spaced over the counted range.
        probes: draws of noise at each time, an even number: each is also taken with its sign
            changed.
        seed: keys the noise, which all pictures share.
        batch: copies in one call.
        t_min: only t > t_min counts.

    Returns:
        ``[N, times]`` float64 on the CPU, higher is better; and the times as the network is given
        them, ``[times]`` float64.

    Raises:
        ValueError: an odd number of probes.
    """
    if probes % 2:
        raise ValueError(f"got {probes} probes; expected an even number")
    process: Process = schedule.process.to(z0.device)
    least = process.least_t(next(iter(process.conventions)), t_min)
    place = (torch.arange(times, dtype=torch.float64, device=z0.device) + 0.5) / times
    t = process.draw_t(place, least)
    levels = torch.stack([*process.levels(t), *target(process.prediction, *process.levels(t))])
    levels = levels.float().T  # [times, 4]: signal, spread, of_noise, of_clean
    shape, halves = z0.shape[1:], probes // 2
    keys = noise_keys(seed, torch.zeros(times * halves, dtype=torch.int64, device=z0.device))
    numbers = torch.arange(times * halves, device=z0.device)
    noise = normal(keys, numbers, shape).view(times, halves, *shape)
    noise = torch.cat([noise, -noise], dim=1)  # [times, probes, ...]
    errors = torch.zeros(len(z0) * times * probes, dtype=torch.float64)
    for items in torch.arange(len(errors), device=z0.device).split(batch):
        if getattr(denoise, "fixed_shapes", False):  # a smaller last batch would recompile
            items = torch.cat([items, items[-1:].expand(batch - len(items))])
        row, rest = items // (times * probes), items % (times * probes)
        time, probe = rest // probes, rest % probes
        signal, spread, of_noise, of_clean = (
            column.view(-1, *(1,) * len(shape)) for column in levels[time].unbind(1)
        )
        clean, drawn = z0[row], noise[time, probe]
        made = denoise(
            signal * clean + spread * drawn, process.model_t(t[time]), take(cond, row)
        ).float()
        away = made - (of_noise * drawn + of_clean * clean)
        # Solved for the noise, a prediction's error is multiplied by this: 1 where it is of noise.
        away = away * signal / (signal * of_noise - spread * of_clean)
        errors[items.cpu()] = away.square().flatten(1).mean(1).double().cpu()
    mean = errors.view(len(z0), times, probes).mean(dim=2)
    return -(mean + _LEAST).log(), process.model_t(t).double().cpu()
