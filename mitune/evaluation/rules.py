"""The rules that could rank a pool, each by what it computes from candidates; none reads an oracle.

* ``trajectory``: Eq. 2 along the sampling path, free of further passes.
* ``standardised``: the same terms, each step's with the pool's mean subtracted and divided by the
  pool's spread, so that no step outweighs the others.
* ``orthogonal``, ``standard``: by re-noising the finished picture (``mitune.scoring.estimate``).
* ``phrase``: the least point-wise mutual information that a phrase of the prompt has with the
  picture given the rest of the prompt, ``log p(z | prompt) / p(z | rest)``, by ``standard``. A
  picture that lacks one object should lose by the phrase that names it, whatever the others gain.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.diffusion.schedule import Schedule
from mitune.engine.candidate import Candidate
from mitune.models.protocol import LatentModel, take
from mitune.runtime.prepared import prepare
from mitune.scoring.estimate import ESTIMATORS, pointwise_mi

Rests = Callable[[str], list[str]]
"""A prompt without each of its phrases, one text per phrase."""


@dataclass(frozen=True, kw_only=True)
class Renoising:
    """How the rules that re-noise do it.

    Attributes:
        draws: for each picture.
        seed: keys noise and timesteps, which all pictures share.
        t_mins: the rules are computed for each: only timesteps above it count.
    """

    draws: int
    seed: int
    t_mins: tuple[float, ...]


def rank_rules(
    model: LatentModel,
    made: Sequence[Candidate],
    pool: int,
    sampler: SamplerConfig,
    how: Renoising,
    rests: Rests,
) -> dict[str, Tensor]:
    """The scores by every rule, ``[N]`` float64 each, higher is better.

    Args:
        model: that made the candidates.
        made: by prompt, ``pool`` of each.
        pool: candidates of a prompt.
        sampler: that made them.
        how: of re-noising.
        rests: reads a prompt's phrases.
    """
    schedule = model.schedule(sampler)
    terms = torch.stack([c.terms[:, 0] for c in made]).double()
    latents = torch.stack([c.latent for c in made])
    texts = [c.prompt for c in made]
    lacking, owner = [], []
    distinct = {text: rests(text) for text in dict.fromkeys(texts)}
    for row, text in enumerate(texts):
        lacking += distinct[text]
        owner += [row] * len(distinct[text])
    rules: dict[str, Tensor] = {}
    for least in how.t_mins:
        weights = schedule.weights(sampler.convention, least)
        rules[f"trajectory t>{least:g}"] = terms @ weights
        rules[f"standardised t>{least:g}"] = _standardised(terms, pool) @ (weights > 0).double()
        for estimator in ESTIMATORS:
            found = _renoised(model, latents, texts, None, estimator, sampler, least, how)
            rules[f"{estimator} t>{least:g}"] = found
        by_phrase = _renoised(
            model,
            latents[owner],
            [texts[row] for row in owner],
            lacking,
            "standard",
            sampler,
            least,
            how,
        )
        lowest = torch.full((len(made),), torch.inf, dtype=torch.float64)
        rules[f"phrase t>{least:g}"] = lowest.scatter_reduce(
            0, torch.tensor(owner), by_phrase, "amin"
        )
    return rules


def _standardised(terms: Tensor, pool: int) -> Tensor:
    pools = terms.view(-1, pool, terms.shape[1])
    spread = pools.std(dim=1, keepdim=True).clamp(min=1e-12)
    return ((pools - pools.mean(dim=1, keepdim=True)) / spread).view_as(terms)


def _renoised(
    model: LatentModel,
    latents: Tensor,
    texts: Sequence[str],
    instead: Sequence[str] | None,
    estimator: str,
    sampler: SamplerConfig,
    least: float,
    how: Renoising,
) -> Tensor:
    """``[N]`` float64; ``instead`` are the texts in the place of the empty one."""
    prepared = prepare(model, Runtime())
    distinct = list(dict.fromkeys([*texts, *(instead or [])]))
    number = {text: i for i, text in enumerate(distinct)}
    encoded = prepared.encode_prompts(distinct)
    null = prepared.encode_null()
    if instead is not None:
        null = take(encoded, torch.tensor([number[text] for text in instead]))
    found = pointwise_mi(
        prepared,
        latents.to(model.device),
        take(encoded, torch.tensor([number[text] for text in texts])),
        null,
        Schedule.levels(model.scheduler),
        estimator=estimator,
        draws=how.draws,
        seed=how.seed,
        t_min=least,
        convention=sampler.convention,
        shared_noise=True,
    )
    return found.double().cpu()
