"""Sizes of about the same area."""

from types import SimpleNamespace
from typing import Any

import pytest
from sd3_pipeline import sd3_pipeline

import mitune
from mitune.models.buckets import buckets, nearest


def of(side: int, step: int, longest: int | None = None) -> list[tuple[int, int]]:
    model: Any = SimpleNamespace(
        latent_shape=(4, side, side),
        latent_step=step,
        largest_side=longest,
        picture_size=(8 * side, 8 * side),
    )
    return buckets(model)


def test_those_of_sdxl_are_among_them() -> None:
    found = {(8 * height, 8 * width) for height, width in of(128, 4)}
    assert {(1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216), (1344, 768)} <= found
    assert all(height % 64 == width % 64 == 0 for height, width in found)
    assert all(h * w <= 1024**2 and max(h, w) <= 4 * min(h, w) for h, w in found)


def test_sides_that_the_network_cannot_have_are_left_out() -> None:
    assert max(h for h, _ in of(128, 4)) > 1344 / 8
    assert max(h for h, _ in of(128, 4, longest=1344)) == 1344 / 8
    model = mitune.load(sd3_pipeline())
    for size in buckets(model):
        assert model.at(size).latent_shape[1:] == size


@pytest.mark.parametrize(
    ("picture", "bucket"),
    [
        ((1024, 1024), (1024, 1024)),
        ((300, 301), (1024, 1024)),
        ((2400, 1600), (1216, 832)),
        ((1600, 2400), (832, 1216)),
        ((100, 2000), (512, 2048)),
    ],
)
def test_the_nearest_shape_is_taken(picture: tuple[int, int], bucket: tuple[int, int]) -> None:
    height, width = nearest(of(128, 4), *picture)
    assert (8 * height, 8 * width) == bucket
