"""Policies: at which rungs a pool is judged, and which candidates survive each rung.

A policy is a pure function of what the pool has shown so far. So it never changes a candidate that
it keeps (each candidate has its own noise), and what it would have kept can be computed afterwards
from the terms of an unpruned pool (``mitune.selection.audit``).
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import torch
from torch import Tensor

from mitune.config.pruning import check_rungs
from mitune.core.errors import UserError


class Policy(Protocol):
    """Decides at rungs. At a rung, candidates wait until their whole pool has arrived."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """Numbers of steps done, ascending."""
        ...

    def survivors(self, rung: int, scores: Tensor, terms: Tensor) -> list[int]:
        """Return the candidates that go on.

        Args:
            rung: one of ``rungs``.
            scores: ``[n]`` float32, nats so far of the n candidates that are left, by index.
            terms: ``[n, rung, 2]`` float32, their ``(||delta||^2, <uncond, delta>)`` so far.

        Returns:
            Ascending positions, at least one.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Unpruned:
    """Every candidate takes every step."""

    rungs: tuple[int, ...] = ()

    def survivors(self, rung: int, scores: Tensor, terms: Tensor) -> list[int]:
        """Never called: there is no rung."""
        return list(range(len(scores)))


@dataclass(frozen=True, kw_only=True)
class Halving:
    """At each rung a given number of candidates with the highest partial scores goes on (successive
    halving)."""

    at: tuple[tuple[int, int], ...]
    """(steps done, candidates that go on); steps ascend and numbers descend strictly."""

    def __post_init__(self) -> None:
        check_rungs(self.at)

    @property
    def rungs(self) -> tuple[int, ...]:
        return tuple(step for step, _ in self.at)

    def survivors(self, rung: int, scores: Tensor, terms: Tensor) -> list[int]:
        return best(self.measure(rung, scores, terms), dict(self.at)[rung])

    def measure(self, rung: int, scores: Tensor, terms: Tensor) -> Tensor:
        """``[n]``, the values by which candidates are ranked."""
        return scores


@dataclass(frozen=True, kw_only=True)
class DifferenceHalving(Halving):
    """Baseline: ranks by the accumulated difference sum_i ||delta_i||, without weights
    (CFG-Rejection, arXiv 2505.23343)."""

    def measure(self, rung: int, scores: Tensor, terms: Tensor) -> Tensor:
        return terms[:, :rung, 0].double().sqrt().sum(1)


@dataclass(frozen=True, kw_only=True)
class RandomHalving(Halving):
    """Baseline: survivors are drawn at random. The draw is keyed by the terms of each candidate's
    first step, so it differs between pools and is the same when it is repeated."""

    def measure(self, rung: int, scores: Tensor, terms: Tensor) -> Tensor:
        digests = [hashlib.sha256(first.tobytes()).digest()[:6] for first in terms[:, 0].numpy()]
        return torch.tensor([int.from_bytes(digest) for digest in digests], dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Drops a candidate when its partial score is out of reach of the k-th best one.

    Within a pool the final score is modelled as linear in the partial one, ``F = mean + slope S +
    residual``. The slope and the standard deviation of the residual are fitted for each rung, on
    unpruned pools. Candidate i is dropped if ``P(F_i > F_k) < 1 - confidence``, where k is the k-th
    best by partial score and both residuals are normal and independent:
    ``slope (S_k - S_i) > quantile(confidence) sqrt(2) spread``.
    """

    at: tuple[tuple[int, float, float], ...]
    """(steps done, slope, spread in nats), ascending; the spread is that of the residual."""
    keep: int
    """k; the k best by partial score always stay."""
    confidence: float = 0.99

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise UserError(f"confidence is {self.confidence}: expected 0.5 to less than 1")

    @property
    def rungs(self) -> tuple[int, ...]:
        return tuple(step for step, _, _ in self.at)

    def survivors(self, rung: int, scores: Tensor, terms: Tensor) -> list[int]:
        slope, spread = next((slope, spread) for step, slope, spread in self.at if step == rung)
        usable = _usable(scores)
        reach = NormalDist().inv_cdf(self.confidence) * math.sqrt(2) * spread
        bar = usable.sort(descending=True).values[min(self.keep, len(usable)) - 1]
        # The k best stay whatever the fit says; with a slope <= 0 everybody stays.
        stays = (usable >= bar) | (slope * (bar - usable) <= reach)
        return [i for i, yes in enumerate(stays.tolist()) if yes]


def fit_threshold(
    partial: Sequence[Tensor], rungs: Sequence[int], *, keep: int, confidence: float = 0.99
) -> Threshold:
    """Fit a threshold policy on unpruned pools.

    Args:
        partial: ``[M, N]`` for each pool: scores after each step, in nats.
        rungs: numbers of steps done.
        keep, confidence: of the policy.

    Raises:
        UserError: no pool of at least two candidates with finite scores.
    """
    # A candidate whose score is not finite has already lost, and says nothing about the others.
    pools = [pool[pool.isfinite().all(1)].double() for pool in partial]
    pools = [pool - pool.mean(0) for pool in pools if len(pool) > 1]
    if not pools:
        raise UserError(
            f"the calibration has {len(partial)} pools: expected one of at least two candidates "
            "with finite scores"
        )
    centred = torch.cat(pools)
    final = centred[:, -1]
    fitted = []
    for rung in rungs:
        so_far = centred[:, rung - 1]
        slope = float((so_far * final).sum() / so_far.square().sum().clamp_min(1e-300))
        # The fit has one mean for each pool, and one slope.
        freedom = max(1, len(final) - len(pools) - 1)
        spread = math.sqrt(float((final - slope * so_far).square().sum()) / freedom)
        fitted.append((rung, slope, spread))
    return Threshold(at=tuple(fitted), keep=keep, confidence=confidence)


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Exact: the remaining steps cannot change the score any more, so only the best candidates take
    them."""

    step: int
    """The smallest number of steps after which every weight is 0."""
    keep: int
    """How many candidates of the pool are wanted."""

    @property
    def rungs(self) -> tuple[int, ...]:
        return (self.step,)

    def survivors(self, rung: int, scores: Tensor, terms: Tensor) -> list[int]:
        return best(scores, self.keep)


@dataclass(frozen=True, kw_only=True)
class Verify:
    """The survivors were chosen before the first step, by a cheaper pass over the whole pool (a
    draft). Only an audit replays this policy: the engine has no rung 0, and gets only the chosen
    candidates as requests."""

    kept: tuple[int, ...]
    """Ascending positions."""
    rungs: tuple[int, ...] = (0,)

    def survivors(self, rung: int, scores: Tensor, terms: Tensor) -> list[int]:
        return list(self.kept)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Several policies, each with its own rungs."""

    policies: tuple[Policy, ...]

    @property
    def rungs(self) -> tuple[int, ...]:
        return tuple(sorted({rung for policy in self.policies for rung in policy.rungs}))

    def survivors(self, rung: int, scores: Tensor, terms: Tensor) -> list[int]:
        left = list(range(len(scores)))
        for policy in self.policies:
            if rung in policy.rungs:
                kept = policy.survivors(rung, scores[left], terms[left])
                left = [left[i] for i in kept]
        return left


def best(measure: Tensor, keep: int) -> list[int]:
    """Ascending positions of the ``keep`` highest values; ties go to the lower position, and values
    that are not finite lose to all that are."""
    order = torch.sort(_usable(measure), descending=True, stable=True).indices
    return sorted(order[:keep].tolist())


def _usable(measure: Tensor) -> Tensor:
    return torch.where(measure.isfinite(), measure, -math.inf)
