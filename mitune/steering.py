"""Pruning of a set that is being built: the fit, the policy of each prompt, and the audit.

What a policy is fitted on and judged by is read from the set itself, so that a resumed build goes
on with the same policy and ends in the same audit.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mitune.candidate import Candidate
from mitune.generate import Work
from mitune.generate.audit import audit, is_audited
from mitune.generate.policies import Chain, Policy
from mitune.generate.prune import PruneConfig, exact, policies
from mitune.provenance import as_json
from mitune.sets import FineTuningSet
from mitune.sets.files import publish
from mitune.sets.schema import AUDIT

Make = Callable[[list[Work], Callable[[int], Policy]], Iterator[Candidate]]


class Steering:
    """Which candidates of a set under construction go on.

    Args:
        prune: None for the exact policy alone.
        prompts, weights, keep, seed: of the set.
        path: its folder.
    """

    def __init__(
        self,
        prune: PruneConfig | None,
        prompts: Sequence[str],
        weights: Tensor,
        keep: int,
        seed: int,
        path: Path,
    ) -> None:
        self.prune = prune
        self.prompts = prompts
        self.weights = weights
        self.keep = keep
        self.seed = seed
        self.path = path

    def make(self, work: list[Work], make: Make) -> Iterator[Candidate]:
        """The candidates of ``work``, those that a fit is made on first.

        Args:
            work: whole pools, prompt by prompt.
            make: makes candidates under a policy.
        """
        prune = self.prune
        if prune is None:
            yield from make(work, self._choose(None))
            return
        fresh: dict[int, dict[int, Tensor]] = {}
        for candidate in make(
            [w for w in work if prune.calibrates(w.prompt_index)], self._choose(None)
        ):
            fresh.setdefault(candidate.prompt_index, {})[candidate.index] = candidate.terms
            yield candidate
        rest = [w for w in work if not prune.calibrates(w.prompt_index)]
        if rest:
            stored = FineTuningSet.open(self.path).terms(
                p for p in range(len(self.prompts)) if prune.calibrates(p) and p not in fresh
            )
            pools = stored | {
                p: torch.stack([terms[c] for c in sorted(terms)]) for p, terms in fresh.items()
            }
            fitted = prune.fitted([pools[p] for p in sorted(pools)], self.weights, self.keep)
            yield from make(rest, self._choose(fitted))

    def _choose(self, policy: Policy | None) -> Callable[[int], Policy]:
        return policies(policy, self.prune, self.prompts, self.weights, self.keep, self.seed)


def write_audit(
    prune: PruneConfig,
    prompts: Sequence[str],
    weights: Tensor,
    keep: int,
    seed: int,
    path: Path,
) -> None:
    """Judge the policy on the audit share of a complete set, into its ``audit.json``."""
    built = FineTuningSet.open(path)
    every = range(len(prompts))
    drawn = [
        p for p in every if is_audited(seed, prompts[p], prune.audit) and not prune.calibrates(p)
    ]
    calibration = built.terms(p for p in every if prune.calibrates(p))
    policy = prune.fitted([calibration[p] for p in sorted(calibration)], weights, keep)
    taken = sum(len(row) for row in built.table(["terms"])["terms"])
    result: dict[str, Any] = {
        "policy": asdict(policy),  # type: ignore[call-overload]
        "audited_prompts": len(drawn),
        "steps_taken": taken / (len(prompts) * built.candidates * len(weights)),
        "least_recall": prune.least_recall,
        "audit": None,
    }
    if drawn:
        pools = built.terms(drawn)
        chain = Chain(policies=(policy, exact(weights, keep)))
        result["audit"] = asdict(audit(chain, [pools[p] for p in drawn], weights, keep))
    publish(path / AUDIT, (as_json(result, indent=2) + "\n").encode())


def tell_audit(result: dict[str, Any]) -> str:
    """The audit in one line, and loudly where it is not good enough or nothing is known."""
    cost = f"pruned: {result['steps_taken']:.1%} of all steps taken"
    if result["audit"] is None:
        return (
            f"{cost}. WARNING: no prompt was drawn for the audit, so nothing is known of what was "
            "lost: give a larger --audit"
        )
    found = result["audit"]
    recall, regret = found["recall_top1"], found["regret_nats"]
    line = (
        f"{cost}; audit of {result['audited_prompts']} prompts: the best was kept in "
        f"{recall['mean']:.1%} [{recall['low']:.1%}, {recall['high']:.1%}], regret "
        f"{regret['mean']:.3f} nats"
    )
    if recall["mean"] < result["least_recall"]:
        return (
            f"{line}. WARNING: that is less often than {result['least_recall']:.0%}: use later "
            "rungs or a higher confidence, or do not prune"
        )
    return line
