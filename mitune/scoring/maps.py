"""Maps of point-wise mutual information: which parts of a picture a prompt, or a phrase of it,
determines (Kong et al., arXiv 2310.07972; Wang et al., section 5)."""

from collections.abc import Sequence
from typing import Any

import torch
from mitune_kernels import normal
from torch import Tensor

from mitune.config.options import with_options
from mitune.config.sets import ScoreConfig
from mitune.core.errors import UserError
from mitune.core.prompts import check_prompts
from mitune.diffusion.schedule import Schedule
from mitune.models.protocol import LatentModel
from mitune.runtime.prepared import prepare
from mitune.scoring.estimate import Predicted, Renoising, renoised


def mi_map(
    model: LatentModel,
    prompts: Sequence[str],
    latents: Tensor,
    config: ScoreConfig | None = None,
    *,
    rests: Sequence[str] | None = None,
    **options: Any,
) -> Tensor:
    """Point-wise mutual information at each position of given latents.

    The squared errors that ``mitune.score`` sums over a whole latent are summed over channels
    alone, so a map's sum over positions is the score of the same config.

    Args:
        model: from ``mitune.load``.
        prompts: N texts.
        latents: ``[N, C, h, w]`` float32, in the sampler's scale.
        config: estimator, draws, weights and noise; None takes the defaults.
        rests: N texts in the place of the empty prompt. With a prompt without one of its phrases,
            the map is of what that phrase adds to the rest.
        options: fields of ``ScoreConfig`` by name, such as ``estimator="standard"``. They override
            ``config``.

    Returns:
        ``[N, h, w]`` float32 on the CPU, in nats.

    Raises:
        UserError: numbers of prompts, latents and rests differ, latents have another shape than the
            model's, or a setting is not valid.
    """
    config = with_options(config or ScoreConfig(), options)
    if len({len(prompts), len(latents), len(prompts if rests is None else rests)}) > 1:
        raise UserError(
            f"{len(latents)} latents for {len(prompts)} prompts"
            + ("" if rests is None else f" and {len(rests)} rests")
            + ": expected as many of each"
        )
    check_prompts(prompts)
    if tuple(latents.shape[1:]) != model.latent_shape:
        raise UserError(
            f"latents have shape {tuple(latents.shape)}: expected "
            f"[N, {', '.join(map(str, model.latent_shape))}]"
        )
    prepared = prepare(model, config.runtime)
    null = prepared.encode_null() if rests is None else prepared.encode_rows(rests)
    how = Renoising(
        draws=config.draws,
        seed=config.seed,
        batch=config.batch,
        t_min=config.t_min,
        convention=config.convention,
        shared_noise=config.shared_noise,
    )
    terms = torch.zeros(len(latents) * config.draws, *latents.shape[2:], dtype=torch.float64)
    for part in renoised(
        prepared,
        latents.to(model.device),
        prepared.encode_rows(prompts),
        null,
        Schedule.levels(model.scheduler),
        how,
    ):
        errors = _squared(part, config.estimator).view(-1, *latents.shape[1:]).sum(dim=1)
        terms[part.items.cpu()] = (part.weight.view(-1, 1, 1) * errors.double()).cpu()
    return terms.view(len(latents), config.draws, *latents.shape[2:]).mean(dim=1).float()


def _squared(part: Predicted, estimator: str) -> Tensor:
    """What the estimator weights, of every element: as ``mitune_kernels.renoise_score`` without its
    sum, ``[B, elements]`` float32."""
    uncond, cond = part.uncond.float(), part.cond.float()
    delta = cond - uncond
    if estimator == "orthogonal":
        return delta.square()
    row, key, draw, levels = part.noise
    of_noise, of_clean = levels[:, 2:3], levels[:, 3:4]
    target = of_noise * normal(key, draw, part.clean.shape[1:]) + of_clean * part.clean[row]
    return delta * ((target - uncond) + (target - cond))
