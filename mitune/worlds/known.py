"""The embedded worlds, by the names of their models."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mitune.worlds.shapes.model import FOLDER
from mitune.worlds.shapes.preset import PRESET
from mitune.worlds.world import Split, Verdict, World

if TYPE_CHECKING:
    from torch import Tensor


def _prompts(split: Split) -> list[str]:
    from mitune.worlds.shapes.prompts import prompts

    return prompts(split)


def _judge(prompts: Sequence[str], pictures: "Tensor") -> Sequence[Verdict]:
    from mitune.worlds.shapes.oracle import score

    return score(prompts, pictures)


SHAPES = World(
    name="shapes",
    folder=FOLDER,
    remedy="python -m mitune.worlds.shapes.pretrain",
    preset=PRESET,
    prompts=_prompts,
    judge=_judge,
)

WORLDS: Mapping[str, World] = {world.name: world for world in (SHAPES,)}
