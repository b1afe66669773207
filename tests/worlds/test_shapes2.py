"""The embedded world's second edition: what is drawn is what the oracle reads, and what prompts ask
for is what it judges. No model is trained on it yet."""

from collections import Counter

import pytest
import torch

from mitune.core.errors import UserError
from mitune.worlds.shapes2 import oracle
from mitune.worlds.shapes2.layout import KINDS, place
from mitune.worlds.shapes2.prompts import (
    CATEGORIES,
    RELATIONS,
    UNSEEN,
    Item,
    Phrase,
    parse,
    prompts,
)
from mitune.worlds.shapes2.scene import COLOURS, SHAPES, TEXTURES, Scenes, render


def scenes(kind: str, count: int, seed: int) -> Scenes:
    """Objects of different colours, one to four where they lie apart."""
    generator = torch.Generator().manual_seed(seed)
    most = 5 if kind == "apart" else 3
    objects = torch.randint(2 if most == 3 else 1, most, (count,), generator=generator)
    shape = torch.randint(len(SHAPES), (count, 4), generator=generator)
    if kind == "inside":  # within a circle or a square
        shape[:, 0] = torch.randint(2, (count,), generator=generator)
    colour = torch.stack([torch.randperm(6, generator=generator)[:4] for _ in range(count)])
    texture = torch.randint(len(TEXTURES), (count, 4), generator=generator)
    lay = place(kind, objects, shape, generator)
    return Scenes(
        count=objects,
        colour=colour,
        shape=shape,
        texture=texture,
        centre=lay.centre,
        radius=lay.radius,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_reads_what_was_drawn(kind: str) -> None:
    """At least 99 % of each attribute, and of the relation that the layout is of."""
    made = scenes(kind, 150, seed=1)
    seen = oracle.read(render(made))
    right: Counter[str] = Counter()
    total = int(made.count.sum())
    for row, objects in enumerate(seen):
        found = {each.colour: each for each in objects}
        number = int(made.count[row])
        right["count"] += len(objects) == number
        for i in range(number):
            each = found.get(COLOURS[made.colour[row, i]])
            right["colour"] += each is not None
            right["shape"] += each is not None and each.shape == SHAPES[made.shape[row, i]]
            right["texture"] += each is not None and each.texture == TEXTURES[made.texture[row, i]]
        first, second = (found.get(COLOURS[made.colour[row, i]]) for i in range(2))
        if kind != "apart" and first and second:
            one, other = (second, first) if kind == "inside" else (first, second)
            relation = {"bigger": "bigger than"}.get(kind, kind)
            right["relation"] += bool(oracle.holds(relation, one, other))
    assert right["count"] >= 0.99 * len(seen)
    assert all(right[name] >= 0.99 * total for name in ("colour", "shape", "texture"))
    assert kind == "apart" or right["relation"] >= 0.99 * len(seen)


def test_objects_that_lie_apart_neither_touch_nor_are_inside() -> None:
    for objects in oracle.read(render(scenes("apart", 60, seed=2))):
        for one in objects:
            for other in objects:
                if one is not other:
                    assert not oracle.holds("touching", one, other)
                    assert not oracle.holds("inside", one, other)


def test_pictures_have_one_size_of_each_shape() -> None:
    """So that an area does not tell a shape."""
    areas = [
        float(oracle.coverage(torch.tensor(i), torch.tensor([32.0, 32.0]), torch.tensor(8.0)).sum())
        for i in range(len(SHAPES))
    ]
    assert max(areas) / min(areas) < 1.05


@pytest.mark.parametrize("category", CATEGORIES)
def test_prompts_are_read_as_they_are_written_and_splits_are_disjoint(category: str) -> None:
    lists = {
        (split, unseen): prompts(split, category, unseen=unseen)
        for split in ("train", "test")
        for unseen in (False, True)
    }
    combinations = {}
    for key, texts in lists.items():
        assert len(set(texts)) == len(texts) > 1
        assert texts == prompts(key[0], category, unseen=key[1])
        phrases = [parse(text) for text in texts]
        assert [str(phrase) for phrase in phrases] == texts
        combinations[key] = {tuple(sorted(map(str, phrase.items))) for phrase in phrases}
        pairs = [
            any({(i.colour, i.shape), (i.texture, i.shape)} & UNSEEN for i in phrase.items)
            for phrase in phrases
        ]
        assert all(pairs) if key[1] else not any(pairs)
    for unseen in (False, True):
        assert not combinations["train", unseen] & combinations["test", unseen]


def seen(shape: str, colour: str, texture: str, x: float, y: float, radius: float) -> oracle.Seen:
    mask = oracle.coverage(
        torch.tensor(SHAPES.index(shape)), torch.tensor([x, y]), torch.tensor(radius)
    )
    return oracle.Seen(colour, shape, texture, (x, y), float(mask.sum()), (mask > 0.5).numpy())


def test_verdicts() -> None:
    circle = seen("circle", "red", "striped", 15, 30, 7)
    square = seen("square", "blue", "solid", 45, 30, 7)
    star = seen("star", "green", "dotted", 45, 50, 7)
    for prompt, objects, graded, strict in (
        ("a red circle and a blue square", [circle, square], 1.0, True),
        ("a circle and a square", [circle, square], 1.0, True),
        ("a striped circle and a dotted square", [circle, square], 0.5, False),
        ("a blue circle and a red square", [circle, square], 0.0, False),
        ("a red circle to the left of a blue square", [circle, square], 1.0, True),
        ("a red circle to the right of a blue square", [circle, square], 2 / 3, False),
        ("a red circle", [circle, square], 0.75, False),
        ("a red circle and a green star below a blue square", [circle, square, star], 1.0, True),
        ("a red circle and a blue square above a green star", [circle, square, star], 1.0, True),
        ("two red circles", [circle], 0.5, False),
    ):
        verdict = oracle.judge(prompt, objects)
        assert verdict.graded == pytest.approx(graded), prompt
        assert verdict.strict == strict, prompt


def test_an_equal_object_is_matched_so_that_the_relation_may_hold() -> None:
    left, right = (seen("circle", "red", "solid", x, 30, 7) for x in (12, 52))
    square = seen("square", "blue", "solid", 32, 30, 7)
    phrase = Phrase((Item("circle", "red", None, 1), Item("square", "blue")), "to the right of")
    assert oracle.judge(phrase, [left, right, square]).graded == pytest.approx(0.75)


def test_other_words_are_refused() -> None:
    for prompt in ("a red dog", "five red circles", "red circle", "four red circles and a star"):
        with pytest.raises(UserError, match="expected"):
            parse(prompt)
    assert parse("A striped red circle, inside the blue square.").relation == "inside"
    assert set(RELATIONS) >= {"inside", "touching", "bigger than"}
