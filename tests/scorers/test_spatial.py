"""The rule of T2I-CompBench's spatial metric, by hand and as its published code has it."""

import json

import pytest
import torch
from transformers import (
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessorPil,
    OwlViTProcessor,
)

from mitune.core.errors import UserError
from mitune.core.images import as_pictures
from mitune.scorers.spatial import Box, Spatial, placed, read_unidet, rule
from tests.scorers.conftest import SIZES

LEFT, RIGHT = Box(0, 100, 100, 200, 0.8), Box(300, 100, 400, 200, 0.6)
UP, DOWN = Box(0, 0, 100, 100, 0.8), Box(0, 300, 100, 400, 0.6)


@pytest.mark.parametrize(
    ("relation", "one", "other"),
    [
        ("on the left of", LEFT, RIGHT),
        ("on the right of", RIGHT, LEFT),
        ("on the top of", UP, DOWN),
        ("on the bottom of", DOWN, UP),
    ],
)
def test_a_relation_holds_in_one_direction(relation, one, other):
    assert placed(relation, one, other) == 1
    assert placed(relation, other, one) == 0


def test_the_larger_distance_decides():
    aside = Box(150, 350, 250, 450, 1)
    assert placed("on the left of", LEFT, aside) == 0
    assert placed("on the top of", LEFT, aside) == 1


def test_overlap_takes_away():
    one, other = Box(0, 0, 100, 100, 1), Box(50, 0, 150, 100, 1)
    assert placed("on the left of", one, other) == pytest.approx(0.1 / (1 / 3))


@pytest.mark.parametrize("relation", ["next to", "near", "on side of"])
def test_near_is_150_pixels_along_either_axis(relation):
    assert placed(relation, LEFT, RIGHT) == 1  # the same height
    far = Box(300, 500, 400, 600, 1)
    assert placed(relation, LEFT, far) == pytest.approx(150 / 400)


def test_on_top_of_is_read_and_never_satisfied():
    assert placed("on top of", UP, DOWN) == 0


def test_the_score_of_both_objects():
    prompt = "a dog on the left of a bench"
    assert rule(prompt, LEFT, RIGHT) == pytest.approx(0.25 * 0.8 + 0.25 * 0.6 + 0.5)
    assert rule(prompt, RIGHT, LEFT) == 0  # 0.35 is below a half


def test_one_object_alone_never_scores():
    assert rule("a dog near a bench", Box(0, 0, 1, 1, 1.0), None) == 0
    assert rule("a dog near a bench", None, None) == 0


def test_the_first_relation_of_the_list_counts():
    # "near" stands before "on the left of" in the published list.
    assert rule("a dog near the house on the left of a bench", RIGHT, LEFT) == pytest.approx(0.85)


def test_people_are_persons():
    assert Spatial(None, None).objects("a woman near a red bench") == ("person", "bench")
    assert Spatial(None, None).objects("near") is None


def test_a_detector_of_transformers_finds_boxes(clip_tokenizer, pictures):
    torch.manual_seed(0)
    text = {"vocab_size": len(clip_tokenizer), "max_position_embeddings": 77}
    config = OwlViTConfig(
        text_config=SIZES | text,
        vision_config={**SIZES, "image_size": 32, "patch_size": 16},
        projection_dim=32,
    )
    processor = OwlViTProcessor(
        OwlViTImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False),
        clip_tokenizer,
    )
    scorer = Spatial(OwlViTForObjectDetection(config).eval(), processor, threshold=0.0)
    boxes = scorer.boxes(pictures[0], ("circle", "star"))
    texts = [["a circle", "a star"]]
    inputs = processor(text=texts, images=as_pictures(pictures[:1]), return_tensors="pt")
    with torch.no_grad():
        out = scorer.model(**inputs)
    best = out.logits[0].sigmoid()  # each patch has one box, which goes to its likelier name
    for number, box in enumerate(boxes):
        own = best[:, number][best.argmax(dim=1) == number]
        assert (box is None) == (len(own) == 0)
        if box is not None:
            assert box.confidence == pytest.approx(float(own.max()))
    both = scorer.score(pictures, ["a circle near a star", "near"])
    assert both.dtype == torch.float64
    assert both[1] == 0


def test_unidet_own_results_are_read(tmp_path):
    path = tmp_path / "vqa_result.json"
    path.write_text(json.dumps([{"question_id": 3, "answer": 0.75}]))
    assert read_unidet(path) == {3: 0.75}
    path.write_text('{"a": 1}')
    with pytest.raises(UserError, match="is not a result of T2I-CompBench's evaluation"):
        read_unidet(path)
