"""What one survey asks: rounds of a prompt and a picture of each of what is compared, all in random
order (MI-Tune, Appendix B)."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mitune.survey.pool import Pool

METRIC_ROUNDS = 10
METHOD_ROUNDS = 2
"""Of each category."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One page of a survey.

    Attributes:
        category, prompt: what is asked about.
        shown: (what is compared, name of its picture), in the order of the page.
    """

    category: str
    prompt: str
    shown: Sequence[tuple[str, str]]


def draw_rounds(pool: Pool, source: random.Random, each: int | None = None) -> list[Round]:
    """The rounds of one survey: of metrics ten prompts, of methods two of each category; fewer if
    the pool has fewer. No prompt comes twice.

    Args:
        pool: what may be shown.
        source: of all choices and orders.
        each: prompts of each category; None: the paper's.
    """
    wanted = each or (METRIC_ROUNDS if pool.kind == "metrics" else METHOD_ROUNDS)
    by_category: dict[str, list[int]] = {}
    for number, item in enumerate(pool.items):
        by_category.setdefault(item.category, []).append(number)
    chosen = [
        number
        for numbers in by_category.values()
        for number in source.sample(numbers, min(wanted, len(numbers)))
    ]
    source.shuffle(chosen)
    rounds = []
    for number in chosen:
        item = pool.items[number]
        shown = [(name, source.choice(item.images[name])) for name in pool.options]
        source.shuffle(shown)
        rounds.append(Round(category=item.category, prompt=item.prompt, shown=tuple(shown)))
    return rounds
