"""How much of what is asked for does a training of `shapes` draw? The oracle's scores by
category and guidance.

    python -m mitune.evaluation.categories --model FOLDER --guidance 1 3 5
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mitune.arguments.module import run_module
from mitune.core import progress
from mitune.core.files import atomic_write
from mitune.core.provenance import as_json, environment
from mitune.evaluation.drawing import draw
from mitune.evaluation.standard_error import Estimate, over
from mitune.load import pick_device
from mitune.models.protocol import LatentModel
from mitune.worlds.shapes import oracle
from mitune.worlds.shapes.prompts import CATEGORIES, first_prompts
from mitune.worlds.shapes.world import SHAPES


@dataclass(frozen=True, kw_only=True)
class Options:
    """The oracle's scores of a training of `shapes`, by category and guidance."""

    model: Path
    """Folder of the pipeline."""
    guidance: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0, 7.5)
    """Guidance scales to draw at."""
    prompts: int = 20
    """Prompts of each category."""
    images: int = 4
    """Pictures of each prompt."""
    unseen: bool = False
    """Prompts with a pair that pre-training never showed, instead of those without."""
    split: str = "test"
    """The list that the prompts are from: train or test."""
    steps: int = 25
    """Sampling steps."""
    seed: int = 11
    """Keys all noise."""
    out: Path | None = None
    """File to write the table to, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The mean scores of one category's pictures at one guidance, with standard errors over
    prompts; "all" is the mean over everything drawn."""

    guidance: float
    category: str
    graded: Estimate
    strict: Estimate


def by_category(model: LatentModel, options: Options) -> list[Row]:
    """Draw and judge; one row for each guidance and category."""
    kinds = first_prompts(options.split, options.prompts, unseen=options.unseen)
    rows = []
    for guidance in options.guidance:
        sampler = replace(model.preset.sampler, steps=options.steps, guidance=guidance)
        images = draw(model, list(kinds), images=options.images, sampler=sampler, seed=options.seed)
        verdicts = oracle.score(images.prompts, model.decode(images.latents))
        means = {  # of each prompt
            name: torch.tensor([float(getattr(v, name)) for v in verdicts])
            .view(len(kinds), -1)
            .mean(dim=1)
            .tolist()
            for name in ("graded", "strict")
        }
        for category in ("all", *CATEGORIES):
            graded, strict = (
                over(
                    [
                        m
                        for m, kind in zip(of, kinds.values(), strict=True)
                        if category in ("all", kind)
                    ]
                )
                for of in means.values()
            )
            rows.append(Row(guidance=guidance, category=category, graded=graded, strict=strict))
            print(f"guidance {guidance:<4} {category:<12} graded {graded}  strict {strict}")
    return rows


def main(options: Options) -> None:
    """Print the table; with --out, also write it."""
    progress.quiet_libraries()
    model = SHAPES.load(device=pick_device(None), precision="float32", folder=options.model)
    rows = by_category(model, options)
    if options.out:
        # Not where things lie on this machine: results are published.
        asked: dict[str, Any] = {k: v for k, v in asdict(options).items() if k != "out"}
        asked["model"] = options.model.name
        body = {"options": asked, "rows": [asdict(row) for row in rows]}
        body["environment"] = environment(model.device)
        atomic_write(options.out, as_json(body, indent=1).encode())


if __name__ == "__main__":
    run_module(Options, main)
