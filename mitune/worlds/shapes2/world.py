"""The embedded world's second edition: up to four coloured, textured shapes and how they relate."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import mitune
from mitune.worlds.shapes2.preset import PRESET
from mitune.worlds.world import Split, Verdict, World

if TYPE_CHECKING:
    from torch import Tensor

# What needs torch is imported when it is first called: programs list worlds without it.


def _prompts(split: Split) -> list[str]:
    from mitune.worlds.shapes2 import prompts

    return list(prompts.first_prompts(split, prompts.LISTED[split]))


def _first_prompts(split: Split, count: int, *, unseen: bool = False) -> dict[str, str]:
    from mitune.worlds.shapes2 import prompts

    return prompts.first_prompts(split, count, unseen=unseen)


def _rests(prompt: str) -> list[str]:
    from mitune.worlds.shapes2 import prompts

    return prompts.rests(prompt)


def _drawings(prompt: str, count: int, seed: int) -> "Tensor":
    from mitune.worlds.shapes2 import drawings

    return drawings.drawings(prompt, count, seed)


def _judge(prompts: Sequence[str], pictures: "Tensor") -> Sequence[Verdict]:
    from mitune.worlds.shapes2 import oracle

    return oracle.score(prompts, pictures)


SHAPES2 = World(
    name="shapes2",
    folder=Path(mitune.__file__).parent / "shapes2" / "pretrained",
    remedy="python -m mitune.worlds.shapes2.pretrain",
    preset=PRESET,
    prompts=_prompts,
    first_prompts=_first_prompts,
    rests=_rests,
    drawings=_drawings,
    judge=_judge,
)
