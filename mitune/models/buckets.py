"""Sizes of about the same area and different shapes, for pictures that are not cropped to one
shape: aspect-ratio buckets."""

import math

from mitune.models.protocol import LatentModel

_STEPS = 16
"""Steps in the side of a square: 64 pixels of 1024, as the large models were trained with."""
_SLIMMEST = 4.0
"""The largest ratio of a bucket's sides."""


def buckets(model: LatentModel) -> list[tuple[int, int]]:
    """(height, width), in latents, of the model's own shape and of others that have at most its
    area, in the order of their heights."""
    *_, height, width = model.latent_shape
    area, least = height * width, model.latent_step
    longest = math.inf
    if model.largest_side is not None:
        longest = model.largest_side * height // model.picture_size[0]
    step = least * math.ceil(math.isqrt(area) / _STEPS / least)
    found = {(height, width)}
    for side in range(step, area // step + 1, step):
        across = area // side // step * step
        longer = max(side, across)
        if across and longer <= min(longest, _SLIMMEST * min(side, across)):
            found |= {(side, across), (across, side)}
    return sorted(found)


def nearest(sizes: list[tuple[int, int]], height: int, width: int) -> tuple[int, int]:
    """The one of ``sizes`` whose shape is nearest to that of a picture; the largest of equal
    ones."""
    shape = math.log(height / width)
    return min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - shape), -size[0]))
