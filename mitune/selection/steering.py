"""Prune a set while it is being built: the fit, the draft, the policy of each prompt, the audit.

The data that a policy is fitted on and judged by is read from the set itself, or drafted again. So
a resumed build continues with the same policy and ends with the same audit.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mitune.config.pruning import PruneConfig
from mitune.core.files import put
from mitune.core.provenance import as_json
from mitune.engine.candidate import Candidate
from mitune.engine.policies import Chain, Policy, Verify, best
from mitune.engine.request import Request
from mitune.engine.stream import pool
from mitune.selection.audit import audit, is_audited
from mitune.selection.prune import exact, fitted, policies
from mitune.sets import FineTuningSet
from mitune.sets.schema import AUDIT

Make = Callable[[list[Request], Callable[[int], Policy]], Iterator[Candidate]]
Draft = Callable[[list[Request]], Iterator[Candidate]]


class Steering:
    """Decides which candidates of a set under construction go on. One object serves all shares that
    a process makes, which have the pools for the fit in common.

    Args:
        prune: the pruning settings; None for the exact policy alone.
        prompts, weights, keep, seed: those of the set.
        path: the set's folder.
        make: generates candidates under a policy.
        draft: generates them cheaply, for the policy "draft".
        block: number of candidates to draft before the best of them are generated: enough to keep
            the slots full, but few enough that an interruption loses little.
    """

    def __init__(
        self,
        prune: PruneConfig | None,
        prompts: Sequence[str],
        weights: Tensor,
        keep: int,
        seed: int,
        path: Path,
        *,
        make: Make,
        draft: Draft,
        block: int,
    ) -> None:
        self.prune = prune
        self.prompts = prompts
        self.weights = weights
        self.keep = keep
        self.seed = seed
        self.path = path
        self._make = make
        self._draft = draft
        self._block = block
        self._known: dict[int, Tensor] = {}  # terms of the pools on which the policy is fitted

    def make(self, work: list[Request]) -> Iterator[Candidate]:
        """Generate the candidates of ``work``, which holds whole pools, prompt by prompt. The
        prompts on which a policy is fitted come first, also where they are neither in ``work`` nor
        in the set."""
        prune = self.prune
        if prune is None:
            yield from self._make(work, self._choose(None))
        elif prune.policy == "draft":
            whole = [list(own) for _, own in itertools.groupby(work, lambda w: w.prompt_index)]
            each = max(1, self._block // max(map(len, whole), default=1))
            for start in range(0, len(whole), each):
                yield from self._drafted(prune, list(itertools.chain(*whole[start : start + each])))
        else:
            yield from self._fitted(prune, work)

    def _fitted(self, prune: PruneConfig, work: list[Request]) -> Iterator[Candidate]:
        """Generate the pools on which the policy is fitted, fit it, and generate the others."""
        rest = [w for w in work if not prune.calibrates(w.prompt_index)]
        first = [w for w in work if prune.calibrates(w.prompt_index)]
        if rest:
            here = {w.prompt_index for w in first} | self._known.keys()
            others = [p for p in range(len(self.prompts)) if prune.calibrates(p) and p not in here]
            if others:
                built = FineTuningSet.open(self.path)
                self._known |= built.terms(others)
                # A process that makes a share of the set may not wait for the one that has these.
                absent = [p for p in others if p not in self._known]
                every = [*first, *self._pools(absent, built.candidates)]
                first = sorted(every, key=lambda w: w.prompt_index)
        fresh: dict[int, dict[int, Tensor]] = {}
        for candidate in self._make(first, self._choose(None)):
            fresh.setdefault(candidate.prompt_index, {})[candidate.index] = candidate.terms
            yield candidate
        self._known |= {
            p: torch.stack([terms[c] for c in sorted(terms)]) for p, terms in fresh.items()
        }
        if rest:
            pools = [self._known[p] for p in sorted(self._known)]
            yield from self._make(rest, self._choose(fitted(prune, pools, self.weights, self.keep)))

    def _drafted(self, prune: PruneConfig, work: list[Request]) -> Iterator[Candidate]:
        """Draft whole pools and generate the best of each; generate audited pools without a
        draft."""
        exact_only = self._audited(prune)
        rough = [w for w in work if w.prompt_index not in exact_only]
        drafted = list(self._draft(rough)) if rough else []
        chosen = choose_drafted(drafted, prune.verify)
        for candidate in drafted:
            if candidate.index not in chosen[candidate.prompt_index]:
                # It took no step of the real path; its score comes from the draft.
                yield replace(candidate, steps=0, pruned=True)
        yield from self._make(
            [w for w in work if w.index in chosen.get(w.prompt_index, [w.index])],
            self._choose(None),
        )

    def write_audit(self) -> None:
        """Judge the policy on the audit share of the complete set and write ``audit.json``. Does
        nothing without pruning, or if the file exists."""
        if self.prune is None or (self.path / AUDIT).exists():
            return
        prune, built = self.prune, FineTuningSet.open(self.path)
        steps, total = len(self.weights), len(self.prompts) * built.candidates
        drawn = sorted(self._audited(prune))
        taken = sum(len(row) for row in built.table(["terms"])["terms"])
        result: dict[str, Any] = {
            "policy": asdict(prune),
            "audited_prompts": len(drawn),
            "steps_taken": taken / (total * steps),
            "draft_steps_taken": 0.0,
            "least_recall": prune.least_recall,
            "audit": None,
        }
        by_prompt: dict[int, Policy]
        if prune.policy == "draft":
            # Counts every prompt: those of the audit are drafted here.
            result["draft_steps_taken"] = (prune.draft_steps or steps) / steps
            result["steps_taken"] += result["draft_steps_taken"]
            own = [w for w in pool(self.prompts, built.candidates) if w.prompt_index in drawn]
            chosen = choose_drafted(self._draft(own) if own else (), prune.verify)
            by_prompt = {p: Verify(kept=tuple(kept)) for p, kept in chosen.items()}
        else:
            calibration = built.terms(p for p in range(len(self.prompts)) if prune.calibrates(p))
            fit = fitted(
                prune, [calibration[p] for p in sorted(calibration)], self.weights, self.keep
            )
            result["fitted"] = asdict(fit)  # type: ignore[call-overload]
            by_prompt = dict.fromkeys(drawn, fit)
        if drawn:
            found = built.terms(drawn)
            whole = exact(self.weights, self.keep)
            judged = audit(
                lambda place: Chain(policies=(by_prompt[drawn[place]], whole)),
                [found[p] for p in drawn],
                self.weights,
                self.keep,
            )
            result["audit"] = asdict(judged)
            result["audit"]["passes"] += result["draft_steps_taken"]
        put(self.path / AUDIT, (as_json(result, indent=2) + "\n").encode())

    def _pools(self, prompts: Sequence[int], candidates: int) -> list[Request]:
        return [
            Request(prompt=self.prompts[p], prompt_index=p, index=index)
            for p in prompts
            for index in range(candidates)
        ]

    def _audited(self, prune: PruneConfig) -> set[int]:
        """The prompts of the audit share."""
        return {
            p
            for p, prompt in enumerate(self.prompts)
            if is_audited(self.seed, prompt, prune.audit) and not prune.calibrates(p)
        }

    def _choose(self, policy: Policy | None) -> Callable[[int], Policy]:
        return policies(policy, self.prune, self.prompts, self.weights, self.keep, self.seed)


def choose_drafted(drafted: Iterable[Candidate], verify: int) -> dict[int, list[int]]:
    """For each prompt, the indices of the ``verify`` candidates with the highest scores."""
    scores: dict[int, dict[int, float]] = {}
    for candidate in drafted:
        scores.setdefault(candidate.prompt_index, {})[candidate.index] = candidate.score
    chosen = {}
    for prompt_index, own in scores.items():
        index = sorted(own)
        chosen[prompt_index] = [
            index[i] for i in best(torch.tensor([own[c] for c in index]), verify)
        ]
    return chosen


def tell_audit(result: dict[str, Any]) -> str:
    """Describe the audit in one line, with a warning if recall is too low or nothing was
    audited."""
    cost = f"pruned: {result['steps_taken']:.1%} of the steps of an unpruned run taken"
    if result["draft_steps_taken"]:
        cost += f", of which {result['draft_steps_taken']:.1%} as a draft"
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
            "rungs, a higher confidence, more to verify, or do not prune"
        )
    return line
