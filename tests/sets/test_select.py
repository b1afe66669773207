import math

import pytest

from mitune.core.errors import UserError
from mitune.sets import RULES, select
from mitune.sets.select import rank

NAN, INF = math.nan, math.inf


def test_mi_takes_the_highest_and_ties_go_to_the_lower_index() -> None:
    assert select([1.0, 3.0, 2.0, 3.0], 3, "mi", 0, "p") == [1, 3, 2]


def test_worst_takes_the_lowest_and_ties_go_to_the_lower_index() -> None:
    assert select([1.0, -3.0, 2.0, -3.0], 3, "worst", 0, "p") == [1, 3, 0]


@pytest.mark.parametrize("rule", RULES)
def test_non_finite_scores_rank_last_and_are_never_kept(rule: str) -> None:
    scores = [INF, 5.0, NAN, -1.0, -INF]
    assert sorted(rank(scores, rule, 0, "p")[:2]) == [1, 3]
    assert rank(scores, rule, 0, "p")[2:] == [0, 2, 4]
    assert sorted(select(scores, 5, rule, 0, "p")) == [1, 3]
    assert select([NAN, INF], 1, rule, 0, "p") == []


def test_random_does_not_depend_on_the_scores() -> None:
    first = rank([float(i) for i in range(50)], "random", 3, "a cube")
    assert first == rank([float(-i * i) for i in range(50)], "random", 3, "a cube")
    assert sorted(first) == list(range(50))
    broken = [0.0] * 50
    broken[first[0]] = NAN
    assert rank(broken, "random", 3, "a cube") == first[1:] + first[:1]


def test_random_depends_on_seed_and_prompt_and_is_fair() -> None:
    scores = [0.0] * 50
    assert rank(scores, "random", 3, "a cube") != rank(scores, "random", 4, "a cube")
    assert rank(scores, "random", 3, "a cube") != rank(scores, "random", 3, "a ball")
    wins = [0] * 4
    for seed in range(2000):
        wins[select([0.0] * 4, 1, "random", seed, "a cube")[0]] += 1
    # 500 each with standard deviation sqrt(2000 * 1/4 * 3/4) = 19.4; 100 is more than five of them.
    assert all(abs(count - 500) < 100 for count in wins)


@pytest.mark.parametrize("keep", [-1, 0, 4])
def test_keep_out_of_range(keep: int) -> None:
    with pytest.raises(UserError, match=f"cannot keep {keep} of 3 candidates"):
        select([1.0, 2.0, 3.0], keep, "mi", 0, "p")


def test_unknown_rule_lists_the_valid_ones() -> None:
    with pytest.raises(UserError, match="'best'; expected one of mi, random, worst"):
        select([1.0], 1, "best", 0, "p")
