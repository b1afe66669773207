"""Resolve the pruning settings of one run: its rungs, its fit, and the policy of each prompt."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from mitune.config.pruning import PruneConfig
from mitune.core.errors import UserError
from mitune.engine.engine import counted_steps
from mitune.engine.policies import Chain, Finish, Halving, Policy, Unpruned, fit_threshold
from mitune.selection.audit import is_audited, partial_scores

SHARES = ((0.5, 0.4), (0.7, 0.2), (0.8, 0.1))
"""Default rungs of halving: (share of the steps with a weight, share of the pool that goes on)."""


def for_run(
    config: PruneConfig,
    *,
    weights: Tensor,
    precision: str,
    candidates: int,
    prompts: int,
    keep: int,
) -> PruneConfig:
    """Fill in the rungs of ``config`` and check that it fits the run.

    Args:
        config: the pruning settings.
        weights: ``[N]`` float64, the weights of the run's steps.
        precision: the precision of the run's own passes.
        candidates, prompts: M and the number of pools.
        keep: k.

    Raises:
        UserError: if the settings do not fit the run or cannot save any work.
    """
    steps, counted = len(weights), counted_steps(weights)
    if config.policy == "draft":
        _check_draft(config, steps, precision, candidates, keep)
        return config
    rungs = config.rungs
    if rungs is None and config.policy == "threshold":
        rungs = tuple((k, 1) for k in sorted({counted * tenth // 10 for tenth in range(1, 10)}))
        rungs = tuple(rung for rung in rungs if rung[0] > 0)
    elif rungs is None:
        rungs = shares(SHARES, counted, candidates, keep)
    told = " ".join(f"{step}:{left}" for step, left in rungs) or "none"
    if not rungs or rungs[-1][0] >= counted:
        raise UserError(
            f"rungs {told}: expected steps below {counted}, after which the score is complete"
        )
    if config.policy == "halving" and not keep <= rungs[-1][1] <= rungs[0][1] < candidates:
        raise UserError(
            f"rungs {told}: expected at least {keep} candidates to go on, the number to keep, "
            f"and fewer than the pool's {candidates}"
        )
    if config.policy == "threshold" and (prompts <= config.calibration or candidates < 2):
        raise UserError(
            f"{prompts} prompts of {candidates} candidates: expected more than the "
            f"{config.calibration} prompts that the threshold is fitted on, and 2 candidates; "
            "give more, or use halving"
        )
    return replace(config, rungs=rungs)


def _check_draft(
    config: PruneConfig, steps: int, precision: str, candidates: int, keep: int
) -> None:
    if not keep <= config.verify < candidates:
        raise UserError(
            f"verify is {config.verify}: expected at least {keep}, the number to keep, and fewer "
            f"than the pool's {candidates} candidates"
        )
    draft_steps = config.draft_steps or steps
    if draft_steps > steps or (draft_steps == steps and config.draft_precision == precision):
        raise UserError(
            f"the draft of {draft_steps} steps in {config.draft_precision} is as dear as what it "
            f"is for, {steps} steps in {precision}: expected another draft_precision, or fewer "
            "draft_steps"
        )


def fitted(config: PruneConfig, pools: Sequence[Tensor], weights: Tensor, keep: int) -> Policy:
    """Create the policy for "halving", or fit the one for "threshold".

    Args:
        config: the pruning settings, from :func:`for_run`.
        pools: ``[M, N, 2]`` each, terms of the calibration prompts; halving does not use them.
        weights: ``[N]`` float64.
        keep: k.

    Raises:
        UserError: if there are no calibration pools, or their scores are not finite.
        ValueError: if ``config`` has no rungs because :func:`for_run` did not fill them in.
    """
    if config.rungs is None:
        raise ValueError("got no rungs, expected those that for_run fills in")
    if config.policy == "halving":
        return Halving(at=config.rungs)
    if not pools:
        raise UserError("there is no pool to fit the threshold on: expected at least one")
    return fit_threshold(
        [partial_scores(pool, weights) for pool in pools],
        [step for step, _ in config.rungs],
        keep=keep,
        confidence=config.confidence,
    )


def shares(
    at: Sequence[tuple[float, float]], steps: int, candidates: int, keep: int = 1
) -> tuple[tuple[int, int], ...]:
    """Convert (share of steps, share of pool) to rungs for a pool of ``candidates``. Rungs that
    would drop no candidate, or that come before the first step or after the last one, are left
    out."""
    rungs: dict[int, int] = {}
    for when, left in at:
        step, stay = round(when * steps), max(keep, round(left * candidates))
        if 0 < step < steps and stay < min(rungs.values(), default=candidates):
            rungs[step] = stay
    return tuple(rungs.items())


def exact(weights: Tensor, keep: int) -> Policy:
    """The policy that loses nothing: only the ``keep`` best candidates take the steps without
    weight."""
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
    """A function from prompt index to policy: ``policy`` followed by the exact one, or only the
    exact one for prompts of the calibration and of the audit."""
    whole = exact(weights, keep)
    if policy is None or config is None:
        return lambda prompt_index: whole
    pruned = Chain(policies=(policy, whole))

    def choose(prompt_index: int) -> Policy:
        audited = is_audited(seed, prompts[prompt_index], config.audit)
        return whole if audited or config.calibrates(prompt_index) else pruned

    return choose
