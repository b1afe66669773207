"""Scores of pictures under a model or under a user's own pipeline."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mitune.config.sets import ScoreConfig
from mitune.core.errors import UserError
from mitune.core.images import from_pictures
from mitune.load import adopt
from mitune.scoring.score import score as score_tensors


def score(
    model: Any,
    prompts: Sequence[str],
    images_or_latents: Any,
    config: ScoreConfig | None = None,
    **options: Any,
) -> Tensor:
    """Estimate I(z, p) of N given pictures by re-noising: Eq. 2, or for the estimator "standard"
    Kong et al. 2024.

    Args:
        model: from ``mitune.load``; or a diffusers pipeline of a family that it knows, on its
            device and in its dtype, which is not changed.
        prompts: N texts.
        images_or_latents: pictures ``[N, 3, h, w]`` in [0, 1]; or N ``PIL.Image``, each cropped at
            its centre and resized to the model's size; or latents ``[N, ...]`` of the model's
            latent shape.
        config: the estimator and the runtime settings; None uses the defaults.
        options: fields of ``ScoreConfig`` and of its nested configs by name, such as ``draws=16``.
            They override ``config``.

    Returns:
        ``[N]`` float32, nats.

    Raises:
        UserError: if the numbers of prompts and pictures differ, a prompt is not text, the
            estimator is unknown, or the pipeline cannot be used as it is.
    """
    own = adopt(model)
    if isinstance(prompts, str):
        raise UserError("prompts is one text: expected a list with one prompt for each picture")
    if not isinstance(images_or_latents, (Tensor, Sequence)):
        raise UserError(
            f"images is a {type(images_or_latents).__name__}: expected a tensor, or a list of "
            "PIL.Image"
        )
    if not isinstance(images_or_latents, Tensor):
        images_or_latents = from_pictures(images_or_latents, own.picture_size)
    return score_tensors(own, prompts, images_or_latents, config, **options)
