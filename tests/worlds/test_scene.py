"""The first edition's renderer: what is drawn is what the record says."""

import math

import pytest
import torch

from mitune.worlds.shapes_v1.pretrain.vae import object_indices
from mitune.worlds.shapes_v1.prompts import all_objects
from mitune.worlds.shapes_v1.scene import (
    BACKGROUND,
    COLOURS,
    PALETTE,
    RELATIONS,
    SHAPES,
    coverage,
    relation_of,
    render,
    sample_scenes,
)


def draw(count: int, seed: int = 0):
    return sample_scenes(
        count,
        torch.Generator().manual_seed(seed),
        objects=object_indices(all_objects(held_out=True)),
        two_objects=0.5,
    )


def test_coverage_has_the_exact_area():
    radius = torch.full((3,), 6.0)
    masks = coverage(torch.arange(3), torch.full((3, 2), 16.3), radius)
    # All three shapes are sized to the circle's area; anti-aliasing is exact along edges, not at
    # corners.
    torch.testing.assert_close(
        masks.sum(dim=(1, 2)), torch.full((3,), math.pi * 36), rtol=0.02, atol=0
    )


def test_shapes_are_what_their_names_say():
    masks = coverage(torch.arange(3), torch.full((3, 2), 16.0), torch.full((3,), 6.0)) > 0.5
    widths = masks.sum(dim=2)
    circle, square, triangle = widths
    assert len(set(square[square > 0].tolist())) == 1
    assert int(circle.argmax()) in range(12, 20)
    assert int(circle[10]) < int(circle[15])
    rows = torch.nonzero(triangle).flatten()
    assert int(triangle[rows[0]]) < int(triangle[rows[-1]])
    # A picture turned left to right is the same for all three.
    assert torch.equal(masks, masks.flip(2))


def test_objects_never_overlap_nor_leave_the_picture():
    scenes = draw(4000)
    masks = coverage(scenes.shape, scenes.centre, scenes.radius)
    assert float((masks[:, 0] * masks[:, 1]).sum(dim=(1, 2)).max()) < 0.2
    inside = masks.sum(dim=(2, 3))
    assert bool((inside > 0.95 * math.pi * scenes.radius.square()).all())


def test_scenes_have_the_asked_mixture():
    scenes = draw(4000)
    assert float((scenes.count == 2).float().mean()) == pytest.approx(0.5, abs=0.03)
    objects = scenes.colour * len(SHAPES) + scenes.shape
    assert bool((objects[:, 0] != objects[:, 1]).all())
    counts = torch.bincount(objects.flatten(), minlength=12)
    assert int(counts.min()) > 0.8 * 8000 / 12


def test_pixels_at_the_centres_have_the_objects_colours():
    scenes = draw(200)
    pictures = render(scenes)
    for i in range(200):
        for j in range(int(scenes.count[i])):
            x, y = scenes.centre[i, j].long().tolist()
            torch.testing.assert_close(
                pictures[i, :, y, x], torch.tensor(PALETTE[scenes.colour[i, j]])
            )
    corner = pictures[:, :, 0, 0]
    torch.testing.assert_close(corner.median(dim=0).values, torch.tensor(BACKGROUND))


def test_the_same_seed_draws_the_same():
    assert torch.equal(render(draw(20)), render(draw(20)))
    assert not torch.equal(render(draw(20)), render(draw(20, seed=1)))


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ((9, 2), "to the left of"),
        ((-9, 2), "to the right of"),
        ((1, 5), "above"),
        ((1, -5), "below"),
    ],
)
def test_relations(offset, expected):
    first = torch.tensor([16.0, 16.0])
    assert RELATIONS[int(relation_of(first, first + torch.tensor(offset)))] == expected


def test_a_relation_and_its_converse_differ_in_the_last_bit():
    """Pre-training turns a caption round with `relation ^ 1`."""
    scenes = draw(200)
    there = relation_of(scenes.centre[:, 0], scenes.centre[:, 1])
    back = relation_of(scenes.centre[:, 1], scenes.centre[:, 0])
    assert torch.equal(there ^ 1, back)


def test_colours_can_be_told_apart():
    inks = torch.tensor([BACKGROUND, *PALETTE])
    distance = torch.cdist(inks, inks) + 10 * torch.eye(len(inks))
    assert float(distance.min()) > 0.35
    assert len(COLOURS) == len(PALETTE)
