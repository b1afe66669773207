"""Captions and prompts: a small grammar, with code to read and write it, and the prompt lists by
category, named as T2I-CompBench's (Huang et al., arXiv 2307.06350).

caption = [item " and "] item [" and " item] | [item " and "] item " " relation " " item
item    = "a " [texture " "] [colour " "] shape | number " " [texture " "] [colour " "] shape "s"
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mitune.core.errors import UserError
from mitune.worlds.shapes.scene import COLOURS, MOST, SHAPES, TEXTURES

SPATIAL = ("to the left of", "to the right of", "above", "below")
NON_SPATIAL = ("inside", "touching", "bigger than")
RELATIONS = (*SPATIAL, *NON_SPATIAL)
NUMBERS = ("two", "three", "four")
NAMED_TEXTURES = TEXTURES[1:]
"""Solid is what an object is of which nothing is said."""
CATEGORIES = ("colour", "shape", "texture", "spatial", "non-spatial", "numeracy", "complex")
ROOMY = ("circle", "square")
"""Shapes that something is drawn inside of."""
ITEMS = 3
"""Of a caption at most."""
LISTED = {"train": 5, "test": 10}
"""Prompts of each category in the list that the model is aligned or compared on by default."""


@dataclass(frozen=True)
class Item:
    """One or several equal objects that a prompt asks for; None: nothing is said of it."""

    shape: str
    colour: str | None = None
    texture: str | None = None
    count: int = 1

    def __str__(self) -> str:
        words = [word for word in (self.texture, self.colour) if word]
        if self.count == 1:
            return " ".join(["a", *words, self.shape])
        plural = self.shape + ("es" if self.shape.endswith("s") else "s")
        return " ".join([NUMBERS[self.count - 2], *words, plural])


@dataclass(frozen=True)
class Phrase:
    """What a prompt asks for: items, and optionally the relation of the last but one to the
    last."""

    items: tuple[Item, ...]
    relation: str | None = None

    def __str__(self) -> str:
        *others, last = map(str, self.items)
        if self.relation is None:
            return " and ".join([*others, last])
        return f"{' and '.join(others)} {self.relation} {last}"

    @property
    def objects(self) -> int:
        """How many it asks for."""
        return sum(item.count for item in self.items)


def parse(prompt: str) -> Phrase:
    """Parse a prompt of the grammar above.

    Raises:
        UserError: if the prompt is not of this world (the message lists the grammar's words) or
            asks for more objects than a scene has.
    """
    text = " ".join(prompt.lower().replace(",", " ").rstrip(" .").split())
    relation = next((r for r in RELATIONS if f" {r} " in text), None)
    head, _, tail = text.partition(f" {relation} ") if relation else (text, "", "")
    parts = [*head.split(" and "), *([tail] if relation else [])]
    phrase = Phrase(tuple(_item(part, prompt) for part in parts), relation)
    if len(phrase.items) > ITEMS or phrase.objects > MOST:
        raise UserError(
            f"prompt {prompt!r} asks for {phrase.objects} objects of {len(phrase.items)} kinds: "
            f"expected at most {MOST} of {ITEMS}"
        )
    return phrase


_SINGULAR = {str(Item(shape, count=2)).split()[-1]: shape for shape in SHAPES}


def _item(part: str, prompt: str) -> Item:
    number, *words = part.split() or [""]
    count = NUMBERS.index(number) + 2 if number in NUMBERS else 1
    shape = words.pop() if words else ""
    shape = _SINGULAR.get(shape, "") if count > 1 else shape
    texture = words.pop(0) if words and words[0] in TEXTURES else None
    colour = words.pop(0) if words and words[0] in COLOURS else None
    if words or shape not in SHAPES or (count == 1 and number not in ("a", "the")):
        raise UserError(
            f"prompt {prompt!r} is not of the shapes world: expected 'a [TEXTURE] [COLOUR] SHAPE', "
            f"or {', '.join(NUMBERS)} of them, joined by 'and' or a relation; textures: "
            f"{', '.join(TEXTURES)}; colours: {', '.join(COLOURS)}; shapes: {', '.join(SHAPES)}; "
            f"relations: {', '.join(RELATIONS)}"
        )
    return Item(shape, colour, texture, count)


def side(first: Sequence[float], second: Sequence[float]) -> str:
    """The spatial relation of an object at ``first``, (x, y) in pixels, to one at ``second``: along
    the axis on which they lie farther apart."""
    dx, dy = second[0] - first[0], second[1] - first[1]
    if abs(dx) >= abs(dy):
        return SPATIAL[0] if dx > 0 else SPATIAL[1]
    return SPATIAL[2] if dy > 0 else SPATIAL[3]


Pair = tuple[str, str]
"""(colour, shape), or (texture, shape)."""

UNSEEN: frozenset[Pair] = frozenset(
    {("green", "triangle"), ("yellow", "circle"), ("purple", "star"), ("dotted", "cross")}
)
"""Pairs that appear in no pre-training caption, and in no picture that the denoiser is trained
on."""


def shown(item: Item) -> bool:
    """Whether pre-training may show such an object."""
    return not ({(item.colour, item.shape), (item.texture, item.shape)} & UNSEEN)


def _colour_pairs() -> Iterator[Phrase]:
    objects = [Item(s, c) for c, s in itertools.product(COLOURS, SHAPES)]
    for one, other in itertools.permutations(objects, 2):
        if one.colour != other.colour and one.shape != other.shape:
            yield Phrase((one, other))


def _shape_pairs() -> Iterator[Phrase]:
    for colour in COLOURS:
        for one, other in itertools.permutations(SHAPES, 2):
            yield Phrase((Item(one, colour), Item(other, colour)))


def _texture_pairs() -> Iterator[Phrase]:
    objects = [Item(s, None, t) for t, s in itertools.product(NAMED_TEXTURES, SHAPES)]
    for one, other in itertools.permutations(objects, 2):
        if one.texture != other.texture and one.shape != other.shape:
            yield Phrase((one, other))


def _related(relations: tuple[str, ...]) -> Iterator[Phrase]:
    for phrase in _colour_pairs():
        for relation in relations:
            if relation != "inside" or phrase.items[1].shape in ROOMY:
                yield Phrase(phrase.items, relation)


def _numbers() -> Iterator[Phrase]:
    for count, colour, shape in itertools.product(range(2, MOST + 1), COLOURS, SHAPES):
        yield Phrase((Item(shape, colour, None, count),))


def _complex() -> Iterator[Phrase]:
    """Three objects, of which one has a texture, and a relation; a sample of all there are."""
    draw = random.Random("complex")
    for _ in range(3000):
        colours, shapes = draw.sample(COLOURS, 3), draw.sample(SHAPES, 3)
        textures: list[str | None] = [None, None, draw.choice(NAMED_TEXTURES)]
        draw.shuffle(textures)
        items = zip(shapes, colours, textures, strict=True)
        yield Phrase(tuple(Item(*item) for item in items), draw.choice(SPATIAL))


_MADE = {
    "colour": _colour_pairs,
    "shape": _shape_pairs,
    "texture": _texture_pairs,
    "spatial": lambda: _related(SPATIAL),
    "non-spatial": lambda: _related(NON_SPATIAL),
    "numeracy": _numbers,
    "complex": _complex,
}


def prompts(split: str, category: str, *, unseen: bool = False) -> list[str]:
    """The world's prompt lists, in a fixed order that mixes everything.

    Args:
        split: "train" or "test", disjoint as combinations of what is asked for, whatever its order.
        category: one of CATEGORIES.
        unseen: those with a pair that pre-training never showed, instead of those without.

    Raises:
        UserError: for an unknown split or category.
    """
    if split not in ("train", "test") or category not in CATEGORIES:
        raise UserError(
            f"no prompt list {split!r}/{category!r} in the shapes world: splits are train, test; "
            f"categories are {', '.join(CATEGORIES)}"
        )
    phrases = [p for p in _MADE[category]() if all(map(shown, p.items)) != unseen]
    combinations = sorted({_combination(phrase) for phrase in phrases})
    random.Random(f"{category}/20261127").shuffle(combinations)
    tested = set(combinations[: len(combinations) // 3])
    found = [p for p in phrases if (_combination(p) in tested) == (split == "test")]
    texts = list(dict.fromkeys(map(str, found)))
    random.Random(f"{split}/{category}").shuffle(texts)
    return texts


def first_prompts(split: str, count: int, *, unseen: bool = False) -> dict[str, str]:
    """The first ``count`` prompts of each category, with its name; arguments as ``prompts``."""
    return {
        text: category
        for category in CATEGORIES
        for text in prompts(split, category, unseen=unseen)[:count]
    }


def _combination(phrase: Phrase) -> tuple[str, ...]:
    return tuple(sorted(map(str, phrase.items)))


def rests(prompt: str) -> list[str]:
    """The prompt without each of its phrases: without each item, and without the relation. What
    relates to an item that is left out is left out too; without its only item nothing is left."""
    phrase = parse(prompt)
    items, relation = phrase.items, phrase.relation
    found = []
    for i in range(len(items)):
        others = items[:i] + items[i + 1 :]
        related = relation if i < len(items) - 2 else None
        found.append(str(Phrase(others, related)) if others else "")
    return [*found, *([str(Phrase(items))] if relation else [])]
