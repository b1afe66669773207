"""Point-wise mutual information of given pictures and prompts under a model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.core.prompts import check_prompts
from mitune.diffusion.schedule import Schedule
from mitune.models.protocol import LatentModel
from mitune.runtime.prepared import prepare
from mitune.scoring.estimate import pointwise_mi


def score(
    model: LatentModel,
    prompts: Sequence[str],
    images_or_latents: Tensor,
    *,
    estimator: str = "orthogonal",
    draws: int = 64,
    seed: int = 0,
    batch: int = 64,
    convention: str | None = None,
    t_min: float | None = None,
    shared_noise: bool = False,
    backend: str = "eager",
    attention: str = "auto",
) -> Tensor:
    """Estimate I(z, p) of N given pictures by re-noising (Eq. 2, or Kong et al. 2024 for
    "standard").

    Args:
        model: from ``mitune.load``.
        prompts: N texts.
        images_or_latents: pictures ``[N, 3, h, w]`` in [0, 1], or latents ``[N, C, H, W]`` of the
            model's latent shape.
        estimator: "orthogonal" or "standard".
        draws: (t, noise) pairs for each picture, t stratified.
        seed: keys the noise; equal seeds give every picture of the same position the same noise.
        batch: rows in one pass of the model.
        convention, t_min: weights, as ``mitune.Schedule.weights``.
        shared_noise: the same noise for every picture, so that scores that are compared differ by
            less of it.
        backend, attention: what runs the UNet, as ``mitune.generate``.

    Returns:
        ``[N]`` float32, nats.

    Raises:
        UserError: numbers that do not match, a prompt that is no text, or an unknown estimator.
    """
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
        latents = model.encode_images(latents)
    # Each distinct prompt is encoded once, however many pictures it has.
    distinct = list(dict.fromkeys(prompts))
    rows = torch.tensor([distinct.index(p) for p in prompts])
    prepared = prepare(model, backend, attention)
    encoded = prepared.encode_prompts(distinct)
    return pointwise_mi(
        prepared,
        latents.to(model.device),
        {name: tensor[rows.to(tensor.device)] for name, tensor in encoded.items()},
        prepared.encode_null(),
        Schedule.levels(model.scheduler),
        estimator=estimator,
        draws=draws,
        seed=seed,
        batch=batch,
        convention=convention,
        t_min=t_min,
        shared_noise=shared_noise,
    )
