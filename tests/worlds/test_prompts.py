"""The first edition's grammar and the splits."""

import pytest

from mitune.core.errors import UserError
from mitune.worlds.shapes_v1.prompts import HELD_OUT, Phrase, all_objects, parse, prompts

FIRST = {
    "train": "a green circle and a yellow square",
    "test": "a blue triangle and a green circle",
}


def objects_of(texts):
    return {frozenset(parse(t).objects) for t in texts}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", ["pair", "spatial"])
def test_prompts_read_back_as_what_they_say(split, kind):
    for text in prompts(split, kind):
        phrase = parse(text)
        assert str(phrase) == text
        assert (phrase.relation is not None) == (kind == "spatial")
        assert len(set(phrase.objects)) == 2
        assert not HELD_OUT & set(phrase.objects)


def test_train_and_test_share_no_combination():
    for kind in ("pair", "spatial"):
        assert not objects_of(prompts("train", kind)) & objects_of(prompts("test", kind))
    assert not objects_of(prompts("train", "pair")) & objects_of(prompts("test", "spatial"))
    assert len(prompts("train")) == 60
    assert len(prompts("test")) == 30
    assert len(prompts("train", "spatial")) == 240


def test_unseen_prompts_have_a_held_out_object():
    assert all(HELD_OUT & set(parse(t).objects) for t in prompts("test", "unseen"))
    with pytest.raises(UserError, match="testing only"):
        prompts("train", "unseen")


def test_lists_are_fixed_for_ever():
    """Results are compared across versions: these lists may not move."""
    assert prompts("train")[0] == FIRST["train"]
    assert prompts("test")[0] == FIRST["test"]


def test_all_objects():
    assert len(all_objects(held_out=True)) == 12
    assert set(all_objects(held_out=True)) - set(all_objects()) == HELD_OUT


@pytest.mark.parametrize(
    "text", ["a Red circle  and a blue square.", "the red circle and a blue square"]
)
def test_parsing_is_kind(text):
    assert parse(text) == Phrase((("red", "circle"), ("blue", "square")))


@pytest.mark.parametrize(
    "text", ["a dog", "", "a red circle and", "a red circle and a blue square and a green circle"]
)
def test_other_worlds_are_refused(text):
    with pytest.raises(UserError, match=r"shapes world"):
        parse(text)


def test_unknown_lists():
    with pytest.raises(UserError, match="pair, spatial, unseen"):
        prompts("train", "texture")
