"""Candidates of the embedded model with and without scores: ``make bench``."""

import pytest

import mitune
from mitune.worlds.shapes.world import SHAPES


@pytest.mark.parametrize("scored", [True, False], ids=["scored", "unscored"])
def test_generate(benchmark, scored):
    """At guidance 1, where a candidate without a score needs one pass in place of two."""
    model = mitune.load("shapes")
    texts = SHAPES.prompts("test")[:16]

    def run():
        return list(mitune.generate(model, texts, candidates=8, seed=3, slots=64, scored=scored))

    made = benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    benchmark.extra_info["candidates"] = len(made)
