"""Captions and prompts of the embedded world: a small grammar, with code to read and write it.

caption  = object | object " and " object | object " " relation " " object
object   = "a " colour " " shape
"""

import itertools
import random
from dataclasses import dataclass

from mitune.core.errors import UserError
from mitune.worlds.shapes_v1.scene import COLOURS, RELATIONS, SHAPES

Object = tuple[str, str]
"""(colour, shape)."""

HELD_OUT: frozenset[Object] = frozenset({("green", "triangle"), ("yellow", "circle")})
"""Pairs that appear in no pre-training caption, and in no picture that the denoiser is trained on.
The autoencoder's pictures show all twelve pairs."""


@dataclass(frozen=True)
class Phrase:
    """What a prompt asks for: one or two objects, and optionally the position of the first relative
    to the second."""

    objects: tuple[Object, ...]
    relation: str | None = None

    def __str__(self) -> str:
        words = [f"a {colour} {shape}" for colour, shape in self.objects]
        return f" {self.relation or 'and'} ".join(words)


def parse(prompt: str) -> Phrase:
    """Parse a prompt of the grammar above.

    Raises:
        UserError: if the prompt is not of this world (the message lists the grammar's words) or
            names more than two objects.
    """
    text = " ".join(prompt.lower().replace(",", " ").rstrip(" .").split())
    relation = next((r for r in RELATIONS if f" {r} " in text), None)
    parts = text.split(f" {relation or 'and'} ")
    objects = []
    for part in parts:
        words = part.split()
        if (
            len(words) != 3
            or words[0] not in ("a", "the")
            or words[1] not in COLOURS
            or (words[2] not in SHAPES)
        ):
            raise UserError(
                f"prompt {prompt!r} is not of the shapes world: expected 'a COLOUR SHAPE', or two "
                "of them "
                f"joined by 'and' or a relation; colours: {', '.join(COLOURS)}; shapes: "
                f"{', '.join(SHAPES)}; relations: {', '.join(RELATIONS)}"
            )
        objects.append((words[1], words[2]))
    if len(objects) > 2:
        raise UserError(
            f"prompt {prompt!r} names {len(objects)} objects; the shapes world draws at most two"
        )
    return Phrase(tuple(objects), relation)


def all_objects(*, held_out: bool = False) -> list[Object]:
    """The (colour, shape) pairs that pre-training captions name; all twelve with ``held_out``."""
    pairs = itertools.product(COLOURS, SHAPES)
    return [pair for pair in pairs if held_out or pair not in HELD_OUT]


def _splits() -> tuple[list[tuple[Object, Object]], list[tuple[Object, Object]]]:
    """Unordered pairs of the objects shown in pre-training, for training and for testing. The two
    lists are disjoint and must never change."""
    combinations = list(itertools.combinations(all_objects(), 2))
    random.Random(20261123).shuffle(combinations)
    test = len(combinations) // 3
    return combinations[test:], combinations[:test]


def prompts(split: str, kind: str = "pair") -> list[str]:
    """The world's prompt lists, in a fixed order.

    Args:
        split: "train" or "test". The two are disjoint as unordered pairs of objects.
        kind: "pair" ("a red circle and a blue square", in both orders: 60 train, 30 test),
            "spatial" (with each of the four relations, in both orders: 240 train, 120 test), or
            "unseen" (test only: pairs with an object that the denoiser's pre-training never
            showed).

    Raises:
        UserError: for an unknown split or kind.
    """
    if split not in ("train", "test") or kind not in ("pair", "spatial", "unseen"):
        raise UserError(
            f"no prompt list {split!r}/{kind!r} in the shapes world: splits are train, test; kinds "
            "are pair, "
            "spatial, unseen (test only)"
        )
    if kind == "unseen":
        if split == "train":
            raise UserError("the 'unseen' prompts are for testing only: use split 'test'")
        unordered = [(h, o) for h in sorted(HELD_OUT) for o in all_objects()]
    else:
        unordered = _splits()[0 if split == "train" else 1]
    ordered = [pair for a, b in unordered for pair in ((a, b), (b, a))]
    relations = RELATIONS if kind == "spatial" else (None,)
    phrases = [Phrase(pair, relation) for relation in relations for pair in ordered]
    random.Random(f"{split}/{kind}").shuffle(phrases)
    return [str(phrase) for phrase in phrases]


def first_prompts(split: str, count: int, *, unseen: bool = False) -> dict[str, str]:
    """The first ``count`` pairs of a list, with the name of their kind; with ``unseen``, those with
    an object that pre-training never showed, of which every second one is for training."""
    if unseen:
        every = prompts("test", "unseen")[0 if split == "train" else 1 :: 2]
        return dict.fromkeys(every[:count], "unseen")
    return dict.fromkeys(prompts(split)[:count], "pair")


def rests(prompt: str) -> list[str]:
    """The prompt without each of its phrases: without each object, and without the relation;
    without its only object nothing is left."""
    phrase = parse(prompt)
    several = len(phrase.objects) > 1
    found = [str(Phrase((each,))) if several else "" for each in reversed(phrase.objects)]
    return [*found, *([str(Phrase(phrase.objects))] if phrase.relation else [])]
