"""What an arm keeps of a pool."""

import math

import torch

from mitune.evaluation.rules import Rule
from mitune.evaluation.studies.choice import choose
from mitune.evaluation.studies.pools import Pools
from mitune.evaluation.studies.tuned import _spread

RULE = Rule("standard", 400.0)


def pools(scores: list[list[float]]) -> Pools:
    """Pools whose latents are their numbers: 100 times the prompt's, and the candidate's."""
    found = torch.tensor(scores, dtype=torch.float64)
    rows, columns = found.shape
    latents = 100.0 * torch.arange(rows)[:, None] + torch.arange(columns)
    return Pools(
        prompts=tuple(f"prompt {i}" for i in range(rows)),
        latents=latents.view(rows, columns, 1, 1, 1),
        scores={RULE: found},
    )


def numbers(pairs: list[tuple[str, torch.Tensor]]) -> list[int]:
    return [int(latent) for _, latent in pairs]


def test_the_best_of_each_pool_come_in_order_and_non_finite_scores_last() -> None:
    made = pools([[1.0, math.nan, 3.0], [math.inf, 5.0, 4.0]])
    assert numbers(choose(made, RULE, candidates=3, keep=2, seed=0)) == [2, 0, 101, 102]


def test_only_the_first_candidates_of_a_pool_count() -> None:
    made = pools([[1.0, 2.0, 9.0]])
    assert numbers(choose(made, RULE, candidates=2, keep=1, seed=0)) == [1]


def test_a_random_choice_is_keyed_and_has_no_repeats() -> None:
    made = pools([[0.0] * 20] * 5)
    one, again, other = (
        numbers(choose(made, None, candidates=20, keep=8, seed=seed)) for seed in (0, 0, 1)
    )
    assert one == again != other
    assert len(set(one)) == 40
    assert len({n % 100 for n in one}) > 8  # not the same of every pool


def test_fewer_pairs_are_spread_over_the_prompts() -> None:
    made = pools([[3.0, 2.0, 1.0]] * 2)
    pairs = choose(made, RULE, candidates=3, keep=3, seed=0)
    assert numbers(_spread(pairs, 3)) == [0, 100, 1]
