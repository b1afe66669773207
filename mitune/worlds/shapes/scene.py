"""Scenes of the embedded world: up to four coloured, textured shapes on paper, and their exact
rendering.

A batch of scenes is one dataclass of tensors, so that one call can render ten thousand pictures.
Pictures are ``[N, 3, 64, 64]`` float32 in [0, 1]. Positions and radii are in pixels; the origin is
the top left corner. Objects are drawn in their order, so a later one covers an earlier one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

COLOURS = ("red", "yellow", "green", "blue", "purple", "black")
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star")
TEXTURES = ("solid", "striped", "dotted")

SIZE = 64
MOST = 4
"""Objects of a scene at most."""
BACKGROUND = (0.94, 0.93, 0.90)
PALETTE = (
    (0.84, 0.17, 0.16),
    (0.93, 0.73, 0.05),
    (0.13, 0.58, 0.25),
    (0.13, 0.33, 0.82),
    (0.55, 0.20, 0.66),
    (0.12, 0.12, 0.14),
)
TINT = 0.62
"""Share of white in the second tone of a texture."""
RIM = 1.0
"""Pixels at an outline that a texture leaves as they are, so that the shape stays clear."""
PERIOD = 6.0
"""Pixels from stripe to stripe, and from dot to dot."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """N scenes of at most four objects.

    Attributes:
        count: ``[N]`` int64, objects in the scene, 1 to 4; what follows is meaningless beyond it.
        colour, shape, texture: ``[N, 4]`` int64, indices into COLOURS, SHAPES and TEXTURES.
        centre: ``[N, 4, 2]`` float32, (x, y) in pixels.
        radius: ``[N, 4]`` float32, in pixels: that of a circle of the same area, for every shape,
            so that the size does not reveal the shape.
    """

    count: Tensor
    colour: Tensor
    shape: Tensor
    texture: Tensor
    centre: Tensor
    radius: Tensor

    def __len__(self) -> int:
        return len(self.count)

    def rows(self, index: Tensor) -> "Scenes":
        """The scenes at ``index`` ([M] int64), in that order."""
        return Scenes(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @classmethod
    def cat(cls, parts: Sequence["Scenes"]) -> "Scenes":
        """All scenes of ``parts``."""
        return cls(
            **{
                field.name: torch.cat([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            }
        )


def _polygon(corners: list[tuple[float, float]]) -> tuple[Tensor, float]:
    """Corners ``[K, 2]`` of an outline around its centroid with the area of a circle of radius 1,
    and how far the farthest one is."""
    points = torch.tensor(corners, dtype=torch.float64)
    after = points.roll(-1, 0)
    crossed = points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]
    area = crossed.sum() / 2
    centroid = ((points + after) * crossed[:, None]).sum(0) / (6 * area)
    scaled = (points - centroid) * (math.pi / area.abs()).sqrt()
    return scaled.float(), float(scaled.norm(dim=1).max())


def _star() -> list[tuple[float, float]]:
    turns = [math.pi * (k / 5 - 0.5) for k in range(10)]
    return [
        ((1.0, 0.45)[k % 2] * math.cos(a), (1.0, 0.45)[k % 2] * math.sin(a))
        for k, a in enumerate(turns)
    ]


_ARM = 0.36
_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": [(-1, 0.8), (0, -0.932), (1, 0.8)],
    "diamond": [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)],
    "cross": [
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ],
    "star": _star(),
}  # fmt: skip
_POLYGONS = {name: _polygon(corners) for name, corners in _OUTLINES.items()}
REACH = torch.tensor([1.0, *(_POLYGONS[name][1] for name in SHAPES[1:])])
"""How far an object reaches from its centre, per radius."""


def _grid(centre: Tensor) -> tuple[Tensor, Tensor]:
    axis = torch.arange(SIZE, dtype=torch.float32) + 0.5
    dx = axis.view(1, SIZE) - centre[..., 0, None, None]
    dy = axis.view(SIZE, 1) - centre[..., 1, None, None]
    dx, dy = torch.broadcast_tensors(dx, dy)
    return dx, dy


def _outside(dx: Tensor, dy: Tensor, corners: Tensor) -> Tensor:
    """Signed distance to a polygon, negative inside: to its nearest edge."""
    nearest = torch.full_like(dx, math.inf)
    inside = torch.zeros_like(dx, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(corners.tolist(), corners.roll(-1, 0).tolist(), strict=True):
        ex, ey = bx - ax, by - ay
        along = (((dx - ax) * ex + (dy - ay) * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        nearest = torch.minimum(nearest, torch.hypot(dx - ax - along * ex, dy - ay - along * ey))
        crosses = (dy < ay) != (dy < by)
        slope = ex / ey if ey else 0.0
        inside ^= crosses & (dx < ax + (dy - ay) * slope)
    return torch.where(inside, -nearest, nearest)


def distance(shape: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """Signed distance of each pixel from each object's outline, negative inside.

    Args:
        shape: ``[...]`` int64, index into SHAPES.
        centre: ``[..., 2]`` float32, (x, y) in pixels.
        radius: ``[...]`` float32, in pixels.

    Returns:
        ``[..., 64, 64]`` float32, in pixels.
    """
    dx, dy = _grid(centre)
    r = radius[..., None, None]
    u, v = dx / r, dy / r
    found = torch.hypot(u, v) - 1
    for number, name in enumerate(SHAPES[1:], 1):
        here = shape == number
        found[here] = _outside(u[here], v[here], _POLYGONS[name][0])
    return found * r


def coverage(shape: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """Anti-aliased coverage of each object on the pixel grid, from its signed distance; arguments
    as there.

    Returns:
        ``[..., 64, 64]`` float32 in [0, 1]: the share of each pixel that the object covers, to
        first order.
    """
    return _covered(distance(shape, centre, radius))


def _covered(away: Tensor) -> Tensor:
    return (0.5 - away).clamp(0, 1)


def tint(texture: Tensor, centre: Tensor) -> Tensor:
    """How much of a texture's second tone each pixel has, ``[..., 64, 64]`` in [0, 1]; the pattern
    is fixed to the object's centre.

    Args:
        texture: ``[...]`` int64, index into TEXTURES.
        centre: ``[..., 2]`` float32, (x, y) in pixels.
    """
    dx, dy = _grid(centre)
    kind = texture[..., None, None]
    wave = 2 * math.pi / PERIOD
    striped = (1.2 * torch.cos(wave * dy) + 0.5).clamp(0, 1)
    dotted = (1.2 * (torch.cos(wave * dx) + torch.cos(wave * dy)) + 0.2).clamp(0, 1)
    return torch.where(kind == 1, striped, torch.where(kind == 2, dotted, 0.0))


def render(scenes: Scenes) -> Tensor:
    """Pictures of the scenes: ``[N, 3, 64, 64]`` float32 in [0, 1]."""
    away = distance(scenes.shape, scenes.centre, scenes.radius)
    present = torch.arange(MOST) < scenes.count[:, None]
    masks = _covered(away) * present[..., None, None]
    light = tint(scenes.texture, scenes.centre) * TINT * _covered(away + RIM)
    picture = torch.tensor(BACKGROUND).view(1, 3, 1, 1).expand(len(scenes), 3, SIZE, SIZE)
    ink = torch.tensor(PALETTE)[scenes.colour]
    for i in range(MOST):
        tone = ink[:, i, :, None, None]
        tone = tone + (1 - tone) * light[:, i, None]
        mask = masks[:, i, None]
        picture = picture * (1 - mask) + tone * mask
    return picture
