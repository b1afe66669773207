"""Draw candidates with a method that acts at sampling, from the noise of ``mitune.generate``."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mitune.config.options import with_options
from mitune.config.sets import GenerateConfig
from mitune.diffusion.noise import candidate_keys
from mitune.diffusion.schedule import Schedule
from mitune.engine.candidate import Candidate
from mitune.engine.request import Request
from mitune.engine.stream import check_run, pool
from mitune.engine.walk import walk
from mitune.methods.sampling.guided import Guided
from mitune.models.protocol import LatentModel

Method = Callable[[LatentModel, Sequence[str], Schedule, float], Guided]
"""Makes the guidance of a batch; ``Guided`` and the classes derived from it are such functions."""


def sample(
    model: LatentModel,
    prompts: Sequence[str],
    method: Method = Guided,
    config: GenerateConfig | None = None,
    *,
    batch: int = 16,
    requests: Sequence[Request] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Iterator[Candidate]:
    """Draw the candidates of prompts. With the method ``Guided`` they are ``mitune.generate``'s, up
    to rounding.

    Args:
        model: from ``mitune.load``.
        prompts: texts.
        method: what happens at each step.
        config: candidates, sampler and seed are used; None takes the model's preset.
        batch: candidates that are sampled together.
        requests: a part of the candidates, to be sampled instead of all.
        progress: called with (candidates done, candidates in all).
        options: fields of ``GenerateConfig`` and its parts by name. They override ``config``.

    Yields:
        Candidates by prompt and index. Scores and terms are of the two unguided predictions, as the
        engine's.

    Raises:
        UserError: a number out of range, an empty prompt list, or what the method refuses.
    """
    config = with_options(config or GenerateConfig.of(model.preset), options)
    check_run(prompts)
    schedule = model.schedule(config.sampler)
    weights = schedule.weights(config.sampler.convention, config.sampler.t_min)
    work, done = requests or pool(prompts, config.candidates), 0
    for start in range(0, len(work), batch):
        part = work[start : start + batch]
        guided = method(model, [r.prompt for r in part], schedule, config.sampler.guidance)
        terms, z = _paths(guided, part, config.seed)
        for row, request in enumerate(part):
            done += 1
            yield Candidate(
                prompt=request.prompt,
                prompt_index=request.prompt_index,
                index=request.index,
                seed=config.seed,
                score=float(terms[row, :, 0].double() @ weights),
                terms=terms[row],
                latent=z[row],
            )
            if progress is not None:
                progress(done, len(work))


def _paths(guided: Guided, part: Sequence[Request], seed: int) -> tuple[Tensor, Tensor]:
    """Take all steps of a batch: ``[B, N, 2]`` terms and ``[B, ...]`` latents, on the CPU."""
    model, schedule = guided.model, guided.schedule
    keys = candidate_keys([(seed, r.prompt, r.index) for r in part]).to(model.device)
    terms = torch.zeros(len(part), schedule.steps, 2)
    for taken in walk(guided, schedule, keys, model.latent_shape):
        apart = (taken.cond - taken.uncond).flatten(1)
        terms[:, taken.number, 0] = apart.square().sum(1).cpu()
        terms[:, taken.number, 1] = (apart * taken.uncond.flatten(1)).sum(1).cpu()
    return terms, taken.after.cpu()
