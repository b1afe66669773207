"""The oracle: reads the objects in a picture and judges how well they match a prompt.

Reading is analysis by synthesis. Each pixel is the paper's or of one colour, in either tone of a
texture; each colour's connected parts, their holes filled, are compared with the shapes, rendered
at the same place and of the same area. The oracle only measures: nothing selects or trains with it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from mitune.worlds.shapes.prompts import SPATIAL, Item, Phrase, parse, side
from mitune.worlds.shapes.scene import (
    BACKGROUND,
    COLOURS,
    PALETTE,
    PERIOD,
    SHAPES,
    SIZE,
    TEXTURES,
    TINT,
    coverage,
    tint,
)

MIN_AREA = 20
"""In pixels. Anything smaller is a speck, not an object (the smallest object drawn has 55)."""
MIN_CORE = 4
"""Pixels of an object that are not on its edge."""
LEAST_TINT = 0.08
"""Mean of the second tone, from which on an object is not solid."""
MAX_MISFIT = 0.3
"""Largest difference between a part and the nearest shape, as a share of the part's area; above it
the part has no shape."""
EXTRA_PENALTY = 0.25
NEAR = 2.0
"""Pixels between objects that touch, at most."""
BIGGER = 1.6
"""Least ratio of two areas of which one is bigger."""


@dataclass(frozen=True)
class Seen:
    """One object read from a picture: its colour, shape (None if none fits) and texture, its centre
    (x, y) and area in pixels, and its pixels with its holes filled, ``[64, 64]`` bool."""

    colour: str
    shape: str | None
    texture: str
    centre: tuple[float, float]
    area: float
    mask: np.ndarray


def _tones(images: Tensor) -> tuple[Tensor, Tensor]:
    """For each pixel its colour (0 is the paper) and how far it is towards the second tone, both
    ``[N, 64, 64]``."""
    ink = torch.tensor(PALETTE)
    light = ink + (1 - ink) * TINT
    way = light - ink
    offset = images.movedim(1, -1)[..., None, :] - ink
    share = ((offset * way).sum(-1) / way.square().sum(-1)).clamp(0, 1)
    away = (offset - share[..., None] * way).square().sum(-1)
    paper = (images - torch.tensor(BACKGROUND).view(3, 1, 1)).square().sum(1)
    best, which = away.min(-1)
    colour = torch.where(paper < best, 0, which + 1)
    return colour, share.gather(-1, which[..., None])[..., 0]


def _shape_of(mask: np.ndarray) -> tuple[str | None, tuple[float, float], float]:
    area = float(mask.sum())
    y, x = (float(v) + 0.5 for v in ndimage.center_of_mass(mask))
    kinds = torch.arange(len(SHAPES))
    radius = torch.full((len(SHAPES),), (area / torch.pi) ** 0.5)
    models = coverage(kinds, torch.tensor([x, y]).expand(len(SHAPES), 2), radius)
    misfit = (models - torch.from_numpy(mask).float()).abs().sum(dim=(1, 2)) / area
    best = int(misfit.argmin())
    return (SHAPES[best] if float(misfit[best]) <= MAX_MISFIT else None), (x, y), area


def _patterns() -> tuple[list[str], Tensor]:
    """The patterns of a period's phases, with their names: ``[P, 64, 64]``."""
    names, found = [], []
    for number, name in enumerate(TEXTURES[1:], 1):
        for dy, dx in itertools.product(range(int(PERIOD)), repeat=2):
            names.append(name)
            found.append(tint(torch.tensor(number), torch.tensor([float(dx), float(dy)])))
    return names, torch.stack(found)


_NAMES, _PATTERNS = _patterns()


