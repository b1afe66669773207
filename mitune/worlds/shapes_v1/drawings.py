"""Pictures that show a prompt, from the world's own renderer: what real captioned pictures are for
a large model."""

import torch
from torch import Tensor

from mitune.worlds.shapes_v1.prompts import parse
from mitune.worlds.shapes_v1.scene import (
    COLOURS,
    RELATIONS,
    SHAPES,
    relation_of,
    render,
    sample_scenes,
)

_BLOCK = 64
"""Scenes that are drawn at a time."""


def drawings(prompt: str, count: int, seed: int) -> Tensor:
    """``count`` pictures that show just what a prompt of the world asks for, ``[count, 3, 32, 32]``
    float32 in [0, 1].

    Raises:
        UserError: the prompt is not of this world.
    """
    phrase = parse(prompt)
    objects = torch.tensor([[COLOURS.index(c), SHAPES.index(s)] for c, s in phrase.objects])
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    while sum(map(len, found)) < count:
        made = sample_scenes(
            _BLOCK,
            generator,
            objects=objects.expand(2, 2),  # of one object, it twice, of which one is drawn
            two_objects=float(len(objects) > 1),
        )
        right = torch.ones(_BLOCK, dtype=torch.bool)
        if phrase.relation is not None:
            drawn_first = torch.stack([made.colour[:, 0], made.shape[:, 0]], dim=1)
            side = relation_of(made.centre[:, 0], made.centre[:, 1])
            right = (drawn_first == objects[0]).all(1) & (side == RELATIONS.index(phrase.relation))
        found.append(render(made)[right])
    return torch.cat(found)[:count]
