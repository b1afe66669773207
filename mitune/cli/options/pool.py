"""Which prompts candidates are made of, and which candidates are dropped early."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, get_args

from mitune.arguments.fields import Given, stands_for
from mitune.cli.options.settings import HEADINGS, of_one, settings_of
from mitune.config.choices import Pruning
from mitune.config.pruning import PruneConfig
from mitune.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """Which candidates are dropped before their score is complete."""

    GROUP: ClassVar[str] = HEADINGS[PruneConfig]

    prune: Annotated[Pruning | None, stands_for("drop nobody")] = None
    """How candidates are dropped before their score is complete; draft is a cheaper pass whose best
    are made once more."""
    rungs: Annotated[tuple[str, ...] | None, stands_for("shares of the steps that count")] = None
    """Where pruning looks: STEPS:CANDIDATES that go on, such as 25:20 35:10 40:5; for threshold
    steps alone, such as 10 20 30."""
    pruned: Annotated[
        Given,
        settings_of(
            PruneConfig,
            of_one(PruneConfig(policy="halving")),
            without={"policy", "rungs"},
            draft_steps="--steps",
        ),
    ] = field(default_factory=dict)

    def pruning(self) -> PruneConfig | None:
        """What these options ask for.

        Raises:
            UserError: values out of range, or options of pruning without --prune.
        """
        given = {name: value for name, value in self.pruned.items() if value is not None}
        if self.rungs is not None:
            given["rungs"] = self.rungs
        if self.prune is None:
            if given:
                raise UserError(
                    f"--{next(iter(given)).replace('_', '-')} is given without --prune: add "
                    f"--prune with one of {', '.join(get_args(Pruning))}"
                )
            return None
        for name in given:
            if self.prune not in _POLICIES.get(name, (self.prune,)):
                raise UserError(
                    f"--{name.replace('_', '-')} is given with --prune {self.prune}: it belongs to "
                    f"{' and '.join(_POLICIES[name])}"
                )
        if self.rungs is not None:
            given["rungs"] = tuple(_rung(rung, self.prune) for rung in self.rungs)
        return PruneConfig(policy=self.prune, **given)


@dataclass(frozen=True, kw_only=True)
class Pool(Pruned):
    """Which candidates are made."""

    GROUP: ClassVar[str] = "selection"

    prompts: Annotated[Path | None, stands_for("the shapes world's own list")] = None
    """Text file, one prompt a line (of tab-separated lines the first column)."""
    limit: Annotated[int | None, stands_for("all")] = None
    """Only the first so many prompts."""


_POLICIES = {
    "rungs": ("halving", "threshold"),
    "confidence": ("threshold",),
    "verify": ("draft",),
    "draft_precision": ("draft",),
    "draft_steps": ("draft",),
}
"""The policies that take an option; audit is all policies'."""


def _rung(text: str, policy: Pruning) -> tuple[int, int]:
    steps, colon, left = text.partition(":")
    alone = policy == "threshold" and not colon
    if not (steps.isdecimal() and (left.isdecimal() or alone)):
        raise UserError(f"rung {text!r}: expected STEPS:CANDIDATES, such as 25:20")
    return int(steps), int(left or 1)
