"""The worlds' own pictures of a prompt: the oracle finds in them what the prompt asks for."""

import pytest
import torch

from mitune.worlds.known import WORLDS
from mitune.worlds.shapes.prompts import CATEGORIES, prompts


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_oracle_finds_what_the_second_edition_draws(category: str) -> None:
    world, count = WORLDS["shapes"], 4
    texts = prompts("train", category)[:8]
    pictures = torch.cat([world.drawings(text, count, seed) for seed, text in enumerate(texts)])
    verdicts = world.judge([text for text in texts for _ in range(count)], pictures)
    assert sum(verdict.strict for verdict in verdicts) >= 0.9 * len(verdicts)


@pytest.mark.parametrize(
    "prompt", ["a red circle", "a red circle and a blue square", "a red circle above a blue square"]
)
def test_the_oracle_finds_what_the_first_edition_draws(prompt: str) -> None:
    world = WORLDS["shapes-v1"]
    verdicts = world.judge([prompt] * 20, world.drawings(prompt, 20, 0))
    assert all(verdict.strict for verdict in verdicts)


def test_drawings_differ_and_are_keyed() -> None:
    for world in WORLDS.values():
        one, again, other = (
            world.drawings("a red circle and a blue square", 2, seed) for seed in (0, 0, 1)
        )
        assert torch.equal(one, again)
        assert not torch.equal(one[0], one[1])
        assert not torch.equal(one, other)
