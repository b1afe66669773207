"""Near ties of a run in half precision, settled in float32.

Half precision moves a score by little, but between neighbours near the top a little decides: and a
few candidates' paths part altogether. So whoever is within reach of the k-th best is made once more
in float32, from the same noise, until the k best are told from all others by more than the reach.
Every candidate still takes every step.
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
    """Raise UserError unless it is a positive number."""
    if not 0 < reach < math.inf:
        raise UserError(
            f"recheck_ties is {reach}: expected a positive number of standard deviations of a "
            "pool's scores, such as 0.4"
        )


def doubtful(
    scores: Tensor, settled: Sequence[bool], finished: Sequence[bool], keep: int, reach: float
) -> list[int]:
    """Who of a pool has to be made in float32 before its ``keep`` best are known.

    Args:
        scores: ``[M]``, nats.
        settled: whose score is float32's already.
        finished: who took every step, as one that is kept must.
        keep: k.
        reach: in standard deviations of the pool's finite scores.

    Returns:
        Ascending positions, none of them settled; none when the k best are beyond doubt.
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
    """``made``, in which those in doubt have been replaced by what ``remake`` makes of them.

    Args:
        made: whole pools, in any order.
        remake: makes candidates in float32; work prompt by prompt.
        candidates: M.
        keep, reach: see :func:`doubtful`.
        block: so many are collected before some are made again, to keep its slots full.

    Yields:
        Each candidate once, whole pools together.
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
    """The candidates of one prompt, by index, and which of them are float32's."""

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
