"""The embedded model as shipped."""

from typing import Any

import pytest
import torch

import mitune
from mitune.worlds.known import WORLDS
from mitune.worlds.shapes.prompts import CATEGORIES


@pytest.fixture(scope="module")
def model() -> Any:
    return mitune.load("shapes")


def test_it_draws_much_of_what_is_asked(model: Any) -> None:
    """0.82 graded of colours on held-out prompts, by the card."""
    world = WORLDS["shapes"]
    first = world.first_prompts("test", 4)
    texts = [text for text, kind in first.items() if kind == "colour"]
    made = list(mitune.generate(model, texts, candidates=2, steps=25, guidance=3.0, scored=False))
    pictures = model.decode(torch.stack([c.latent for c in made]))
    verdicts = world.judge([c.prompt for c in made], pictures)
    assert sum(v.graded for v in verdicts) / len(verdicts) > 0.6


def test_its_lists_have_every_category_and_its_words_fit(model: Any) -> None:
    train, test = (WORLDS["shapes"].prompts(split) for split in ("train", "test"))
    assert (len(train), len(test)) == (5 * len(CATEGORIES), 10 * len(CATEGORIES))
    assert not set(train) & set(test)
    assert model.too_long([*train, *test]) == []