def _texture_of(mask: np.ndarray, share: np.ndarray) -> str:
    """Solid, or the texture whose pattern, in its best phase, goes best with the tones."""
    inner = ndimage.binary_erosion(mask)
    inner = inner if inner.sum() >= MIN_AREA // 2 else mask
    if float(share[inner].mean()) < LEAST_TINT:
        return "solid"
    within = torch.from_numpy(inner)
    tones = torch.from_numpy(share)[within]
    patterns = _PATTERNS[:, within]
    tones, patterns = tones - tones.mean(), patterns - patterns.mean(1, keepdim=True)
    likeness = patterns @ tones / (patterns.norm(dim=1) * tones.norm() + 1e-6)
    return _NAMES[int(likeness.argmax())]


def read(images: Tensor) -> list[list[Seen]]:
    """Read the objects in each picture.

    Args:
        images: ``[N, 3, 64, 64]`` float in [0, 1].

    Returns:
        For each picture its objects, largest first.
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, SIZE, SIZE):
        raise ValueError(f"images must have shape [N, 3, {SIZE}, {SIZE}], got {images.shape}")
    colours, shares = (x.numpy() for x in _tones(images.float().cpu()))
    seen = []
    for colour, share in zip(colours, shares, strict=True):
        objects = []
        for number, name in enumerate(COLOURS, 1):
            labels, count = ndimage.label(colour == number)
            for label in range(1, count + 1):
                part = labels == label
                # Where two colours meet, their mixture is a line of a third.
                if part.sum() < MIN_AREA or ndimage.binary_erosion(part).sum() < MIN_CORE:
                    continue
                mask = ndimage.binary_fill_holes(part)
                shape, centre, area = _shape_of(mask)
                objects.append(Seen(name, shape, _texture_of(part, share), centre, area, mask))
        seen.append(sorted(objects, key=lambda each: -each.area))
    return seen


def holds(relation: str, first: Seen, second: Seen) -> bool:
    """Whether the first object has that relation to the second."""
    if relation in SPATIAL:
        return relation == side(first.centre, second.centre)
    inside = bool((first.mask <= second.mask).all())
    if relation == "inside":
        return inside
    if relation == "bigger than":
        return first.area >= BIGGER * second.area
    away = ndimage.distance_transform_edt(~second.mask)[first.mask].min()
    return not inside and not bool((second.mask <= first.mask).all()) and away <= NEAR


@dataclass(frozen=True)
class Verdict:
    """How well a picture shows a prompt.

    Attributes:
        graded: share of the requests that the picture fulfils (each object, and the relation if
            any), minus 0.25 for each surplus object, not below 0.
        strict: whether every object and the relation are present, and no other object.
    """

    graded: float
    strict: bool


def _fits(item: Item, seen: Seen) -> bool:
    return (
        seen.shape == item.shape
        and item.colour in (None, seen.colour)
        and item.texture in (None, seen.texture)
    )


def judge(prompt: str | Phrase, objects: Sequence[Seen]) -> Verdict:
    """Judge the objects of one picture: by the best way to match each object with one request."""
    wanted = parse(prompt) if isinstance(prompt, str) else prompt
    requests = [item for item in wanted.items for _ in range(item.count)]
    asked = len(requests) + (wanted.relation is not None)
    best = 0
    several = [*objects, *([None] * len(requests))]
    for chosen in set(itertools.permutations(range(len(several)), len(requests))):
        found = [
            one if (one := several[i]) is not None and _fits(item, one) else None
            for item, i in zip(requests, chosen, strict=True)
        ]
        hits = sum(one is not None for one in found)
        if wanted.relation is not None and found[-1] is not None and found[-2] is not None:
            hits += holds(wanted.relation, found[-2], found[-1])
        best = max(best, hits)
    extra = max(0, len(objects) - len(requests))
    return Verdict(max(0.0, best / asked - EXTRA_PENALTY * extra), best == asked and extra == 0)


def score(prompts: Sequence[str], images: Tensor) -> list[Verdict]:
    """Judge each picture ([N, 3, 64, 64] in [0, 1]) by its own prompt."""
    seen = read(images)
    return [judge(prompt, objects) for prompt, objects in zip(prompts, seen, strict=True)]
