"""Scenes of the embedded world: one or two coloured shapes on grey, and their exact rendering.

A batch of scenes is one dataclass of tensors, so that one call can render ten thousand pictures.
Pictures are ``[N, 3, 32, 32]`` float32 in [0, 1]. Positions and radii are in pixels; the origin is
the top left corner.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle")
RELATIONS = ("to the left of", "to the right of", "above", "below")

SIZE = 32
BACKGROUND = (0.5, 0.5, 0.5)
PALETTE = ((0.86, 0.16, 0.14), (0.16, 0.64, 0.20), (0.14, 0.28, 0.86), (0.96, 0.84, 0.12))

RADIUS = (4.0, 5.5)
GAP = 1.5
"""Smallest distance in pixels between two objects, measured from the reach of each."""
BORDER = 1.0
"""Smallest distance in pixels between an object's reach and the border."""

# A radius means about the same area for every shape, so that the size does not reveal the shape.
_SQUARE_HALF = math.sqrt(math.pi) / 2
_TRIANGLE_INRADIUS = math.sqrt(math.pi / (3 * math.sqrt(3)))
# Reach per radius: the square's corner; the triangle's half width (its apex reaches further, but it
# is thin, and GAP keeps it clear of others). A test draws thousands of scenes and finds no overlap.
_REACH = torch.tensor([1.0, _SQUARE_HALF * math.sqrt(2), _TRIANGLE_INRADIUS * math.sqrt(3)])


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """N scenes of at most two objects.

    Attributes:
        count: ``[N]`` int64, objects in the scene, 1 or 2.
        colour: ``[N, 2]`` int64, index into COLOURS; the second is meaningless where count is 1.
        shape: ``[N, 2]`` int64, index into SHAPES.
        centre: ``[N, 2, 2]`` float32, (x, y) in pixels.
        radius: ``[N, 2]`` float32, in pixels: the radius of a circle; for the other shapes, the
            radius of a circle of the same area.
    """

    count: Tensor
    colour: Tensor
    shape: Tensor
    centre: Tensor
    radius: Tensor

    def __len__(self) -> int:
        return int(self.count.shape[0])

    def rows(self, index: Tensor) -> "Scenes":
        """The scenes at ``index`` ([M] int64), in that order."""
        return Scenes(
            count=self.count[index],
            colour=self.colour[index],
            shape=self.shape[index],
            centre=self.centre[index],
            radius=self.radius[index],
        )


def coverage(shape: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """Anti-aliased coverage of each object on the pixel grid, from its signed distance.

    Args:
        shape: ``[...]`` int64, index into SHAPES.
        centre: ``[..., 2]`` float32, (x, y) in pixels.
        radius: ``[...]`` float32, in pixels.

    Returns:
        ``[..., 32, 32]`` float32 in [0, 1]: the share of each pixel that the object covers, to
        first order.
    """
    axis = torch.arange(SIZE, dtype=torch.float32) + 0.5
    dx = axis.view(1, SIZE) - centre[..., 0, None, None]
    dy = axis.view(SIZE, 1) - centre[..., 1, None, None]
    dx, dy = torch.broadcast_tensors(dx, dy)
    r = radius[..., None, None]
    circle = torch.hypot(dx, dy) - r
    square = torch.maximum(dx.abs(), dy.abs()) - r * _SQUARE_HALF
    # An upright triangle is three half-planes at the inradius from the centroid.
    slanted = dx.abs() * (math.sqrt(3) / 2) - dy * 0.5
    triangle = torch.maximum(slanted, dy) - r * _TRIANGLE_INRADIUS
    kind = shape[..., None, None]
    distance = torch.where(kind == 0, circle, torch.where(kind == 1, square, triangle))
    return (0.5 - distance).clamp(0, 1)


def render(scenes: Scenes) -> Tensor:
    """Pictures of the scenes: ``[N, 3, 32, 32]`` float32 in [0, 1]."""
    masks = coverage(scenes.shape, scenes.centre, scenes.radius)
    present = torch.arange(2) < scenes.count[:, None]
    masks = masks * present[..., None, None]
    picture = torch.tensor(BACKGROUND).view(1, 3, 1, 1).expand(len(scenes), 3, SIZE, SIZE)
    ink = torch.tensor(PALETTE)[scenes.colour]
    for i in range(2):
        mask = masks[:, i, None]
        picture = picture * (1 - mask) + ink[:, i, :, None, None] * mask
    return picture


def sample_scenes(
    count: int, generator: torch.Generator, *, objects: Tensor, two_objects: float
) -> Scenes:
    """Draw random scenes; the objects of one scene differ and never overlap.

    Args:
        count: number of scenes.
        generator: the only source of randomness.
        objects: ``[K, 2]`` int64, the (colour, shape) pairs that may appear.
        two_objects: share of scenes with two objects.
    """
    first = torch.randint(len(objects), (count,), generator=generator)
    # Draw the second object from the others, so that no scene has the same object twice.
    other = torch.randint(len(objects) - 1, (count,), generator=generator)
    other = other + (other >= first)
    chosen = objects[torch.stack([first, other], dim=1)]
    number = 1 + (torch.rand(count, generator=generator) < two_objects).long()
    radius = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * torch.rand(count, 2, generator=generator)
    reach = radius * _REACH[chosen[..., 1]]
    centre = torch.zeros(count, 2, 2)
    pending = torch.arange(count)
    while len(pending):
        margin = reach[pending, :, None] + BORDER
        drawn = torch.rand(len(pending), 2, 2, generator=generator)
        centre[pending] = margin + drawn * (SIZE - 2 * margin)
        distance = (centre[pending, 0] - centre[pending, 1]).norm(dim=-1)
        pending = pending[distance < reach[pending].sum(dim=1) + GAP]
    return Scenes(
        count=number, colour=chosen[..., 0], shape=chosen[..., 1], centre=centre, radius=radius
    )


def relation_of(first: Tensor, second: Tensor) -> Tensor:
    """The position of ``first`` relative to ``second``: index into RELATIONS, by the larger offset.

    Args:
        first, second: ``[..., 2]`` float, centres (x, y).

    Returns:
        ``[...]`` int64.
    """
    offset = second - first
    horizontal = offset[..., 0].abs() >= offset[..., 1].abs()
    left_right = torch.where(offset[..., 0] > 0, 0, 1)
    above_below = torch.where(offset[..., 1] > 0, 2, 3)
    return torch.where(horizontal, left_right, above_below)
