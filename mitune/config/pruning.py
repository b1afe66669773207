"""Pruning as a user asks for it: plain values, validated once (``mitune.selection.prune`` carries
it out)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from mitune.config.choices import Precision, Pruning, check_choice
from mitune.config.options import check_types
from mitune.core.errors import UserError

PRUNING = get_args(Pruning)


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
    """Of draft: the denoiser's precision meanwhile."""
    draft_steps: int | None = None
    """Of draft: denoising steps meanwhile; none: as many as without it."""
    audit: float = 0.05
    """Share of the prompts, drawn at random, that are left unpruned."""
    least_recall: float = 0.95
    """The audit warns where the best candidate was kept less often than this."""

    def __post_init__(self) -> None:
        check_types(self)
        check_choice("prune", self.policy, Pruning)
        check_choice("draft_precision", self.draft_precision, Precision)
        if self.verify < 1:
            raise UserError(f"verify is {self.verify}: expected at least 1 candidate")
        if self.draft_steps is not None and self.draft_steps < 1:
            raise UserError(f"draft_steps is {self.draft_steps}: expected at least 1")
        if self.rungs is not None:
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


def check_rungs(at: Sequence[tuple[int, int]]) -> None:
    """Raise UserError unless steps ascend from 1 and the numbers that go on descend to 1 or
    more."""
    steps, left = [step for step, _ in at], [keep for _, keep in at]
    if steps != sorted(set(steps)) or left != sorted(set(left), reverse=True) or not at:
        raise UserError(
            f"rungs {at} are not in order: expected steps that grow and candidates that shrink, "
            "such as 10:25 20:12"
        )
    if steps[0] < 1 or left[-1] < 1:
        raise UserError(f"rungs {at}: expected steps and candidates of at least 1")
