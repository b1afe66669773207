"""Pruning as a user asks for it: plain values, and the policy of each prompt that follows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from mitune.config.choices import Precision, Pruning, check_choice
from mitune.core.errors import UserError

# The command line shows these defaults before torch is imported.
if TYPE_CHECKING:
    from torch import Tensor

    from mitune.engine.policies import Policy

PRUNING = get_args(Pruning)
SHARES = ((0.5, 0.4), (0.7, 0.2), (0.8, 0.1))
"""Halving by default: (share of the steps that count, share of the pool that goes on)."""


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Which candidates are dropped before their score is complete. Not exact: a share of the
    prompts is left unpruned, and tells what was lost."""

    policy: Pruning
    """halving: at each rung so many go on. threshold: a candidate is dropped where its partial
    score is out of reach of the k-th best, by a fit to the first prompts. draft: the whole pool in
    a cheaper pass, and the best of it once more, exactly, from the same noise."""
    rungs: tuple[tuple[int, int], ...] | None = None
    """Of halving: (steps done, candidates that go on). Of threshold, the steps alone count. None:
    for halving SHARES of the steps that count and of the pool, for threshold each tenth of those
    steps."""
    confidence: float = 0.999
    """Of threshold: with which a dropped candidate would not have been the better one."""
    calibration: int = 8
    """Of threshold: the first so many prompts are left unpruned, and the fit is made on them."""
    verify: int = 5
    """Of draft: so many are made once more."""
    draft_precision: Precision = "bf16-mixed"
    """Of draft: the UNet's precision meanwhile."""
    draft_steps: int | None = None
    """Of draft: denoising steps meanwhile; None: as many as without it."""
    audit: float = 0.05
    """Share of the prompts, drawn at random, that are left unpruned."""
    least_recall: float = 0.95
    """The audit warns where the best candidate was kept less often than this."""

    def __post_init__(self) -> None:
        check_choice("prune", self.policy, Pruning)
        check_choice("draft_precision", self.draft_precision, Precision)
        if self.verify < 1:
            raise UserError(f"verify is {self.verify}: expected at least 1 candidate")
        if self.draft_steps is not None and self.draft_steps < 1:
            raise UserError(f"draft_steps is {self.draft_steps}: expected at least 1")
        if self.rungs is not None:
            from mitune.engine.policies import check_rungs

            # A threshold asks for steps alone: any numbers that shrink stand for the candidates.
            steps = [step for step, _ in self.rungs]
            shrink = range(len(steps), 0, -1)
            threshold = self.policy == "threshold"
            check_rungs(tuple(zip(steps, shrink, strict=True)) if threshold else self.rungs)
        if not 0 <= self.audit <= 1:
            raise UserError(f"audit is {self.audit}: expected a share, 0 to 1")
        if not 0.5 <= self.confidence < 1:
            raise UserError(f"confidence is {self.confidence}: expected 0.5 to less than 1")
        if self.calibration < 1:
            raise UserError(f"calibration is {self.calibration}: expected at least 1 prompt")

    def calibrates(self, prompt_index: int) -> bool:
        """Whether the fit is made on this prompt."""
        return self.policy == "threshold" and prompt_index < self.calibration

    def for_run(
        self, *, weights: "Tensor", precision: str, candidates: int, prompts: int, keep: int
    ) -> "PruneConfig":
        """This with its rungs filled in, for a run that it fits.

        Args:
            weights: ``[N]`` float64, of the run's steps.
            precision: of the run's own passes.
            candidates, prompts: M and the number of pools.
            keep: k.

        Raises:
            UserError: it does not fit, or could not save anything.
        """
        from mitune.engine.engine import counted_steps

        steps, counted = len(weights), counted_steps(weights)
        if self.policy == "draft":
            self._check_draft(steps, precision, candidates, keep)
            return self
        rungs = self.rungs
        if rungs is None and self.policy == "threshold":
            rungs = tuple((k, 1) for k in sorted({counted * tenth // 10 for tenth in range(1, 10)}))
            rungs = tuple(rung for rung in rungs if rung[0] > 0)
        elif rungs is None:
            rungs = shares(SHARES, counted, candidates, keep)
        told = " ".join(f"{step}:{left}" for step, left in rungs) or "none"
        if not rungs or rungs[-1][0] >= counted:
            raise UserError(
                f"rungs {told}: expected steps below {counted}, after which the score is complete"
            )
        if self.policy == "halving" and not keep <= rungs[-1][1] <= rungs[0][1] < candidates:
            raise UserError(
                f"rungs {told}: expected at least {keep} candidates to go on, the number to keep, "
                f"and fewer than the pool's {candidates}"
            )
        if self.policy == "threshold" and (prompts <= self.calibration or candidates < 2):
            raise UserError(
                f"{prompts} prompts of {candidates} candidates: expected more than the "
                f"{self.calibration} prompts that the threshold is fitted on, and 2 candidates; "
                "give more, or use halving"
            )
        return replace(self, rungs=rungs)

    def _check_draft(self, steps: int, precision: str, candidates: int, keep: int) -> None:
        if not keep <= self.verify < candidates:
            raise UserError(
                f"verify is {self.verify}: expected at least {keep}, the number to keep, and fewer "
                f"than the pool's {candidates} candidates"
            )
        draft_steps = self.draft_steps or steps
        if draft_steps > steps or (draft_steps == steps and self.draft_precision == precision):
            raise UserError(
                f"the draft of {draft_steps} steps in {self.draft_precision} is as dear as what it "
                f"is for, {steps} steps in {precision}: expected another draft_precision, or fewer "
                "draft_steps"
            )

    def fitted(self, pools: "Sequence[Tensor]", weights: "Tensor", keep: int) -> "Policy":
        """The policy of halving and threshold.

        Args:
            pools: ``[M, N, 2]`` each, terms of the calibration's prompts; not needed by halving.
            weights: ``[N]`` float64.
            keep: k.

        Raises:
            UserError: no calibration, or one that is not finite.
            ValueError: before ``for_run``.
        """
        from mitune.engine.policies import Halving, fit_threshold
        from mitune.selection.audit import partial_scores

        if self.rungs is None:
            raise ValueError("got no rungs, expected those that for_run fills in")
        if self.policy == "halving":
            return Halving(at=self.rungs)
        if not pools:
            raise UserError("there is no pool to fit the threshold on: expected at least one")
        return fit_threshold(
            [partial_scores(pool, weights) for pool in pools],
            [step for step, _ in self.rungs],
            keep=keep,
            confidence=self.confidence,
        )


def shares(
    at: Sequence[tuple[float, float]], steps: int, candidates: int, keep: int = 1
) -> tuple[tuple[int, int], ...]:
    """Rungs for a pool of any size and any number of steps; those that would drop nobody, or stand
    at either end, are left out."""
    rungs: dict[int, int] = {}
    for when, left in at:
        step, stay = round(when * steps), max(keep, round(left * candidates))
        if 0 < step < steps and stay < min(rungs.values(), default=candidates):
            rungs[step] = stay
    return tuple(rungs.items())


def exact(weights: "Tensor", keep: int) -> "Policy":
    """Drops nobody that matters: the steps without weight are left to the ``keep`` best."""
    from mitune.engine.engine import counted_steps
    from mitune.engine.policies import Finish, Unpruned

    counted = counted_steps(weights)
    return Finish(step=counted, keep=keep) if counted < len(weights) else Unpruned()


def policies(
    policy: "Policy | None",
    config: PruneConfig | None,
    prompts: Sequence[str],
    weights: "Tensor",
    keep: int,
    seed: int,
) -> "Callable[[int], Policy]":
    """The policy of each prompt: ``policy`` and the exact one, or, for prompts of the calibration
    and of the audit, the exact one alone."""
    from mitune.engine.policies import Chain
    from mitune.selection.audit import is_audited

    whole = exact(weights, keep)
    if policy is None or config is None:
        return lambda prompt_index: whole
    pruned = Chain(policies=(policy, whole))

    def choose(prompt_index: int) -> "Policy":
        audited = is_audited(seed, prompts[prompt_index], config.audit)
        return whole if audited or config.calibrates(prompt_index) else pruned

    return choose
