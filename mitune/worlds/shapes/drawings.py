"""Pictures that show a prompt, from the world's own renderer: what real captioned pictures are for
a large model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mitune.worlds.shapes.layout import KINDS, place
from mitune.worlds.shapes.prompts import SPATIAL, Item, Phrase, parse, side
from mitune.worlds.shapes.scene import COLOURS, MOST, SHAPES, TEXTURES, Scenes, render

KIND_OF = {"inside": "inside", "touching": "touching", "bigger than": "bigger"}
"""The layout that shows a relation; the spatial ones are shown by objects that lie apart."""
_BLOCK = 64
"""Scenes that are drawn at a time."""


def drawings(prompt: str, count: int, seed: int) -> Tensor:
    """``count`` pictures that show just what a prompt of the world asks for, ``[count, 3, 64, 64]``
    float32 in [0, 1]. What the prompt does not say is drawn at random, textures excepted: an object
    of which none is told is solid.

    Raises:
        UserError: the prompt is not of this world.
    """
    return render(scenes(parse(prompt), count, torch.Generator().manual_seed(seed)))


def scenes(phrase: Phrase, count: int, generator: torch.Generator) -> Scenes:
    """``count`` scenes that show just what ``phrase`` asks for."""
    kind = KIND_OF.get(phrase.relation or "", KINDS[0])
    items = list(phrase.items)
    if phrase.relation is not None:  # a layout relates the first two of its objects
        items = [*items[-2:], *items[:-2]]
    if kind == "inside":  # the outer one is drawn first
        items[:2] = items[1], items[0]
    found: list[Scenes] = []
    while sum(map(len, found)) < count:
        made = _drawn([item for item in items for _ in range(item.count)], kind, generator)
        found.append(made.rows(_on_the_side(phrase, made).nonzero().flatten()))
    return Scenes.cat(found).rows(torch.arange(count))


def _drawn(items: Sequence[Item], kind: str, generator: torch.Generator) -> Scenes:
    colour = torch.randint(len(COLOURS), (_BLOCK, MOST), generator=generator)
    shape, texture = (torch.zeros(_BLOCK, MOST, dtype=torch.int64) for _ in range(2))
    for i, item in enumerate(items):
        if item.colour is not None:
            colour[:, i] = COLOURS.index(item.colour)
        shape[:, i] = SHAPES.index(item.shape)
        texture[:, i] = TEXTURES.index(item.texture or "solid")
    present = torch.full((_BLOCK,), len(items))
    lay = place(kind, present, shape, generator)
    return Scenes(
        count=present,
        colour=colour,
        shape=shape,
        texture=texture,
        centre=lay.centre,
        radius=lay.radius,
    )


def _on_the_side(phrase: Phrase, made: Scenes) -> Tensor:
    """Which scenes have the first object on the side of the second that ``phrase`` asks for, if
    it asks for one: ``[N]`` bool."""
    if phrase.relation not in SPATIAL:
        return torch.ones(len(made), dtype=torch.bool)
    first, second = made.centre[:, 0].tolist(), made.centre[:, 1].tolist()
    sides = [side(one, other) for one, other in zip(first, second, strict=True)]
    return torch.tensor([found == phrase.relation for found in sides])
