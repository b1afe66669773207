"""Pruning as a user asks for it: plain values, and the policy of each prompt that follows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mitune.errors import UserError
from mitune.families.stable_diffusion import check_precision
from mitune.generate.audit import is_audited, partial_scores
from mitune.generate.engine import counted_steps
from mitune.generate.policies import (
    Chain,
    Finish,
    Halving,
    Policy,
    Unpruned,
    check_rungs,
    fit_threshold,
)

PRUNING = ("halving", "threshold", "draft")


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Which candidates are dropped before their score is complete. Not exact: a share of the
    prompts is left unpruned, and tells what was lost."""

    policy: Literal["halving", "threshold", "draft"]
    """halving: at each rung so many go on. threshold: a candidate is dropped where its partial
    score is out of reach of the k-th best, by a fit to the first prompts. draft: the whole pool in
    a cheaper pass, and the best of it once more, exactly, from the same noise."""
    rungs: tuple[tuple[int, int], ...] = ((25, 20), (35, 10), (40, 5))
    """Of halving: (steps done, candidates that go on). Of threshold, the steps alone count."""
    confidence: float = 0.999
    """Of threshold: with which a dropped candidate would not have been the better one."""
    calibration: int = 8
    """Of threshold: the first so many prompts are left unpruned, and the fit is made on them."""
    verify: int = 5
    """Of draft: so many are made once more."""
    draft_precision: str = "bf16-mixed"
    """Of draft: the UNet's precision meanwhile."""
    draft_steps: int | None = None
    """Of draft: denoising steps meanwhile; None: as many as without it."""
    audit: float = 0.05
    """Share of the prompts, drawn at random, that are left unpruned."""
    least_recall: float = 0.95
    """The audit warns where the best candidate was kept less often than this."""

    def __post_init__(self) -> None:
        if self.policy not in PRUNING:
            raise UserError(
                f"prune {self.policy!r} is not known: choose one of {', '.join(PRUNING)}"
            )
        check_precision(self.draft_precision)
        if self.verify < 1:
            raise UserError(f"verify is {self.verify}: expected at least 1 candidate")
        check_rungs(self.rungs)
        if not 0 <= self.audit <= 1:
            raise UserError(f"audit is {self.audit}: expected a share, 0 to 1")
        if not 0.5 <= self.confidence < 1:
            raise UserError(f"confidence is {self.confidence}: expected 0.5 to less than 1")
        if self.calibration < 1:
            raise UserError(f"calibration is {self.calibration}: expected at least 1 prompt")

    def calibrates(self, prompt_index: int) -> bool:
        """Whether the fit is made on this prompt."""
        return self.policy == "threshold" and prompt_index < self.calibration

    def check(self, steps: int, precision: str, keep: int) -> None:
        """Raise UserError unless this fits a run.

        Args:
            steps, precision: of the run's own passes.
            keep: k.
        """
        if self.policy == "draft":
            if self.verify < keep:
                raise UserError(
                    f"verify is {self.verify}: expected at least {keep}, the number to keep"
                )
            if (self.draft_steps or steps) >= steps and self.draft_precision == precision:
                raise UserError(
                    f"the draft is as dear as what it is for, {steps} steps in {precision}: "
                    "expected another draft_precision, or fewer draft_steps"
                )
            return
        if self.rungs[-1][0] >= steps:
            raise UserError(
                f"rungs {self.rungs}: expected steps below {steps}, the number there is"
            )
        if self.policy == "halving" and self.rungs[-1][1] < keep:
            raise UserError(
                f"rungs {self.rungs} leave {self.rungs[-1][1]} candidates: expected at least "
                f"{keep}, the number to keep"
            )

    def fitted(self, pools: Sequence[Tensor], weights: Tensor, keep: int) -> Policy:
        """The policy of halving and threshold.

        Args:
            pools: ``[M, N, 2]`` each, terms of the calibration's prompts; not needed by halving.
            weights: ``[N]`` float64.
            keep: k.

        Raises:
            UserError: no calibration, or one that is not finite.
        """
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


def exact(weights: Tensor, keep: int) -> Policy:
    """Drops nobody that matters: the steps without weight are left to the ``keep`` best."""
    counted = counted_steps(weights)
    return Finish(step=counted, keep=keep) if counted < len(weights) else Unpruned()


def policies(
    policy: Policy | None,
    config: PruneConfig | None,
    prompts: Sequence[str],
    weights: Tensor,
    keep: int,
    seed: int,
) -> Callable[[int], Policy]:
    """The policy of each prompt: ``policy`` and the exact one, or, for prompts of the calibration
    and of the audit, the exact one alone."""
    whole = exact(weights, keep)
    if policy is None or config is None:
        return lambda prompt_index: whole
    pruned = Chain(policies=(policy, whole))

    def choose(prompt_index: int) -> Policy:
        audited = is_audited(seed, prompts[prompt_index], config.audit)
        return whole if audited or config.calibrates(prompt_index) else pruned

    return choose
