"""Pools ranked by another metric than mutual information."""

from dataclasses import dataclass

import pytest
import torch

from mitune.config.pruning import PruneConfig
from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.engine.stream import generate
from mitune.methods.build import build_set
from mitune.worlds.shapes_v1.prompts import prompts

PROMPTS = prompts("train")[:3]
SHORT = SamplerConfig(steps=3, guidance=1.0)
SETTINGS = {"candidates": 6, "keep": 2, "sampler": SHORT, "seed": 5, "slots": 7}


@dataclass
class Brightness:
    """How bright a picture is; a sign turns it round."""

    sign: int = 1
    name: str = "brightness"
    requires: str = "nothing"

    def score(self, images, prompts, /):
        assert len(images) == len(prompts)
        return self.sign * images.double().mean(dim=(1, 2, 3))


def test_the_brightest_of_each_pool_are_kept(exact_model, tmp_path):
    built = build_set(
        exact_model, PROMPTS, tmp_path, **SETTINGS, rank_by="brightness", scorer=Brightness()
    )
    drawn = generate(exact_model, PROMPTS, candidates=6, sampler=SHORT, seed=5, slots=7)
    made = {(c.prompt_index, c.index): c.latent for c in drawn}
    for row in built.table().to_pylist():
        picture = exact_model.decode(made[row["prompt_index"], row["candidate"]][None])
        assert row["score"] == pytest.approx(float(picture.mean()), abs=1e-5)
    for number in range(len(PROMPTS)):
        pool = [r for r in built.table().to_pylist() if r["prompt_index"] == number]
        best = sorted(pool, key=lambda row: -row["score"])[:2]
        assert all(row["selected"] for row in best)
    assert built.summary()["unit"] == "brightness"


def test_a_set_goes_on_with_the_same_metric_alone(exact_model, tmp_path):
    given = SETTINGS | {"rank_by": "brightness"}
    build_set(exact_model, PROMPTS, tmp_path, **given, scorer=Brightness())
    with pytest.raises(UserError, match="rank_by"):
        build_set(exact_model, PROMPTS, tmp_path, **given, scorer=Brightness(sign=-1))
    with pytest.raises(UserError, match="rank_by"):
        build_set(exact_model, PROMPTS, tmp_path, **SETTINGS)


def test_what_needs_the_score_on_the_way_is_refused(exact_model, tmp_path):
    given = SETTINGS | {"rank_by": "brightness"}
    with pytest.raises(UserError, match="pools are ranked by brightness"):
        build_set(
            exact_model,
            PROMPTS,
            tmp_path,
            **given,
            prune=PruneConfig(policy="halving"),
            scorer=Brightness(),
        )
    with pytest.raises(UserError, match="scorer 'brightness' is not known"):
        build_set(exact_model, PROMPTS, tmp_path, **given)
    assert not list(tmp_path.iterdir())


def test_networks_and_settings_identify_a_scorer():
    from mitune.scoring.scorer import scorer_identity

    assert scorer_identity(Brightness()) == scorer_identity(Brightness())
    assert scorer_identity(Brightness()) != scorer_identity(Brightness(sign=-1))
    one, other = Brightness(), Brightness()
    one.network, other.network = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert scorer_identity(one) != scorer_identity(other)


def test_what_a_scorer_is_made_of_identifies_it_however_deep():
    from mitune.scorers.vision_language import SoftTifa, VisionLanguage, VqaScore
    from mitune.scoring.scorer import scorer_identity

    one, other = (VisionLanguage(torch.nn.Linear(2, 2), None) for _ in range(2))
    assert scorer_identity(VqaScore(one)) != scorer_identity(VqaScore(other))
    asked = {"a": [("q?", "Yes")]}
    assert scorer_identity(SoftTifa(one, asked)) == scorer_identity(SoftTifa(one, dict(asked)))
    assert scorer_identity(SoftTifa(one, asked)) != scorer_identity(SoftTifa(one, {"a": []}))


def test_the_model_and_the_settings_of_mi_identify_it(exact_model):
    from mitune.config.sets import ScoreConfig
    from mitune.scorers.information import Information
    from mitune.scoring.scorer import scorer_identity

    mine = scorer_identity(Information(exact_model))
    assert mine == scorer_identity(Information(exact_model))
    assert mine != scorer_identity(Information(exact_model, ScoreConfig(draws=3)))


def test_it_takes_the_place_of_a_presets_estimator(exact_model, tmp_path):
    given = SETTINGS | {"rank_by": "brightness", "estimator": "standard"}
    built = build_set(exact_model, PROMPTS[:1], tmp_path, **given, scorer=Brightness())
    scores = [row["score"] for row in built.table().to_pylist()]
    assert all(0 <= score <= 1 for score in scores)
