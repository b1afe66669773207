"""The oracle: reads the objects in a picture and judges how well they match a prompt.

Reading is analysis by synthesis. Pixels are split by colour, and each colour into connected
components. Each component is compared with the three shapes, rendered at its own centroid and area;
the nearest one is its shape, if it is near enough. The oracle only measures: the method neither
selects nor trains with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import max_pool2d

from mitune.worlds.shapes_v1.prompts import Object, parse
from mitune.worlds.shapes_v1.scene import (
    BACKGROUND,
    COLOURS,
    PALETTE,
    RELATIONS,
    SHAPES,
    SIZE,
    coverage,
    relation_of,
)

MIN_AREA = 12.0
"""In pixels. Anything smaller is a speck, not an object (the smallest object drawn has 50)."""
MAX_MISFIT = 0.2
"""Largest difference between a component and the nearest shape, as a share of the component's area;
above it the component has no shape."""
EXTRA_PENALTY = 0.25


@dataclass(frozen=True)
class Seen:
    """One object read from a picture: the names of its colour and shape (None if no shape fits),
    its centre (x, y) in pixels, and its area in pixels."""

    colour: str
    shape: str | None
    centre: tuple[float, float]
    area: float


def _colour_masks(images: Tensor) -> Tensor:
    """Assign each pixel to the nearest of background and palette: ``[N, colours, H, W]`` bool."""
    anchors = torch.tensor([BACKGROUND, *PALETTE])
    distance = (images[:, None] - anchors[None, :, :, None, None]).square().sum(dim=2)
    nearest = distance.argmin(dim=1)
    return torch.stack([nearest == i + 1 for i in range(len(COLOURS))], dim=1)


def _components(masks: Tensor) -> Tensor:
    """Label 4-connected components: ``[M, H, W]`` bool -> int labels, 0 outside."""
    within = ndimage.generate_binary_structure(2, 1)
    neighbours = np.stack([np.zeros_like(within), within, np.zeros_like(within)])  # not across M
    labels, _ = ndimage.label(masks.numpy(), neighbours)
    return torch.from_numpy(labels)


def _ink(image: Tensor, colour: int) -> Tensor:
    """How much of ``colour`` each pixel holds, from 0 (background) to 1: its position on the line
    between the two colours."""
    ground = torch.tensor(BACKGROUND).view(3, 1, 1)
    direction = torch.tensor(PALETTE[colour]).view(3, 1, 1) - ground
    return (((image - ground) * direction).sum(dim=0) / direction.square().sum()).clamp(0, 1)


def _read_shape(mask: Tensor, ink: Tensor) -> tuple[int | None, tuple[float, float], float]:
    """(index into SHAPES or None, centroid, area) of one component.

    Args:
        mask: ``[H, W]`` bool, the component's pixels.
        ink: ``[H, W]`` float32. Its values in the mask and in the one-pixel rim around it give the
            outline to a fraction of a pixel.
    """
    near = max_pool2d(mask[None].float(), 3, 1, 1)[0] > 0
    cover = ink * near
    area = float(cover.sum())
    axis = torch.arange(SIZE, dtype=torch.float32) + 0.5
    x, y = (
        float((cover.sum(dim=0) * axis).sum()) / area,
        float((cover.sum(dim=1) * axis).sum()) / area,
    )
    kinds = torch.arange(len(SHAPES))
    radius = torch.full((len(SHAPES),), (area / torch.pi) ** 0.5)
    models = coverage(kinds, torch.tensor([x, y]).expand(len(SHAPES), 2), radius)
    misfit = (models - cover).abs().sum(dim=(1, 2)) / area
    best = int(misfit.argmin())
    shape = best if float(misfit[best]) <= MAX_MISFIT else None
    return shape, (x, y), area


def read(images: Tensor) -> list[list[Seen]]:
    """Read the objects in each picture.

    Args:
        images: ``[N, 3, 32, 32]`` float in [0, 1].

    Returns:
        For each picture its objects, largest first.

    Raises:
        ValueError: if ``images`` has another shape.
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, SIZE, SIZE):
        raise ValueError(
            f"images must have shape [N, 3, {SIZE}, {SIZE}], got {tuple(images.shape)}"
        )
    pictures = images.float().cpu()
    masks = _colour_masks(pictures)
    labels = _components(masks.flatten(0, 1)).view_as(masks)
    seen: list[list[Seen]] = []
    for picture, planes in zip(pictures, labels, strict=True):
        objects = []
        for index, plane in enumerate(planes):
            values, counts = plane.unique(return_counts=True)
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                if value == 0 or count < MIN_AREA:
                    continue
                shape, centre, area = _read_shape(plane == value, _ink(picture, index))
                name = None if shape is None else SHAPES[shape]
                objects.append(Seen(COLOURS[index], name, centre, area))
        seen.append(sorted(objects, key=lambda o: -o.area))
    return seen


@dataclass(frozen=True)
class Verdict:
    """How well a picture shows a prompt.

    Attributes:
        graded: share of the requests that the picture fulfils (each object, and the relation if
            any), minus 0.25 for each surplus object, not below 0.
        strict: whether every object and the relation are present, and no other object.
        colours: share of the requested colours that any object has. It ignores binding, so only
            missing objects lower it.
        bound: share of the requested objects (colour and shape together) that are among the
            picture's objects.
    """

    graded: float
    strict: bool
    colours: float
    bound: float


def judge(prompt: str, objects: Sequence[Seen]) -> Verdict:
    """Judge the objects of one picture; an object can match only one request.

    Raises:
        UserError: if the prompt is not of this world.
    """
    wanted = parse(prompt)
    left = list(objects)
    found: list[Seen] = []
    for request in wanted.objects:
        match = next((o for o in left if (o.colour, o.shape) == request), None)
        if match:
            left.remove(match)
            found.append(match)
    hits = len(found)
    asked = len(wanted.objects)
    related = False
    if wanted.relation is not None:
        asked += 1
        if hits == 2:
            centres = torch.tensor([o.centre for o in found])
            related = RELATIONS[int(relation_of(centres[0], centres[1]))] == wanted.relation
    graded = (hits + related) / asked
    extra = max(0, len(objects) - len(wanted.objects))
    colours = [o.colour for o in objects]
    present = sum(colour in colours for colour, _ in wanted.objects) / len(wanted.objects)
    strict = graded == 1.0 and extra == 0
    return Verdict(
        max(0.0, graded - EXTRA_PENALTY * extra), strict, present, hits / len(wanted.objects)
    )


def score(prompts: Sequence[str], images: Tensor) -> list[Verdict]:
    """Judge ``images`` ([N, 3, 32, 32] in [0, 1]), each by its own one of the N prompts.

    Raises:
        ValueError: if the numbers of prompts and images differ.
    """
    if len(prompts) != len(images):
        raise ValueError(f"prompts must be as many as images ({len(images)}), got {len(prompts)}")
    return [judge(prompt, objects) for prompt, objects in zip(prompts, read(images), strict=True)]


def matches(objects: Sequence[Seen], truth: Sequence[Object]) -> bool:
    """Whether the objects read are exactly ``truth``, in any order. This measures the accuracy of
    the oracle itself."""
    return sorted((o.colour, o.shape or "") for o in objects) == sorted(truth)
