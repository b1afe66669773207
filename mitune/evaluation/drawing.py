"""Draw with a model: the same prompts and the same noise for every model that is compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.config.sets import GenerateConfig
from mitune.engine.candidate import Candidate
from mitune.engine.slot_count import with_slots
from mitune.engine.stream import generate
from mitune.models.protocol import LatentModel


@dataclass(frozen=True, kw_only=True)
class Images:
    """The pictures that one model drew: one latent for each (prompt, index), sorted by prompt and
    then by index.

    Attributes:
        prompts: ``[N]``, the prompt of each picture.
        latents: ``[N, C, H, W]`` float32 on the CPU.
    """

    prompts: list[str]
    latents: Tensor


def draw_candidates(
    model: LatentModel,
    prompts: Sequence[str],
    *,
    images: int,
    sampler: SamplerConfig,
    seed: int,
    scored: bool = True,
    runtime: Runtime | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Candidate]:
    """Draw ``images`` candidates of each prompt, sorted by prompt and index. With equal seeds,
    every model gets the same noise. ``progress`` is called with (candidates done, candidates in
    all)."""
    runtime = runtime or Runtime()
    config = GenerateConfig(
        candidates=images,
        sampler=sampler,
        seed=seed,
        scored=scored,
        runtime=with_slots(model, runtime, sampler, len(prompts) * images),
    )
    made = []
    for candidate in generate(model, prompts, config):
        made.append(candidate)
        if progress is not None:
            progress(len(made), len(prompts) * images)
    return sorted(made, key=lambda c: (c.prompt_index, c.index))


def draw(
    model: LatentModel,
    prompts: Sequence[str],
    *,
    images: int,
    sampler: SamplerConfig,
    seed: int,
    runtime: Runtime | None = None,
) -> Images:
    """As ``draw_candidates``, without scores; returns only prompts and latents."""
    made = draw_candidates(
        model,
        prompts,
        images=images,
        sampler=sampler,
        seed=seed,
        scored=False,
        runtime=runtime,
    )
    return Images(prompts=[c.prompt for c in made], latents=torch.stack([c.latent for c in made]))
