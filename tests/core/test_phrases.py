"""The noun phrases of prompts as benchmarks have them."""

import pytest

import mitune
from mitune.core.errors import UserError
from mitune.core.phrases import by_spacy, noun_phrases, token_at, without_phrases


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red book and a yellow vase", ["red book", "yellow vase"]),
        ("The square painting was next to the round mirror.", ["square painting", "round mirror"]),
        ("a dog on the left of a car", ["dog", "car"]),
        (
            "a wooden floor, a fluffy rug and a glass vase",
            ["wooden floor", "fluffy rug", "glass vase"],
        ),
        ("A person is looking at the stars", ["person", "stars"]),
        (
            "The sleek black phone is on the brown wooden table.",
            ["sleek black phone", "brown wooden table"],
        ),
        ("two striped red circles", ["striped red circles"]),
        ("a blue cross bigger than a red star", ["blue cross", "red star"]),
        ("a red circle to the left of a blue square", ["red circle", "blue square"]),
        ("a dog's bowl and a T-shirt", ["dog's bowl", "T-shirt"]),
        ("", []),
        ("of the and", []),
    ],
)
def test_phrases_and_where_they_are(prompt: str, expected: list[str]) -> None:
    found = noun_phrases(prompt)
    assert [phrase.text for phrase in found] == expected
    assert [prompt[phrase.start : phrase.end] for phrase in found] == expected
    nouns = [prompt[slice(*phrase.noun)] for phrase in found]
    assert nouns == [text.split()[-1] for text in expected]


def test_a_token_is_the_words_own_and_the_last_of_several() -> None:
    tokenizer = mitune.load("shapes-v1").pipeline.tokenizer
    prompt = "a red circle and a blue square"
    ids = tokenizer(prompt).input_ids
    for phrase in noun_phrases(prompt):
        start, end = phrase.noun
        place = token_at(tokenizer, prompt, end)
        (own,) = tokenizer(prompt[start:end]).input_ids[1:-1]
        assert ids[place] == own


def test_spacy_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match="pip install spacy"):
        by_spacy()


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red circle and a blue square", ["a blue square", "a red circle"]),
        ("a red circle", [""]),
        ("a cat, a dog and a bird", ["a dog and a bird", "a cat and a bird", "a cat a dog"]),
        ("a dog on the left of a car", ["the left of a car", "a dog on the left"]),
    ],
)
def test_what_is_left_of_a_prompt_without_a_phrase(prompt: str, expected: list[str]) -> None:
    assert without_phrases(prompt) == expected
