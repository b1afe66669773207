"""Score given pictures: the point-wise mutual information with their prompts under a model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mitune.config.options import with_options
from mitune.config.sets import ScoreConfig
from mitune.core.errors import UserError
from mitune.core.prompts import check_prompts
from mitune.diffusion.schedule import Schedule
from mitune.models.protocol import LatentModel
from mitune.runtime.prepared import prepare
from mitune.scoring.estimate import pointwise_mi

_OVER = 1e-3
"""How far rounding may lead out of the range."""


def _checked(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures in the range and of the size that the model takes."""
    if not pictures.is_floating_point():
        raise UserError(
            f"pictures are {str(pictures.dtype).removeprefix('torch.')}: expected floating point "
            "in [0, 1]; divide bytes by 255"
        )
    if tuple(pictures.shape[2:]) != size:
        height, width = pictures.shape[2:]
        raise UserError(
            f"pictures are {width}x{height}: expected {size[1]}x{size[0]}, the model's own; resize "
            "them, or give PIL images, which are cropped and resized"
        )
    low, high = (float(value) for value in pictures.aminmax())
    if not (low >= -_OVER and high <= 1 + _OVER):
        raise UserError(
            f"pictures reach from {low:g} to {high:g}: expected [0, 1]; map [-1, 1] by x / 2 + 0.5"
        )
    return pictures


def score(
    model: LatentModel,
    prompts: Sequence[str],
    images_or_latents: Tensor,
    config: ScoreConfig | None = None,
    **options: Any,
) -> Tensor:
    """For a model and tensors what ``mitune.score`` is (``mitune.pipelines.score``, which also
    takes a user's own pipeline and PIL images).
    """
    config = with_options(config or ScoreConfig(), options)
    if len(prompts) != len(images_or_latents):
        raise UserError(
            f"{len(images_or_latents)} pictures for {len(prompts)} prompts: expected one prompt "
            "each"
        )
    check_prompts(prompts)
    if not len(prompts):
        return torch.zeros(0)
    latents = images_or_latents
    if tuple(latents.shape[1:]) != model.latent_shape:
        if latents.ndim != 4 or latents.shape[1] != 3:
            raise UserError(
                f"pictures have shape {tuple(latents.shape)}: expected [N, 3, h, w] in [0, 1], or "
                "latents "
                f"[N, {', '.join(map(str, model.latent_shape))}]"
            )
        latents = model.encode_images(_checked(latents, model.picture_size))
    prepared = prepare(model, config.runtime)
    return pointwise_mi(
        prepared,
        latents.to(model.device),
        prepared.encode_rows(prompts),
        prepared.encode_null(),
        Schedule.levels(model.scheduler),
        estimator=config.estimator,
        draws=config.draws,
        seed=config.seed,
        batch=config.batch,
        convention=config.convention,
        t_min=config.t_min,
        shared_noise=config.shared_noise,
    )
