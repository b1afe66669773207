"""What pre-training shows: scenes of every kind, and captions of them, of which a known share is
wrong, as on the web."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mitune.worlds.shapes.layout import KINDS, place
from mitune.worlds.shapes.prompts import (
    NAMED_TEXTURES,
    NON_SPATIAL,
    SPATIAL,
    Item,
    Phrase,
    shown,
    side,
)
from mitune.worlds.shapes.scene import COLOURS, MOST, SHAPES, TEXTURES, Scenes

RELATION_OF = {"bigger": "bigger than", "inside": "inside", "touching": "touching"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Shares of scenes and captions, as probabilities.

    Attributes:
        apart, equal: of scenes whose objects lie apart, and of those with several equal ones; the
            rest are of the three other layouts, in equal parts.
        counts: of one, two and three objects that lie apart.
        textured: of objects with a texture.
        related: of pairs that lie apart whose caption names their relation.
        untold: of textures, and of colours where a texture is told, that captions leave out.
        ghost: of one-object scenes whose caption names another object that is not there.
        swapped: of captions of several objects that exchange the colours, or the textures, of two.
        unrelated: of captions with a relation that name a wrong one.
        miscounted: of captions of equal objects that name another number.
        dropout: of captions that are empty.
        alike: of scenes of objects apart, those whose objects have one colour and different shapes.
    """

    apart: float = 0.6
    equal: float = 0.12
    counts: tuple[float, float, float] = (0.25, 0.5, 0.25)
    textured: float = 0.4
    related: float = 0.45
    untold: float = 0.15
    ghost: float = 0.4
    swapped: float = 0.2
    unrelated: float = 0.15
    miscounted: float = 0.2
    dropout: float = 0.1
    alike: float = 0.15

    def clean(self) -> "Recipe":
        """The same without wrong captions."""
        return replace(self, ghost=0.0, swapped=0.0, unrelated=0.0, miscounted=0.0)


class Caption(NamedTuple):
    """A caption of a scene."""

    text: str
    shows: tuple[tuple[int, ...], ...]
    """For each item that it names, the scene's objects that this is said of; an object that is not
    there has a number beyond the scene's."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Scenes, and the name of each one's layout: one of KINDS, or "equal"."""

    scenes: Scenes
    kinds: tuple[str, ...]


def _objects(count: int, recipe: Recipe, alike: float, generator: torch.Generator) -> Tensor:
    """``[count, 4, 3]`` int64, colour, shape and texture of each object: those of one scene have
    different colours, or one colour and different shapes, and none is a pair that pre-training
    never shows."""
    allowed = torch.tensor(
        [[shown(Item(s, c, t)) for t in TEXTURES] for c in COLOURS for s in SHAPES]
    ).view(len(COLOURS), len(SHAPES), len(TEXTURES))
    colour = torch.stack(
        [torch.randperm(len(COLOURS), generator=generator)[:MOST] for _ in range(count)]
    )
    same = torch.rand(count, 1, generator=generator) < alike
    colour = torch.where(same, colour[:, :1], colour)
    shape, texture = torch.zeros_like(colour), torch.zeros_like(colour)
    pending = torch.ones_like(colour, dtype=torch.bool)
    while bool(pending.any()):
        drawn = torch.randint(len(SHAPES), colour.shape, generator=generator)
        named = torch.rand(colour.shape, generator=generator) < recipe.textured
        pattern = torch.randint(1, len(TEXTURES), colour.shape, generator=generator) * named
        shape = torch.where(pending, drawn, shape)
        texture = torch.where(pending, pattern, texture)
        equal = (shape[:, :, None] == shape[:, None]).tril(-1).any(dim=2)
        pending = ~allowed[colour, shape, texture] | (equal & same)
    return torch.stack([colour, shape, texture], dim=-1)


