"""How candidates are made, ranked and pruned."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar, get_args

from mitune.arguments.fields import Former, stands_for
from mitune.cli.defaults import of_preset, of_pruning
from mitune.config.choices import (
    Attention,
    Backend,
    Convention,
    Estimator,
    Precision,
    Pruning,
    Rule,
    Scheduler,
)
from mitune.config.pruning import PruneConfig
from mitune.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are sampled."""

    GROUP: ClassVar[str] = "sampling"

    steps: Annotated[int | None, of_preset("sampler.steps")] = None
    """Denoising steps."""
    guidance: Annotated[float | None, of_preset("sampler.guidance")] = None
    """Classifier-free guidance of the candidates; the score never sees it."""
    scheduler: Annotated[Scheduler | None, of_preset("sampler.scheduler")] = None
    """Solver; ddpm is the paper's ancestral sampler."""
    seed: int = 0
    """Keys all noise: equal seeds, equal candidates."""
    slots: int = 64
    """Candidates in flight: changes speed and memory, not results."""
    backend: Backend = "eager"
    """What runs the denoiser, for generation, scores and align's training. inductor compiles for a
    minute or more first and keeps the result; tensorrt needs a GPU, and has no training."""
    attention: Attention = "auto"
    """Implementation of the denoiser's attention; xformers where it is installed."""
    cuda_graphs: Annotated[bool, Former("captured")] = False
    """Hold the tick of generation, and a micro-batch of align's training, in CUDA graphs; on a GPU
    only. The same result."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """Which candidates are dropped before their score is complete."""

    GROUP: ClassVar[str] = "pruning (not exact; needs --estimator trajectory)"

    prune: Annotated[Pruning | None, stands_for("drop nobody")] = None
    """How candidates are dropped before their score is complete; draft is a cheaper pass whose best
    are made once more."""
    rungs: Annotated[tuple[str, ...] | None, stands_for("shares of the steps that count")] = None
    """Where pruning looks: STEPS:CANDIDATES that go on, such as 25:20 35:10 40:5; for threshold
    steps alone, such as 10 20 30."""
    confidence: Annotated[float | None, of_pruning("confidence")] = None
    """For threshold: with which a dropped candidate would not have been the better one."""
    verify: Annotated[int | None, of_pruning("verify")] = None
    """For draft: how many of each pool are made once more, exactly."""
    draft_precision: Annotated[Precision | None, of_pruning("draft_precision")] = None
    """For draft: the denoiser's precision meanwhile."""
    draft_steps: Annotated[int | None, stands_for("--steps")] = None
    """For draft: denoising steps meanwhile."""
    audit: Annotated[float | None, of_pruning("audit")] = None
    """Share of the prompts that pruning leaves alone, and that tell what was lost."""

    def pruning(self) -> PruneConfig | None:
        """What these options ask for.

        Raises:
            UserError: values out of range, or options of pruning without --prune.
        """
        own = [field.name for field in fields(Pruned) if field.name != "prune"]
        given = {name: v for name in own if (v := getattr(self, name)) is not None}
        if self.prune is None:
            if given:
                raise UserError(
                    f"--{next(iter(given)).replace('_', '-')} is given without --prune: add "
                    f"--prune with one of {', '.join(get_args(Pruning))}"
                )
            return None
        if self.rungs is not None:
            given["rungs"] = tuple(map(_rung, self.rungs))
        return PruneConfig(policy=self.prune, **given)


@dataclass(frozen=True, kw_only=True)
class Pool(Sampling, Pruned):
    """Which candidates are made, and how they are ranked."""

    GROUP: ClassVar[str] = "selection"

    prompts: Annotated[Path | None, stands_for("the shapes world's own list")] = None
    """Text file, one prompt a line (of tab-separated lines the first column)."""
    limit: Annotated[int | None, stands_for("all")] = None
    """Only the first so many prompts."""
    candidates: Annotated[int | None, of_preset("candidates")] = None
    """Pool size M of each prompt."""
    keep: Annotated[int | None, of_preset("keep")] = None
    """How many of each pool are kept, the best first."""
    select: Rule = "mi"
    """What is kept: the highest scores, or for controls random or worst."""
    estimator: Annotated[Estimator | None, of_preset("estimator")] = None
    """What ranks a pool. trajectory: Eq. 2 along the sampler's path, free; orthogonal, standard: by
    re-noising."""
    draws: Annotated[int | None, of_preset("draws")] = None
    """Re-noising draws of the estimators that re-noise."""
    convention: Annotated[Convention | None, of_preset("sampler.convention")] = None
    """Weights of the score: paper (Eq. 2) or reference (the authors' code: no alpha_t, only t >
    50)."""
    t_min: Annotated[int | float | None, of_preset("sampler.t_min")] = None
    """Only steps with t > t_min count for the score; none: the convention's own."""
    recheck_ties: Annotated[
        float | None, stands_for("leave near ties to rounding"), Former("settle")
    ] = None
    """In half precision: make candidates within so many standard deviations of the k-th best once
    more in float32, such as 0.4, so that rounding decides no near tie."""


def _rung(text: str) -> tuple[int, int]:
    steps, colon, left = text.partition(":")
    if not (steps.isdecimal() and (left.isdecimal() or not colon)):
        raise UserError(f"rung {text!r}: expected STEPS:CANDIDATES, such as 25:20")
    return int(steps), int(left or 1)
