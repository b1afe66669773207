"""Other scores for the candidates of pools than the one along their own path."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch

from mitune.config.sets import BuildConfig
from mitune.diffusion.schedule import Schedule
from mitune.engine.candidate import Candidate
from mitune.engine.prompt_encoder import PromptEncoder
from mitune.models.protocol import LatentModel
from mitune.runtime.prepared import prepare
from mitune.scoring.estimate import pointwise_mi
from mitune.scoring.rfmi import rfmi
from mitune.scoring.scorer import Scorer


def scored_by_rfmi(
    made: Iterable[Candidate], schedule: Schedule, config: BuildConfig
) -> Iterator[Candidate]:
    """Replace the score of each candidate by RFMI's, from the terms of its path."""
    sampler = config.sampler
    for candidate in made:
        score = rfmi(candidate.terms, schedule, sampler.guidance, sampler.t_min)
        yield replace(candidate, score=float(score))


def scored_by_renoising(
    made: Iterable[Candidate],
    model: LatentModel,
    prompts: Sequence[str],
    schedule: Schedule,
    config: BuildConfig,
) -> Iterator[Candidate]:
    """Replace the score of each candidate by the estimate from its re-noised latent, in the order
    of arrival. All candidates share the same noise, because they are compared, and because a score
    must depend only on its candidate."""
    prepared = prepare(model, config.runtime)
    encoder = PromptEncoder(prepared.encode_prompts, prompts)
    null, block = prepared.encode_null(), config.runtime.count
    made = iter(made)
    while chunk := list(islice(made, block)):
        rows = [encoder.row(candidate.prompt_index) for candidate in chunk]
        scores = pointwise_mi(
            prepared,
            torch.stack([candidate.latent for candidate in chunk]).to(model.device),
            {name: torch.stack([row[name] for row in rows]) for name in null},
            null,
            schedule,
            estimator=config.estimator,
            draws=config.draws,
            seed=config.seed,
            batch=block,
            t_min=config.sampler.t_min,
            convention=config.sampler.convention,
            shared_noise=True,
        )
        for candidate, score in zip(chunk, scores.tolist(), strict=True):
            yield replace(candidate, score=score)


def scored_by_scorer(
    made: Iterable[Candidate],
    model: LatentModel,
    prompts: Sequence[str],
    scorer: Scorer,
    block: int,
) -> Iterator[Candidate]:
    """Replace the score of each candidate by a metric's of its picture, ``block`` pictures at a
    time, in the order of arrival."""
    made = iter(made)
    while chunk := list(islice(made, block)):
        pictures = model.decode(torch.stack([candidate.latent for candidate in chunk]))
        texts = [prompts[candidate.prompt_index] for candidate in chunk]
        for candidate, score in zip(chunk, scorer.score(pictures, texts).tolist(), strict=True):
            yield replace(candidate, score=score)
