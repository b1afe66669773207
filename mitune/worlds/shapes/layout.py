"""Where the objects of a scene lie: apart, one inside another, touching, or of different sizes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.worlds.shapes.scene import MOST, REACH, SIZE, coverage

GAP = 2.0
"""Smallest distance in pixels between objects that do not touch, measured from their reach."""
BORDER = 1.5
"""Smallest distance in pixels between an object's reach and the border."""
RADIUS = (7.5, 10.0)
CROWDED = torch.tensor([1.0, 1.0, 0.85, 0.75])
"""Of the radius where there are one to four objects, so that they have room."""
SMALL, LARGE = (5.5, 6.5), (10.0, 12.0)
"""Radii where one object is bigger than the other."""
INNER, OUTER = (6.0, 7.0), (15.0, 17.0)
"""Radii where one object is inside the other."""
TOUCH = 0.75
"""Pixels between the outlines of objects that touch, at most."""
KINDS = ("apart", "bigger", "inside", "touching")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where N scenes' objects are; in ``bigger`` and ``inside`` the first one is the bigger, and
    the outer one.

    Attributes:
        centre: ``[N, 4, 2]`` float32.
        radius: ``[N, 4]`` float32.
    """

    centre: Tensor
    radius: Tensor


def _between(bounds: tuple[float, float], share: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * share


def place(kind: str, count: Tensor, shape: Tensor, generator: torch.Generator) -> Layout:
    """Place the objects of N scenes of one kind.

    Args:
        kind: one of KINDS; all but ``apart`` are of the first two objects, and others lie apart.
        count: ``[N]`` int64, 1 to 4.
        shape: ``[N, 4]`` int64.
        generator: the only source of randomness.
    """
    scenes = len(count)
    share = torch.rand(scenes, MOST, generator=generator)
    radius = _between(RADIUS, share) * CROWDED[count - 1, None]
    if kind == "bigger":
        radius[:, 0], radius[:, 1] = _between(LARGE, share[:, 0]), _between(SMALL, share[:, 1])
    if kind == "inside":
        radius[:, 0], radius[:, 1] = _between(OUTER, share[:, 0]), _between(INNER, share[:, 1])
    reach = radius * REACH[shape]
    centre = torch.zeros(scenes, MOST, 2)
    present = torch.arange(MOST) < count[:, None]
    offset = torch.zeros(scenes, 2)
    if kind == "inside":
        offset = (torch.rand(scenes, 2, generator=generator) - 0.5) * 1.5  # a little off the centre
    if kind == "touching":
        offset = _touching(shape, radius, generator)
    pending = torch.arange(scenes)
    while len(pending):
        margin = reach[pending, :, None] + BORDER
        drawn = margin + torch.rand(len(pending), MOST, 2, generator=generator) * (
            SIZE - 2 * margin
        )
        if kind in ("inside", "touching"):
            drawn[:, 1] = drawn[:, 0] + offset[pending]
        centre[pending] = drawn
        pending = pending[_collide(kind, drawn, reach[pending], present[pending])]
    return Layout(centre=centre, radius=radius)


def _touching(shape: Tensor, radius: Tensor, generator: torch.Generator) -> Tensor:
    """From the first object's centre to the second one's, ``[N, 2]``, so that their outlines just
    meet: found by bisecting the distance in a random direction."""
    angle = torch.rand(len(shape), generator=generator) * 2 * torch.pi
    direction = torch.stack([angle.cos(), angle.sin()], dim=1)
    near = torch.zeros(len(shape))
    far = (radius[:, :2] * REACH[shape[:, :2]]).sum(1) + TOUCH
    middle_of_picture = torch.full((len(shape), 2), SIZE / 2)
    for _ in range(7):
        middle = (near + far) / 2
        # On both sides of the picture's middle, where there is room for both.
        half = middle[:, None] * direction / 2
        one = coverage(shape[:, 0], middle_of_picture - half, radius[:, 0])
        other = coverage(shape[:, 1], middle_of_picture + half, radius[:, 1])
        overlap = torch.minimum(one, other).sum(dim=(1, 2)) > 0.5
        near, far = torch.where(overlap, middle, near), torch.where(overlap, far, middle)
    return far[:, None] * direction


def _collide(kind: str, centre: Tensor, reach: Tensor, present: Tensor) -> Tensor:
    """Which of the drawn scenes have objects that lie too near each other, or outside."""
    apart = (centre[:, :, None] - centre[:, None]).norm(dim=-1)
    least = reach[:, :, None] + reach[:, None] + GAP
    meet = (apart < least) & present[:, :, None] & present[:, None]
    meet &= ~torch.eye(MOST, dtype=torch.bool)
    if kind in ("inside", "touching"):
        meet[:, 0, 1] = meet[:, 1, 0] = False
    edge = BORDER + reach[..., None]
    out = ((centre < edge) | (centre > SIZE - edge)).any(-1) & present
    found: Tensor = meet.any(dim=(1, 2)) | out.any(dim=1)
    return found
