"""What a rule chooses on equal budget: one that costs more sees fewer candidates."""

from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

from mitune.config.sampling import SamplerConfig
from mitune.evaluation.rules import Rests, Rule

_PATH = ("trajectory", "standardised", "cfg-rejection", "two-stage")
"""Scores that need both predictions along the path; the others can do with those that guidance
needs."""
_SOLACE = 64
"""Passes of SOLACE's confidence: 8 probes at each of 8 times."""


def passes(rule: Rule, sampler: SamplerConfig, draws: int, phrases: int) -> int:
    """Rows of the denoiser that one candidate takes, drawn and scored.

    Args:
        rule: that ranks it.
        sampler: that draws it.
        draws: of re-noising.
        phrases: of its prompt.
    """
    both = sampler.guidance != 1 or rule.score in _PATH
    drawn = sampler.steps * (2 if both else 1)
    scored = {
        "orthogonal": 2 * draws,
        "standard": 2 * draws,
        "two-stage": draws,  # of half the pool
        "phrase": 2 * draws * phrases,
        "solace": _SOLACE,
        "path": 2 * sampler.steps,  # it is taken again
    }
    return drawn + scored.get(rule.score, 0)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What candidates cost.

    Attributes:
        sampler: that draws them.
        draws: of re-noising.
        rests: reads a prompt's phrases.
    """

    sampler: SamplerConfig
    draws: int
    rests: Rests

    def seen(self, rule: Rule, prompt: str, candidates: int) -> int:
        """How many of the pool's candidates a rule sees for the passes that drawing all takes."""
        each = passes(rule, self.sampler, self.draws, len(self.rests(prompt)))
        return max(1, min(candidates, candidates * 2 * self.sampler.steps // each))


def first_of(seen: int, scores: Tensor, values: Tensor) -> float:
    """The expected value of the first by its score of ``seen`` candidates that are taken from a
    pool at random, without putting back.

    The candidate of rank r (from 0) of N is the first of M with probability C(N - 1 - r, M - 1) /
    C(N, M). Scores that compare a candidate with its pool (standardised, solace) are taken as the
    whole pool has them.

    Args:
        seen: M, 1 to N.
        scores: ``[N]``.
        values: ``[N]`` float64.
    """
    count = len(scores)
    chances = [comb(count - 1 - rank, seen - 1) / comb(count, seen) for rank in range(count)]
    order = scores.argsort(descending=True, stable=True)
    return float(torch.tensor(chances, dtype=torch.float64) @ values[order])
