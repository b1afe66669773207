"""The first edition of the embedded world: pairs of coloured shapes on grey."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mitune.worlds.shapes_v1.model import FOLDER
from mitune.worlds.shapes_v1.preset import PRESET
from mitune.worlds.world import Split, Verdict, World

if TYPE_CHECKING:
    from torch import Tensor

# What needs torch is imported when it is first called: programs list worlds without it.


def _prompts(split: Split) -> list[str]:
    from mitune.worlds.shapes_v1 import prompts

    return prompts.prompts(split)


def _first_prompts(split: Split, count: int, *, unseen: bool = False) -> dict[str, str]:
    from mitune.worlds.shapes_v1 import prompts

    return prompts.first_prompts(split, count, unseen=unseen)


def _rests(prompt: str) -> list[str]:
    from mitune.worlds.shapes_v1 import prompts

    return prompts.rests(prompt)


def _drawings(prompt: str, count: int, seed: int) -> "Tensor":
    from mitune.worlds.shapes_v1 import drawings

    return drawings.drawings(prompt, count, seed)


def _judge(prompts: Sequence[str], pictures: "Tensor") -> Sequence[Verdict]:
    from mitune.worlds.shapes_v1 import oracle

    return oracle.score(prompts, pictures)


SHAPES_V1 = World(
    name="shapes-v1",
    folder=FOLDER,
    remedy="python -m mitune.worlds.shapes_v1.pretrain",
    preset=PRESET,
    prompts=_prompts,
    first_prompts=_first_prompts,
    rests=_rests,
    drawings=_drawings,
    judge=_judge,
)
