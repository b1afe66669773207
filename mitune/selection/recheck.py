"""Decide near ties of a half-precision run in float32.

Half precision changes a score only a little, but this can swap neighbours near the top; and a few
candidates take a different path altogether. So every candidate within reach of the k-th best is
generated a second time in float32, from the same noise, until the scores of the k best exceed all
others by more than the reach. Every candidate still takes every step.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.engine.candidate import Candidate
from mitune.engine.policies import best
from mitune.engine.request import Request


def check_reach(reach: float) -> None:
    """Raise UserError unless ``reach`` is a positive finite number."""
    if not 0 < reach < math.inf:
        raise UserError(
            f"recheck_ties is {reach}: expected a positive number of standard deviations of a "
            "pool's scores, such as 0.4"
        )


def doubtful(
    scores: Tensor, settled: Sequence[bool], finished: Sequence[bool], keep: int, reach: float
) -> list[int]:
    """Find the candidates of a pool to generate in float32 before its ``keep`` best are certain.

    Args:
        scores: ``[M]``, nats.
        settled: for each candidate, whether its score is already from float32.
        finished: for each candidate, whether it took every step; a kept candidate must have.
        keep: k.
        reach: in standard deviations of the pool's finite scores.

    Returns:
        Positions in ascending order, none of them settled; empty if the k best are certain.
    """
    finite = scores[scores.isfinite()].double()
    top = best(scores, keep)
    if not len(finite):
        return []
    spread = float(finite.std(correction=0))
    bar = min(float(scores[i]) for i in top if scores[i].isfinite()) - reach * spread
    near = [i for i, score in enumerate(scores.tolist()) if bar <= score < math.inf]
    if len(near) <= keep and all(finished[i] for i in near):
        return []
    return [i for i in near if not settled[i]]


def recheck(
    made: Iterable[Candidate],
    remake: Callable[[list[Request]], Iterable[Candidate]],
    *,
    candidates: int,
    keep: int,
    reach: float,
    block: int,
) -> Iterator[Candidate]:
    """Yield the candidates of ``made``, with the doubtful ones replaced by the results of
    ``remake``.

    Args:
        made: the candidates of whole pools, in any order.
        remake: generates candidates in float32; it receives requests sorted by prompt.
        candidates: M.
        keep, reach: see :func:`doubtful`.
        block: number of requests to collect before a call of ``remake``, to keep its slots full.

    Yields:
        Each candidate once; the candidates of a pool follow each other.
    """
    pools: dict[int, _Pool] = {}
    waiting: list[Request] = []

    def examine(prompt_index: int) -> Iterator[Candidate]:
        pool = pools[prompt_index]
        work = pool.doubt(keep, reach)
        waiting.extend(work)
        if not work:
            yield from pools.pop(prompt_index).candidates.values()

    def again() -> Iterator[Candidate]:
        work, waiting[:] = sorted(waiting, key=lambda w: (w.prompt_index, w.index)), []
        for candidate in remake(work):
            pool = pools[candidate.prompt_index]
            pool.candidates[candidate.index] = candidate
            pool.settled.add(candidate.index)
        for prompt_index in sorted({w.prompt_index for w in work}):
            yield from examine(prompt_index)

    for candidate in made:
        pool = pools.setdefault(candidate.prompt_index, _Pool())
        pool.candidates[candidate.index] = candidate
        if len(pool.candidates) == candidates:
            yield from examine(candidate.prompt_index)
            if len(waiting) >= block:
                yield from again()
    while waiting:
        yield from again()


class _Pool:
    """The candidates of one prompt by index, and the indices of those from float32."""

    def __init__(self) -> None:
        self.candidates: dict[int, Candidate] = {}
        self.settled: set[int] = set()

    def doubt(self, keep: int, reach: float) -> list[Request]:
        order = sorted(self.candidates)
        own = [self.candidates[index] for index in order]
        found = doubtful(
            torch.tensor([c.score for c in own]),
            [index in self.settled for index in order],
            [c.finished for c in own],
            keep,
            reach,
        )
        return [
            Request(prompt=own[i].prompt, prompt_index=own[i].prompt_index, index=own[i].index)
            for i in found
        ]
