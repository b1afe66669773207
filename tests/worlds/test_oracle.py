"""The first edition's oracle: how exact it is on scenes, and what its verdicts mean."""

import pytest
import torch

from mitune.worlds.shapes_v1 import oracle
from mitune.worlds.shapes_v1.oracle import Seen, judge
from mitune.worlds.shapes_v1.pretrain.vae import object_indices
from mitune.worlds.shapes_v1.prompts import all_objects
from mitune.worlds.shapes_v1.scene import COLOURS, SHAPES, render, sample_scenes


def scenes_and_truth(count: int):
    scenes = sample_scenes(
        count,
        torch.Generator().manual_seed(11),
        objects=object_indices(all_objects(held_out=True)),
        two_objects=0.7,
    )
    rows = zip(scenes.colour.tolist(), scenes.shape.tolist(), scenes.count.tolist(), strict=True)
    truth = [
        [(COLOURS[colour[i]], SHAPES[shape[i]]) for i in range(number)]
        for colour, shape, number in rows
    ]
    return scenes, truth


def test_it_reads_rendered_scenes():
    scenes, truth = scenes_and_truth(1000)
    read = oracle.read(render(scenes))
    right = [oracle.matches(seen, true) for seen, true in zip(read, truth, strict=True)]
    assert sum(right) / len(right) >= 0.99


def test_it_reads_what_the_shipped_autoencoder_decodes(shapes_model):
    scenes, truth = scenes_and_truth(300)
    decoded = shapes_model.decode(shapes_model.encode_images(render(scenes)))
    right = [
        oracle.matches(seen, true) for seen, true in zip(oracle.read(decoded), truth, strict=True)
    ]
    assert sum(right) / len(right) >= 0.98


def test_it_finds_where_objects_are():
    scenes, _ = scenes_and_truth(100)
    for i, objects in enumerate(oracle.read(render(scenes))):
        for j in range(int(scenes.count[i])):
            colour = COLOURS[scenes.colour[i, j]]
            centres = [torch.tensor(o.centre) for o in objects if o.colour == colour]
            assert min(float((c - scenes.centre[i, j]).norm()) for c in centres) < 0.3


RED_CIRCLE = Seen("red", "circle", (8, 16), 100)
BLUE_SQUARE = Seen("blue", "square", (24, 16), 100)
BOTH = [RED_CIRCLE, BLUE_SQUARE]


@pytest.mark.parametrize(
    ("prompt", "objects", "graded", "strict"),
    [
        ("a red circle and a blue square", BOTH, 1.0, True),
        ("a blue square and a red circle", BOTH, 1.0, True),
        ("a red circle", [RED_CIRCLE], 1.0, True),
        ("a red circle", BOTH, 0.75, False),
        ("a red circle and a blue square", [RED_CIRCLE], 0.5, False),
        ("a red square and a blue circle", BOTH, 0.0, False),
        ("a red circle and a blue square", [], 0.0, False),
        ("a red circle and a blue square", [*BOTH, RED_CIRCLE], 0.75, False),
        ("a red circle and a red square", [RED_CIRCLE], 0.5, False),
        ("a red circle to the left of a blue square", BOTH, 1.0, True),
        ("a red circle to the right of a blue square", BOTH, 2 / 3, False),
        ("a blue square to the right of a red circle", BOTH, 1.0, True),
        ("a red circle above a blue square", [RED_CIRCLE], 1 / 3, False),
    ],
)
def test_verdicts(prompt, objects, graded, strict):
    verdict = judge(prompt, objects)
    assert verdict.graded == pytest.approx(graded)
    assert verdict.strict is strict


def test_neglect_and_binding_are_told_apart():
    swapped = judge("a red square and a blue circle", BOTH)
    assert (swapped.colours, swapped.bound) == (1.0, 0.0)
    missing = judge("a red circle and a blue square", [RED_CIRCLE])
    assert (missing.colours, missing.bound) == (0.5, 0.5)


def test_noise_is_no_object():
    pictures = 0.5 + 0.02 * torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert oracle.read(pictures) == [[], [], [], []]


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"\[N, 3, 32, 32\]"):
        oracle.read(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="prompts must be as many"):
        oracle.score(["a red circle"], torch.zeros(2, 3, 32, 32))
