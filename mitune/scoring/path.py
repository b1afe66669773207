"""The log-ratio of a sampling path: how much likelier a sampler's own Gaussian steps were under the
prompt than without it. At guidance 1 and with fine steps it is ``log p(z0 | p) / p(z0)`` of the
picture in which the path ends.

A step goes to ``z' = a z + b f + sigma n``, where the guided prediction is ``f = f_u + g (f_c -
f_u)``. With ``d = b (f_c - f_u)``, the distance of the two means, its log-ratio is

    (||z' - mu_u||^2 - ||z' - mu_c||^2) / 2 sigma^2
        = ((2 g - 1) ||d||^2 + 2 sigma <n, d>) / 2 sigma^2.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.diffusion.schedule import Schedule
from mitune.engine.walk import walk
from mitune.models.protocol import Denoiser, PairDenoiser, concat, take


def path_ratio(
    denoise: Denoiser | PairDenoiser,
    keys: Tensor,
    cond: Mapping[str, Tensor],
    null: Mapping[str, Tensor],
    schedule: Schedule,
    shape: tuple[int, ...],
    *,
    guidance: float,
    batch: int = 64,
    t_min: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Take the paths of some candidates again from their keyed noise, and sum the log-ratios of
    their counted steps; a step without noise, such as the last one, has none.

    Args:
        denoise: the model, or the denoiser that generation calls.
        keys: ``[N, 4]`` int64, of ``mitune.diffusion.noise.candidate_keys``.
        cond: N rows.
        null: one row.
        schedule: the sampler's.
        shape: of a latent.
        guidance: the sampler's.
        batch: candidates in one call; the denoiser predicts twice as many rows.
        t_min: only steps with t > t_min count.

    Returns:
        ``[N]`` float64 on the CPU, in nats; and ``[N, *shape]`` float32, where the paths end.

    Raises:
        UserError: the sampler adds no noise in any counted step.
    """
    process = schedule.process
    least = process.least_t(next(iter(process.conventions)), t_min)
    counted = process.counted(schedule.timesteps, least) & (schedule.sigma > 0)
    if not bool(counted.any()):
        raise UserError(
            "the sampler adds no noise in its counted steps, and a path without noise has no "
            "likelihood: expected an ancestral sampler such as ddpm"
        )
    ratios, ends = [], []
    for rows in torch.arange(len(keys), device=keys.device).split(batch):
        both = concat([take(null, torch.zeros_like(rows)), take(cond, rows)])
        plain = _Plain(denoise, both, schedule, guidance)
        total = torch.zeros(len(rows), dtype=torch.float64, device=keys.device)
        for taken in walk(plain, schedule, keys[rows], shape):
            if counted[taken.number]:
                sigma = float(schedule.sigma[taken.number])
                apart = float(schedule.b[taken.number]) * (taken.cond - taken.uncond)
                square, cross = (
                    (apart * x).flatten(1).double().sum(1) for x in (apart, taken.noise)
                )
                total += ((2 * guidance - 1) * square / sigma + 2 * cross) / (2 * sigma)
        ratios.append(total.cpu())
        ends.append(taken.after.cpu())
    return torch.cat(ratios), torch.cat(ends)


class _Plain:
    """Classifier-free guidance by any denoiser; arguments as of ``path_ratio``, and the
    conditioning of both passes."""

    def __init__(
        self,
        denoise: Denoiser | PairDenoiser,
        both: Mapping[str, Tensor],
        schedule: Schedule,
        scale: float,
    ) -> None:
        self._pairs = getattr(denoise, "pairs", None)
        self._denoise, self._both, self._schedule, self._scale = denoise, both, schedule, scale

    def before(self, z: Tensor, step: int) -> Tensor:
        return z

    def predict(self, z: Tensor, step: int) -> tuple[Tensor, Tensor]:
        t = float(self._schedule.timesteps[step])
        at = torch.full((len(z),), t, dtype=torch.float32, device=z.device)
        if self._pairs is None:
            made = self._denoise(torch.cat([z, z]), torch.cat([at, at]), self._both)
        else:
            made = self._pairs(z, at, self._both)
        uncond, cond = made.float().chunk(2)
        return uncond, cond

    def guide(self, uncond: Tensor, cond: Tensor, step: int) -> Tensor:
        return uncond + self._scale * (cond - uncond)
