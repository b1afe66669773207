"""How candidates are made, ranked and pruned."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args

from mitune.arguments.fields import stands_for
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
from mitune.core.errors import UserError

if TYPE_CHECKING:
    from mitune.config.preset import Preset
    from mitune.config.sampling import SamplerConfig
    from mitune.selection.prune import PruneConfig


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
    """What runs the UNet, for generation, scores and align's training. inductor compiles for a
    minute or more first and keeps the result; tensorrt needs a GPU, and has no training."""
    attention: Attention = "auto"
    """Implementation of the UNet's attention; xformers where it is installed."""

    def sampler(self, preset: "SamplerConfig") -> "SamplerConfig":
        """The preset with the options given."""
        given: dict[str, Any] = {
            "steps": self.steps,
            "guidance": self.guidance,
            "scheduler": self.scheduler,
        }
        return replace(preset, **{k: v for k, v in given.items() if v is not None})


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
    """For draft: the UNet's precision meanwhile."""
    draft_steps: Annotated[int | None, stands_for("--steps")] = None
    """For draft: denoising steps meanwhile."""
    audit: Annotated[float | None, of_pruning("audit")] = None
    """Share of the prompts that pruning leaves alone, and that tell what was lost."""

    def pruning(self) -> "PruneConfig | None":
        """What these options ask for.

        Raises:
            UserError: values out of range, or options of pruning without --prune.
        """
        given: dict[str, Any] = {
            "rungs": None if self.rungs is None else tuple(map(_rung, self.rungs)),
            "confidence": self.confidence,
            "verify": self.verify,
            "draft_precision": self.draft_precision,
            "draft_steps": self.draft_steps,
            "audit": self.audit,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if self.prune is None:
            if given:
                raise UserError(
                    f"--{next(iter(given)).replace('_', '-')} is given without --prune: add "
                    f"--prune with one of {', '.join(get_args(Pruning))}"
                )
            return None
        from mitune.selection.prune import PruneConfig

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
    t_min: Annotated[int | None, of_preset("sampler.t_min")] = None
    """Only steps with t > t_min count for the score; none: the convention's own."""
    settle: Annotated[float | None, stands_for("leave near ties to rounding")] = None
    """In half precision: make candidates within so many standard deviations of the k-th best once
    more in float32, such as 0.4, so that rounding decides no near tie."""

    def sampler(self, preset: "SamplerConfig") -> "SamplerConfig":
        """The preset with the options given, the score's weights among them."""
        given: dict[str, Any] = {"convention": self.convention, "t_min": self.t_min}
        return replace(super().sampler(preset), **{k: v for k, v in given.items() if v is not None})

    def pool(self, preset: "Preset") -> dict[str, Any]:
        """What ``build_set`` and ``align`` take of these options."""
        return {
            "candidates": self.candidates,
            "keep": self.keep,
            "select": self.select,
            "estimator": self.estimator,
            "draws": self.draws,
            "sampler": self.sampler(preset.sampler),
            "seed": self.seed,
            "slots": self.slots,
            "backend": self.backend,
            "attention": self.attention,
            "prune": self.pruning(),
            "settle": self.settle,
        }


def _rung(text: str) -> tuple[int, int]:
    steps, colon, left = text.partition(":")
    if not (steps.isdecimal() and (left.isdecimal() or not colon)):
        raise UserError(f"rung {text!r}: expected STEPS:CANDIDATES, such as 25:20")
    return int(steps), int(left or 1)