def sample(count: int, recipe: Recipe, generator: torch.Generator) -> Corpus:
    """Draw scenes of all kinds, in a random order."""
    others = (1 - recipe.apart - recipe.equal) / 3
    shares = {"apart": recipe.apart, "equal": recipe.equal} | dict.fromkeys(KINDS[1:], others)
    parts: list[Scenes] = []
    kinds: list[str] = []
    for kind, share in shares.items():
        number = count - len(kinds) if kind == KINDS[-1] else round(count * share)
        alike = recipe.alike if kind == "apart" else 0.0
        objects = _objects(number, recipe, alike, generator)
        if kind == "equal":
            objects = objects[:, :1].expand(-1, MOST, -1).clone()
        present = torch.full((number,), 2)
        if kind == "equal":
            present = torch.randint(2, MOST + 1, (number,), generator=generator)
        if kind == "apart":
            weights = torch.tensor(recipe.counts)
            present = 1 + weights.multinomial(number, replacement=True, generator=generator)
        if kind == "inside":  # there is room in a circle and in a square
            objects = _roomy(objects, generator)
        lay = place("apart" if kind == "equal" else kind, present, objects[..., 1], generator)
        colour, shape, texture = objects.unbind(-1)
        parts.append(
            Scenes(
                count=present,
                colour=colour,
                shape=shape,
                texture=texture,
                centre=lay.centre,
                radius=lay.radius,
            )
        )
        kinds += [kind] * number
    joined = Scenes.cat(parts)
    order = torch.randperm(len(joined), generator=generator)
    return Corpus(scenes=joined.rows(order), kinds=tuple(kinds[i] for i in order.tolist()))


def _roomy(objects: Tensor, generator: torch.Generator) -> Tensor:
    """The outer object becomes a circle or a square, whichever may be shown, without a texture: on
    one, a small object would be lost."""
    drawn = torch.randint(2, (len(objects),), generator=generator)
    yellow = objects[:, 0, 0] == COLOURS.index("yellow")
    objects[:, 0, 1] = torch.where(yellow, SHAPES.index("square"), drawn)
    objects[:, 0, 2] = 0
    return objects


def caption(corpus: Corpus, row: int, recipe: Recipe, draw: random.Random) -> Caption:
    """A caption of a scene, wrong as often as the recipe says; "" where it is dropped."""
    if draw.random() < recipe.dropout:
        return Caption("", ())
    scenes, kind = corpus.scenes, corpus.kinds[row]
    items = [_item(scenes, row, i, recipe, draw) for i in range(int(scenes.count[row]))]
    if kind == "equal":
        numbers = [n for n in range(2, MOST + 1) if n != len(items)]
        wrong = draw.random() < recipe.miscounted
        named = replace(items[0], count=draw.choice(numbers) if wrong else len(items))
        return Caption(str(Phrase((named,))), (tuple(range(len(items))),))
    centres = scenes.centre[row].tolist()
    order = list(range(len(items)))
    relation = RELATION_OF.get(kind)
    if kind == "inside":
        order.reverse()  # the inner one is named first
    elif kind == "touching" or relation is None:
        draw.shuffle(order)
    if relation is None and len(items) > 1 and draw.random() < recipe.related:
        relation = side(centres[order[-2]], centres[order[-1]])
    if len(items) == 1 and draw.random() < recipe.ghost:
        items.append(_ghost(items[0], draw))
        order = [0, 1] if draw.random() < 0.5 else [1, 0]
    several = [items[i] for i in order]
    if len(several) > 1 and draw.random() < recipe.swapped:
        several = _swapped(several, draw)
    if relation is not None and draw.random() < recipe.unrelated:
        of = SPATIAL if relation in SPATIAL else NON_SPATIAL
        relation = draw.choice([other for other in of if other != relation])
    return Caption(str(Phrase(tuple(several), relation)), tuple((i,) for i in order))


def _item(scenes: Scenes, row: int, i: int, recipe: Recipe, draw: random.Random) -> Item:
    texture = TEXTURES[scenes.texture[row, i]]
    named = texture if texture in NAMED_TEXTURES and draw.random() >= recipe.untold else None
    quiet = named is not None and draw.random() < recipe.untold
    colour = None if quiet else COLOURS[scenes.colour[row, i]]
    return Item(SHAPES[scenes.shape[row, i]], colour, named)


def _ghost(item: Item, draw: random.Random) -> Item:
    while True:
        other = Item(draw.choice(SHAPES), draw.choice(COLOURS))
        if shown(other) and other.colour != item.colour:
            return other


def _swapped(items: list[Item], draw: random.Random) -> list[Item]:
    """The colours, or the textures, of two items exchanged, where this names nothing that is never
    shown."""
    i, j = draw.sample(range(len(items)), 2)
    what = draw.choice(["colour", "texture"])
    one, other = items[i], items[j]
    changed = list(items)
    changed[i] = replace(one, **{what: getattr(other, what)})
    changed[j] = replace(other, **{what: getattr(one, what)})
    return changed if all(map(shown, changed)) else items


def captions(corpus: Corpus, rows: list[int], recipe: Recipe, seed: int) -> Iterator[Caption]:
    """A caption for each of the scenes ``rows``, as drawn with ``seed``."""
    draw = random.Random(seed)
    for row in rows:
        yield caption(corpus, row, recipe, draw)
