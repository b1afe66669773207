"""The agreement of rules with the oracle, on random weights: what it computes, and that it
resumes."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from random_world import random_model

from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.evaluation import categories
from mitune.evaluation.rules import Rule, Score
from mitune.evaluation.studies import agreement, pools
from mitune.evaluation.studies.agreement import Judged
from mitune.evaluation.studies.budget import Budget, first_of, passes
from mitune.evaluation.studies.plan import Plan
from mitune.evaluation.studies.pools import Pools
from mitune.worlds.known import WORLDS
from mitune.worlds.shapes.prompts import CATEGORIES, prompts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("random"))


def test_every_rule_ranks_every_pool_and_the_same_command_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    few = replace(WORLDS["shapes"], preset=replace(WORLDS["shapes"].preset, draws=1))
    monkeypatch.setitem(WORLDS, "shapes", few)
    plan = Plan(
        out=tmp_path,
        world="shapes",
        folder=folder,
        seeds=2,
        prompts=1,
        candidates=3,
        steps=2,
        guidance=3.0,
        processes=1,
        quiet=True,
    )
    result = agreement.run(plan)
    place = tmp_path / "seed-1" / "pools" / "guidance-3.parquet"
    table = pq.read_table(place)
    assert table["prompt"].to_pylist()[::3] == [prompts("train", c)[0] for c in CATEGORIES]
    assert table["candidate"].to_pylist() == [0, 1, 2] * len(CATEGORIES)
    # Of one object there is one phrase: the least is the whole.
    whole, phrase = (
        pq.read_table(pools.scores_file(place, Rule(name, 500.0)))["score"].to_pylist()
        for name in ("standard", "phrase")
    )
    one = 3 * CATEGORIES.index("numeracy")
    assert phrase[one : one + 3] == pytest.approx(whole[one : one + 3], rel=1e-4)
    assert {row["category"] for row in result["rows"]} == {"all", *CATEGORIES}
    made = (tmp_path / "table.md").read_text()
    assert len(pq.read_table(tmp_path / "table.parquet")) == len(result["rows"])

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(pools, "_drawn", fail)
    monkeypatch.setattr(pools, "rank", fail)
    agreement.run(plan)  # from the files
    assert (tmp_path / "table.md").read_text() == made
    with pytest.raises(UserError, match="other settings"):
        agreement.run(replace(plan, candidates=2))
    capsys.readouterr()


def test_agreement_is_that_of_known_pools() -> None:
    """Two pools of four: one ranked as the oracle ranks, one the other way round."""
    graded = torch.tensor([[0.0, 0.25, 0.5, 1.0]] * 2, dtype=torch.float64)
    scores = torch.stack([graded[0], -graded[0]])
    judged = Judged(
        pools=Pools(
            prompts=("one", "other"),
            latents=torch.zeros(2, 4, 1, 1, 1),
            scores={Rule("standard", 400.0): scores},
        ),
        graded=graded,
        strict=(graded == 1).double(),
    )
    sampler = SamplerConfig(steps=8, guidance=3.0)
    budget = Budget(sampler=sampler, draws=8, rests=lambda _: [""])
    every, one, other = agreement.agreement([judged], ["colour", "shape"], budget)
    assert (every.category, one.category, other.category) == ("all", "colour", "shape")
    assert (one.tau.mean, one.tau_of_three.mean, one.spearman.mean) == (1, 1, pytest.approx(1))
    assert (other.tau.mean, other.tau_of_three.mean) == (-1, -1)
    assert every.tau.mean == 0
    assert every.pools == 2
    assert one.gain.mean == 0.75
    assert other.gain.mean == -0.25
    # Drawing takes 16 passes and scoring 16 more: 2 of 4 are seen, and half of the pairs have the
    # one that is right.
    assert one.on_budget.mean == pytest.approx(0.5 - 0.25)
    assert other.on_budget.mean == pytest.approx(-0.25)


def test_the_first_of_some_is_that_of_all_ways_to_take_them() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(6, generator=generator)
    values = torch.rand(6, generator=generator, dtype=torch.float64)
    for seen in range(1, 7):
        firsts = [
            values[max(taken, key=lambda i: float(scores[i]))]
            for taken in combinations(range(6), seen)
        ]
        assert first_of(seen, scores, values) == pytest.approx(float(sum(firsts)) / len(firsts))


@pytest.mark.parametrize(
    ("score", "guided", "plain"),
    [
        ("trajectory", 50, 50),
        ("cfg-rejection", 50, 50),
        ("standard", 82, 57),
        ("two-stage", 66, 66),
        ("phrase", 114, 89),
        ("solace", 114, 89),
        ("path", 100, 75),
    ],
)
def test_what_a_candidate_costs(score: Score, guided: int, plain: int) -> None:
    for guidance, expected in ((3.0, guided), (1.0, plain)):
        sampler = SamplerConfig(steps=25, guidance=guidance)
        assert passes(Rule(score, 500), sampler, draws=16, phrases=2) == expected


def test_categories_are_judged_each_by_its_own_prompts(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    options = categories.Options(
        model=folder, guidance=(1.0,), prompts=2, images=1, steps=2, out=out
    )
    categories.main(options)
    assert all(category in out.read_text() for category in ("all", *CATEGORIES))
