"""What the rules compute that is not an estimator's own."""

from typing import Any

import pytest
import torch

from mitune.evaluation.rules import Rule, _Scores, every_rule
from mitune.worlds.known import WORLDS


def scores(**known: list[float]) -> _Scores:
    """Scores of one pool, of which some are known."""
    made = _Scores.__new__(_Scores)
    given: Any = {name: torch.tensor(values, dtype=torch.float64) for name, values in known.items()}
    made.known = {Rule(name, 400.0): values for name, values in given.items()}
    made.pool = len(next(iter(given.values())))
    return made


def test_two_stages_rank_the_better_half_by_the_exact_score_and_before_the_others() -> None:
    found = scores(trajectory=[4.0, 3.0, 2.0, 1.0], standard=[5.0, 6.0, 9.0, 7.0])
    order = found.of(Rule("two-stage", 400.0)).argsort(descending=True).tolist()
    assert order == [1, 0, 2, 3]


def test_standardised_terms_have_no_mean_and_one_spread_in_each_step() -> None:
    made = scores(trajectory=[0.0, 0.0])
    found = made._standardised(torch.tensor([[1.0, 10.0], [3.0, 50.0]], dtype=torch.float64))
    assert torch.allclose(found.mean(dim=0), torch.zeros(2).double())
    assert torch.allclose(found.std(dim=0), torch.ones(2).double())


def test_the_names_of_rules_are_distinct() -> None:
    names = [str(rule) for rule in every_rule((-1.0, 400.0))]
    assert len(set(names)) == len(names) == 18


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red circle and a blue square", ["a blue square", "a red circle"]),
        (
            "a red circle above a blue square",
            ["a blue square", "a red circle", "a red circle and a blue square"],
        ),
    ],
)
def test_the_rest_of_a_prompt_is_it_without_each_phrase(prompt: str, expected: list[str]) -> None:
    for world in ("shapes-v1", "shapes"):
        assert WORLDS[world].rests(prompt) == expected


def test_the_rest_of_three_objects_and_of_one() -> None:
    assert WORLDS["shapes"].rests("a star and a red circle above a blue square") == [
        "a red circle above a blue square",
        "a star and a blue square",
        "a star and a red circle",
        "a star and a red circle and a blue square",
    ]
    assert WORLDS["shapes"].rests("three red circles") == [""]
    assert WORLDS["shapes-v1"].rests("a red circle") == [""]
