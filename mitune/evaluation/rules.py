"""The rules that could rank a pool, each by what it computes from candidates; none reads an oracle.

* ``trajectory``: Eq. 2 along the sampling path, free of further passes.
* ``standardised``: the same terms, each step's with the pool's mean subtracted and divided by the
  pool's spread, so that no step outweighs the others.
* ``orthogonal``, ``standard``: by re-noising the finished picture (``mitune.scoring.estimate``).
* ``phrase``: the least point-wise mutual information that a phrase of the prompt has with the
  picture given the rest of the prompt, ``log p(z | prompt) / p(z | rest)``, by ``standard``. A
  picture that lacks one object should lose by the phrase that names it, whatever the others gain.
* ``solace``: SOLACE's self-confidence (``mitune.scoring.confidence``), each time's with the pool's
  mean subtracted and divided by its spread, weighted by t (1 - t), as its authors do.
* ``path``: the log-ratio of the sampling path (``mitune.scoring.path``), which is taken again.
* ``cfg-rejection``: the sum of ||Δ|| along the path, without weights (CFG-Rejection, arXiv
  2505.23343).
* ``two-stage``: ``standard`` among the better half of the pool by ``trajectory``, which come before
  all others: half of the price of re-noising.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import torch
from torch import Tensor

from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.diffusion.noise import candidate_keys
from mitune.diffusion.schedule import Schedule
from mitune.engine.candidate import Candidate
from mitune.models.protocol import LatentModel
from mitune.runtime.prepared import prepare
from mitune.scoring.confidence import confidence
from mitune.scoring.estimate import ESTIMATORS, pointwise_mi
from mitune.scoring.path import path_ratio

Rests = Callable[[str], list[str]]
"""A prompt without each of its phrases, one text per phrase."""

Score = Literal[
    "trajectory",
    "standardised",
    "orthogonal",
    "standard",
    "phrase",
    "two-stage",
    "solace",
    "path",
    "cfg-rejection",
]


@dataclass(frozen=True)
class Rule:
    """A way to rank a pool, higher is better.

    Attributes:
        score: what it computes.
        t_min: only timesteps above it count; -1: all.
    """

    score: Score
    t_min: float

    def __str__(self) -> str:
        return f"{self.score} t>{self.t_min:g}"


def every_rule(t_mins: Sequence[float]) -> list[Rule]:
    """All rules, each with every ``t_min``."""
    return [Rule(score, t_min) for t_min, score in product(t_mins, get_args(Score))]


def rank(
    model: LatentModel,
    made: Sequence[Candidate],
    pool: int,
    sampler: SamplerConfig,
    rules: Collection[Rule],
    rests: Rests,
    *,
    draws: int,
    seed: int,
    runtime: Runtime | None = None,
) -> dict[Rule, Tensor]:
    """The scores by each rule, ``[N]`` float64.

    Args:
        model: that made the candidates.
        made: by prompt, ``pool`` of each.
        pool: candidates of a prompt.
        sampler: that made them.
        rules: only what they need is computed.
        rests: reads a prompt's phrases.
        draws: of re-noising, for each picture.
        seed: keys the noise and the timesteps of re-noising, which all pictures share.
        runtime: how to run the denoiser.
    """
    scores = _Scores(model, made, pool, sampler, rests, draws, seed, runtime or Runtime())
    return {rule: scores.of(rule) for rule in rules}


class _Scores:
    """The scores of some candidates, each computed once; arguments as of ``rank``."""

    def __init__(
        self,
        model: LatentModel,
        made: Sequence[Candidate],
        pool: int,
        sampler: SamplerConfig,
        rests: Rests,
        draws: int,
        seed: int,
        runtime: Runtime,
    ) -> None:
        self.model, self.pool, self.sampler = model, pool, sampler
        self.rests, self.draws, self.seed = rests, draws, seed
        self.runtime = runtime
        self.schedule = model.schedule(sampler)
        self.terms = torch.stack([c.terms[:, 0] for c in made]).double()
        self.latents = torch.stack([c.latent for c in made])
        self.texts = [c.prompt for c in made]
        self.keys = candidate_keys([(c.seed, c.prompt, c.index) for c in made])
        self.known: dict[Rule, Tensor] = {}

    def of(self, rule: Rule) -> Tensor:
        if rule not in self.known:
            self.known[rule] = self._computed(rule)
        return self.known[rule]

    def _computed(self, rule: Rule) -> Tensor:
        if rule.score in ESTIMATORS:
            rows = torch.arange(len(self.texts))
            return self._renoised(rows, None, rule.score, rule.t_min)
        if rule.score == "phrase":
            return self._phrase(rule.t_min)
        if rule.score == "two-stage":
            return self._two_stage(rule.t_min)
        if rule.score == "solace":
            return self._solace(rule.t_min)
        if rule.score == "path":
            return self._path(rule.t_min)
        weights = self.schedule.weights(self.sampler.convention, rule.t_min)
        counted = (weights > 0).double()
        if rule.score == "standardised":
            return self._standardised(self.terms) @ counted
        if rule.score == "cfg-rejection":
            return self.terms.sqrt() @ counted
        return self.terms @ weights

    def _standardised(self, values: Tensor) -> Tensor:
        """``values`` ([N, steps]), each step's with the pool's mean 0 and its spread 1."""
        pools = values.view(-1, self.pool, values.shape[1])
        spread = pools.std(dim=1, keepdim=True).clamp(min=1e-12)
        return ((pools - pools.mean(dim=1, keepdim=True)) / spread).view_as(values)

    def _solace(self, t_min: float) -> Tensor:
        prepared = prepare(self.model, self.runtime)
        found, t = confidence(
            prepared,
            self.latents.to(self.model.device),
            prepared.encode_rows(self.texts),
            Schedule.levels(self.model.scheduler),
            seed=self.seed,
            t_min=t_min,
        )
        share: Tensor = t / self.model.scheduler.config.num_train_timesteps
        return self._standardised(found) @ (share * (1 - share))

    def _path(self, t_min: float) -> Tensor:
        prepared = prepare(self.model, self.runtime)
        found, ends = path_ratio(
            prepared,
            self.keys.to(self.model.device),
            prepared.encode_rows(self.texts),
            prepared.encode_null(),
            self.schedule,
            self.model.latent_shape,
            guidance=self.sampler.guidance,
            t_min=t_min,
        )
        assert torch.allclose(ends, self.latents, atol=0.1), "the path is not the candidates' own"
        return found

    def _two_stage(self, t_min: float) -> Tensor:
        free = self.of(Rule("trajectory", t_min)).view(-1, self.pool)
        exact = self.of(Rule("standard", t_min)).view(-1, self.pool)
        place = free.argsort(dim=1, descending=True).argsort(dim=1)
        better = place < -(-self.pool // 2)
        # The others follow in the order of the free score, below the lowest exact one.
        below = exact.amin(dim=1, keepdim=True) - 1 - place
        return torch.where(better, exact, below).flatten()

    def _phrase(self, t_min: float) -> Tensor:
        distinct = {text: self.rests(text) for text in dict.fromkeys(self.texts)}
        lacking = [rest for text in self.texts for rest in distinct[text]]
        rows = torch.arange(len(self.texts)).repeat_interleave(
            torch.tensor([len(distinct[text]) for text in self.texts])
        )
        found = self._renoised(rows, lacking, "standard", t_min)
        lowest = torch.full((len(self.texts),), torch.inf, dtype=torch.float64)
        return lowest.scatter_reduce(0, rows, found, "amin")

    def _renoised(
        self, rows: Tensor, instead: Sequence[str] | None, estimator: str, t_min: float
    ) -> Tensor:
        """The estimates of the candidates ``rows`` ([M] int64), ``[M]`` float64; ``instead``, if
        given, are M texts in the place of the empty one."""
        prepared = prepare(self.model, self.runtime)
        texts = [self.texts[row] for row in rows.tolist()]
        null = prepared.encode_null() if instead is None else prepared.encode_rows(instead)
        found = pointwise_mi(
            prepared,
            self.latents[rows].to(self.model.device),
            prepared.encode_rows(texts),
            null,
            Schedule.levels(self.model.scheduler),
            estimator=estimator,
            draws=self.draws,
            seed=self.seed,
            t_min=t_min,
            convention=self.sampler.convention,
            shared_noise=True,
        )
        return found.double().cpu()
