"""Measure what a pruning policy loses, on pools that were not pruned.

A policy is a pure function of scores and terms, and pruning does not change a candidate's noise.
So its decisions on an unpruned pool can be replayed exactly from the terms which that pool
recorded.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mitune.engine.policies import Policy, best


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The result of replaying a policy on pools that were not pruned."""

    prompts: int
    recall_top1: Interval
    """How often the policy's first choice is the best candidate of the whole pool (Wilson's
    interval)."""
    recall_topk: Interval
    """Share of the k best candidates that the policy keeps (over prompts, mean ± 1.96 s.e.)."""
    regret_nats: Interval
    """Score of the best candidate minus score of the policy's first choice (over prompts)."""
    passes: float
    """Candidate-steps taken, as a share of those of the whole pools."""


def is_audited(seed: int, prompt: str, share: float) -> bool:
    """Whether a prompt belongs to a run's random audit share; every repetition draws the same
    share."""
    digest = hashlib.sha256(f"mitune.audit/{seed}/{prompt}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def partial_scores(terms: Tensor, weights: Tensor) -> Tensor:
    """Scores after each step, with the same floating-point operations as the engine.

    Args:
        terms: ``[..., N, 2]`` float32.
        weights: ``[N]`` float64.

    Returns:
        ``[..., N]`` float32, nats.
    """
    squared = terms[..., 0].numpy()
    weight = weights.numpy().astype(np.float32)
    score = np.zeros(squared.shape[:-1], dtype=np.float32)
    after = []
    for step in range(len(weight)):
        # One product and one sum, each rounded to float32, as the kernel on the device does. A
        # candidate may have skipped a step without weight; the terms of such a step are NaN.
        if weight[step] != 0:
            score = score + weight[step] * squared[..., step]
        after.append(score)
    return torch.from_numpy(np.stack(after, axis=-1))


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The decisions of a policy on one pool."""

    kept: list[int]
    """Indices of the k candidates that it chooses, best first."""
    steps: int
    """Candidate-steps that it takes."""


def replay(policy: Policy, terms: Tensor, weights: Tensor, keep: int) -> Replay:
    """Replay a policy on a pool whose candidates all took every step with a weight.

    Args:
        policy: the policy to replay.
        terms: ``[M, N, 2]`` float32, the terms of the pool's candidates by index; those of steps
            without weight are ignored.
        weights: ``[N]`` float64.
        keep: k, the number of candidates to keep in the end.
    """
    after = partial_scores(terms, weights)
    total = terms.shape[1]
    left, done, steps = list(range(len(terms))), 0, 0
    for rung in [r for r in policy.rungs if r < total]:
        steps += len(left) * (rung - done)
        so_far = after[left, rung - 1] if rung else torch.zeros(len(left))
        kept = policy.survivors(rung, so_far, terms[left, :rung])
        left, done = [left[i] for i in kept], rung
    steps += len(left) * (total - done)
    final = after[left, -1]
    order = sorted(best(final, keep), key=lambda i: -float(final[i]))
    return Replay(kept=[left[i] for i in order], steps=steps)


def audit(
    policy: Policy | Callable[[int], Policy],
    pools: Sequence[Tensor],
    weights: Tensor,
    keep: int,
) -> Audit:
    """Measure what ``policy`` would have lost on these pools.

    Args:
        policy: one policy for all pools, or a function that returns the policy of a pool from its
            position in ``pools``.
        pools: ``[M, N, 2]`` float32 each, the terms of pools that were not pruned.
        weights: ``[N]`` float64.
        keep: k.

    Raises:
        ValueError: if there is no pool.
    """
    if not pools:
        raise ValueError("got no pools, expected at least one")
    hits, shares, regrets = [], [], []
    taken = steps = 0
    for place, terms in enumerate(pools):
        final = partial_scores(terms, weights)[:, -1]
        true = sorted(best(final, keep), key=lambda i: -float(final[i]))
        made = replay(policy(place) if callable(policy) else policy, terms, weights, keep)
        hits.append(made.kept[0] == true[0])
        shares.append(len(set(made.kept) & set(true)) / len(true))
        regrets.append(float(final[true[0]] - final[made.kept[0]]))
        taken += made.steps
        steps += terms.shape[0] * terms.shape[1]
    return Audit(
        prompts=len(pools),
        recall_top1=wilson(sum(hits), len(hits)),
        recall_topk=_mean(shares, 0.0, 1.0),
        regret_nats=_mean(regrets, 0.0, math.inf),
        passes=taken / steps,
    )


def wilson(hits: int, trials: int) -> Interval:
    """Share of hits with Wilson's 95 % interval, which is also valid for shares of 0 and 1."""
    z, p = 1.959964, hits / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))
    return Interval(mean=p, low=max(0.0, centre - half), high=min(1.0, centre + half))


def _mean(values: list[float], least: float, most: float) -> Interval:
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Interval(mean=mean, low=least, high=most)
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    half = 1.959964 * math.sqrt(variance / len(values))
    return Interval(mean=mean, low=max(least, mean - half), high=min(most, mean + half))
