"""Where the objects of a scene lie: apart, one inside another, touching, or of different sizes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.worlds.shapes2.scene import MOST, REACH, SIZE, coverage

GAP = 2.0
"""Smallest distance in pixels between objects that do not touch, measured from their reach."""
BORDER = 1.5
"""Smallest distance in pixels between an object's reach and the border."""
RADIUS = (6.0, 8.5)
SMALL, LARGE = (5.0, 5.8), (9.0, 11.0)
"""Radii where one object is bigger than the other."""
INNER, OUTER = (4.2, 5.0), (13.0, 15.0)
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
    # More objects are smaller, so that they have room.
    radius = _between(RADIUS, share) * torch.where(count > 2, 0.85, 1.0)[:, None]
    if kind == "bigger":
        radius[:, 0], radius[:, 1] = _between(LARGE, share[:, 0]), _between(SMALL, share[:, 1])
    if kind == "inside":
        radius[:, 0], radius[:, 1] = _between(OUTER, share[:, 0]), _between(INNER, share[:, 1])
    reach = radius * REACH[shape]
    centre = torch.zeros(scenes, MOST, 2)
    present = torch.arange(MOST) < count[:, None]
    pending = torch.arange(scenes)
    while len(pending):
        margin = reach[pending, :, None] + BORDER
        drawn = margin + torch.rand(len(pending), MOST, 2, generator=generator) * (
            SIZE - 2 * margin
        )
        if kind == "inside":
            drawn[:, 1] = drawn[:, 0] + _inner_offset(shape[pending, 0], len(pending), generator)
        if kind == "touching":
            drawn[:, 1] = _touching(shape[pending], radius[pending], drawn[:, 0], generator)
        centre[pending] = drawn
        pending = pending[_collide(kind, drawn, reach[pending], present[pending])]
    return Layout(centre=centre, radius=radius)


def _inner_offset(outer: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A little off the centre."""
    return (torch.rand(count, 2, generator=generator) - 0.5) * 1.5


def _touching(shape: Tensor, radius: Tensor, first: Tensor, generator: torch.Generator) -> Tensor:
    """The second object's centre, so that its outline just meets the first one's: found by
    bisecting its distance in a random direction."""
    angle = torch.rand(len(shape), generator=generator) * 2 * torch.pi
    direction = torch.stack([angle.cos(), angle.sin()], dim=1)
    near = torch.zeros(len(shape))
    far = (radius[:, :2] * REACH[shape[:, :2]]).sum(1) + TOUCH
    one = coverage(shape[:, 0], first, radius[:, 0])
    for _ in range(7):
        middle = (near + far) / 2
        other = coverage(shape[:, 1], first + middle[:, None] * direction, radius[:, 1])
        overlap = torch.minimum(one, other).sum(dim=(1, 2)) > 0.5
        near, far = torch.where(overlap, middle, near), torch.where(overlap, far, middle)
    return first + far[:, None] * direction


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
