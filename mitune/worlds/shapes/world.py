"""The embedded world: up to four coloured, textured shapes and how they relate."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import mitune
from mitune.worlds.shapes.preset import PRESET
from mitune.worlds.world import Split, Verdict, World

if TYPE_CHECKING:
    from torch import Tensor

# What needs torch is imported when it is first called: programs list worlds without it.


def _prompts(split: Split) -> list[str]:
    from mitune.worlds.shapes import prompts

    return list(prompts.first_prompts(split, prompts.LISTED[split]))


def _first_prompts(split: Split, count: int, *, unseen: bool = False) -> dict[str, str]:
    from mitune.worlds.shapes import prompts

    return prompts.first_prompts(split, count, unseen=unseen)


def _rests(prompt: str) -> list[str]:
    from mitune.worlds.shapes import prompts

    return prompts.rests(prompt)


def _drawings(prompt: str, count: int, seed: int) -> "Tensor":
    from mitune.worlds.shapes import drawings

    return drawings.drawings(prompt, count, seed)


def _judge(prompts: Sequence[str], pictures: "Tensor") -> Sequence[Verdict]:
    from mitune.worlds.shapes import oracle

    return oracle.score(prompts, pictures)


SHAPES = World(
    name="shapes",
    folder=Path(mitune.__file__).parent / "shapes" / "pretrained",
    remedy="python -m mitune.worlds.shapes.pretrain",
    preset=PRESET,
    prompts=_prompts,
    first_prompts=_first_prompts,
    rests=_rests,
    drawings=_drawings,
    judge=_judge,
)
