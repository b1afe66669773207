"""The policies that the ladder runs, and those that it replays on pools that were not pruned."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from torch import Tensor

from mitune.bench.rungs import Made, Setting
from mitune.engine.policies import (
    Chain,
    DifferenceHalving,
    Finish,
    Halving,
    Policy,
    RandomHalving,
    fit_threshold,
)
from mitune.selection.audit import audit, partial_scores
from mitune.selection.prune import SHARES, shares


def halvings(setting: Setting) -> dict[str, tuple[tuple[int, int], ...]]:
    """The halving schedules that fit the pool and the number of steps, from shares of both; named
    by when they begin."""
    named = {
        "late": SHARES,
        "early": ((0.3, 0.5), (0.5, 0.24), (0.7, 0.12), (0.8, 0.06)),
        "earlier": ((0.2, 0.5), (0.4, 0.24), (0.6, 0.12), (0.8, 0.06)),
        "earliest": ((0.1, 0.5), (0.2, 0.24), (0.4, 0.12), (0.6, 0.06)),
    }
    found = {
        name: shares(at, setting.sampler.steps, setting.candidates) for name, at in named.items()
    }
    return {name: rungs for name, rungs in found.items() if rungs}


def pruning(
    whole: Made, setting: Setting, weights: Tensor, finish: Finish
) -> dict[str, Callable[[int], Policy]]:
    """The policies to run, by name; each maps a prompt index to a policy. The threshold is fitted
    on the first fifth of the prompts, which it does not prune."""
    named = halvings(setting)
    run: dict[str, Callable[[int], Policy]] = {}
    for name in ("late", "early"):
        if name in named:
            policy = Chain(policies=(Halving(at=named[name]), finish))
            run[f"halving {name}"] = lambda p, policy=policy: policy  # type: ignore[misc]
    first = max(1, len(setting.prompts) // 5)
    if whole.terms is not None and len(setting.prompts) > first:
        partial = list(partial_scores(whole.terms[:first], weights))
        fitted = fit_threshold(partial, threshold_rungs(setting), keep=1, confidence=0.999)
        threshold = Chain(policies=(fitted, finish))
        run["threshold"] = lambda p: finish if p < first else threshold
    return run


def threshold_rungs(setting: Setting) -> list[int]:
    """The numbers of steps after which the threshold policy decides: every tenth of the path."""
    steps = setting.sampler.steps
    return sorted({rung for k in range(1, 10) if 0 < (rung := round(k * steps / 10)) < steps})


def curve(whole: Made, setting: Setting, weights: Tensor, finish: Finish) -> list[dict[str, Any]]:
    """Recall, regret and cost of many policies, replayed on pools that were not pruned."""
    if whole.terms is None:
        return []
    pools = list(whole.terms)
    found = [{"policy": "exact", **asdict(audit(finish, pools, weights, 1))}]
    for kind in (Halving, DifferenceHalving, RandomHalving):
        for name, at in halvings(setting).items():
            policy = Chain(policies=(kind(at=at), finish))
            found.append(
                {"policy": f"{kind.__name__} {name}", **asdict(audit(policy, pools, weights, 1))}
            )
    first = max(1, len(pools) // 5)
    if len(pools) > first:
        partial = list(partial_scores(whole.terms[:first], weights))
        for confidence in (0.9, 0.99, 0.999):
            fitted = fit_threshold(partial, threshold_rungs(setting), keep=1, confidence=confidence)
            judged = audit(Chain(policies=(fitted, finish)), pools[first:], weights, 1)
            found.append({"policy": f"Threshold {confidence}", **asdict(judged)})
    return found
