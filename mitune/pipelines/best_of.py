"""The best of many pictures of a pipeline, by their mutual information with the prompt."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mitune.config.options import with_options
from mitune.config.sets import GenerateConfig
from mitune.core.errors import UserError
from mitune.core.images import as_pictures
from mitune.engine.policies import best
from mitune.engine.slot_count import with_slots
from mitune.engine.stream import generate
from mitune.load import adopt


@dataclass(frozen=True, eq=False)
class Best:
    """One picture of a pool."""

    image: Any
    """A ``PIL.Image``."""
    nats: float
    """Point-wise mutual information with the prompt, along the sampler's path."""
    latent: Tensor
    """``[C, H, W]`` float32 on the CPU."""
    index: int
    """Position in the pool: with the prompt and the seed it names the noise."""


def best_of(pipe: Any, prompt: str, n: int = 8, keep: int = 1, **options: Any) -> list[Best]:
    """Draw ``n`` pictures of ``prompt`` and return the ``keep`` best, the best first.

    ::

        best = mitune.best_of(pipe, "two cats and a red ball", n=16)[0].image

    Args:
        pipe: a diffusers pipeline of a family that ``mitune.load`` knows, on its device and in its
            dtype, which is not changed; or a model of ``mitune.load``. A copy of its denoiser runs.
        prompt: one text.
        n: pictures.
        keep: how many are returned.
        options: fields of ``GenerateConfig`` and of its parts by name, such as ``seed=1, steps=30,
            guidance=5.0, backend="inductor"``; by default those of the family's preset, except the
            estimator: pictures are ranked along their own path.

    Raises:
        UserError: a pipeline that cannot be used as it is, or a number out of range.
    """
    for name in ("candidates", "scored"):
        if name in options:
            raise UserError(
                f"{name} is given: expected n, the number of pictures, all of them scored"
            )
    if n < 1:
        raise UserError(f"n is {n}: expected at least 1 picture")
    model = adopt(pipe)
    if not 1 <= keep <= n:
        raise UserError(f"keep is {keep}: expected 1 to {n}, the number of pictures")
    config = with_options(GenerateConfig.of(model.preset, candidates=n), options)
    config = replace(config, runtime=with_slots(model, config.runtime, config.sampler, n))
    made = sorted(generate(model, [prompt], config), key=lambda candidate: candidate.index)
    scores = torch.tensor([candidate.score for candidate in made])
    chosen = sorted(best(scores, keep), key=lambda i: -made[i].score)
    pictures = as_pictures(model.decode(torch.stack([made[i].latent for i in chosen])))
    return [
        Best(image=picture, nats=made[i].score, latent=made[i].latent, index=i)
        for i, picture in zip(chosen, pictures, strict=True)
    ]
