"""Building sets: resume after SIGKILL, estimators, selection, refusals."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from joint_model import joint_model

from mitune.config.pruning import PruneConfig
from mitune.config.sampling import SamplerConfig
from mitune.config.sets import BuildConfig
from mitune.config.shard import Shard
from mitune.core.errors import UserError
from mitune.methods.build import build_set
from mitune.methods.set_build import SetBuild
from mitune.runtime.prepared import Prepared
from mitune.worlds.shapes_v1.prompts import prompts

PROMPTS = prompts("train")[:20]
SHORT = SamplerConfig(steps=3, guidance=1.0)
SETTINGS = {"candidates": 6, "keep": 2, "sampler": SHORT, "seed": 5, "slots": 7}


def parts(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "parts").glob("*.parquet"))}


def test_killed_three_times_and_resumed_it_is_the_uninterrupted_set(tmp_path):
    here = Path(__file__).parent
    path = os.pathsep.join(
        [str(here), str(here.parent / "training"), os.environ.get("PYTHONPATH", "")]
    )
    command = [sys.executable, str(here / "killed_build.py"), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
    assert len(parts(tmp_path / "killed")) == 3


def test_resuming_repeats_the_batches_bit_for_bit(tmp_path):
    """In float32, where another batch would round otherwise. On a processor whose products depend
    on where memory lies, ``mitune.core.environment`` makes this hold."""
    model = joint_model()
    build_set(model, PROMPTS, tmp_path / "whole", **SETTINGS)
    expected = parts(tmp_path / "whole")
    # A part in the middle is lost: its candidates must meet the same batches again.
    (tmp_path / "whole" / "parts" / sorted(expected)[1]).unlink()
    build_set(model, PROMPTS, tmp_path / "whole", **SETTINGS)
    assert parts(tmp_path / "whole") == expected


def test_progress_counts_each_candidate_once(exact_model, tmp_path):
    seen = []
    build_set(exact_model, PROMPTS, tmp_path / "s", **SETTINGS, progress=lambda *a: seen.append(a))
    assert seen == [(i, 120) for i in range(1, 121)]
    (tmp_path / "s" / "parts" / "part-00001.parquet").unlink()
    seen.clear()
    build_set(exact_model, PROMPTS, tmp_path / "s", **SETTINGS, progress=lambda *a: seen.append(a))
    assert seen == [(i, 120) for i in range(73, 121)]


def test_progress_of_a_share_counts_its_candidates(exact_model, tmp_path):
    seen = []
    build_set(
        exact_model,
        PROMPTS,
        tmp_path / "s",
        **SETTINGS,
        shard=Shard(number=1, of=3),
        progress=lambda *a: seen.append(a),
    )
    assert seen == [(i, 48) for i in range(1, 49)]  # prompts 8 to 15


def test_the_best_by_score_are_kept_with_their_latents(exact_model, tmp_path):
    built = build_set(exact_model, PROMPTS[:3], tmp_path / "s", **SETTINGS)
    rows = built.table().to_pylist()
    assert len(rows) == 18
    for p in range(3):
        pool = sorted((r for r in rows if r["prompt_index"] == p), key=lambda r: -r["score"])
        assert [r["selected"] for r in pool] == [True, True, False, False, False, False]
        assert all((r["latent"] is not None) == r["selected"] for r in rows)
        assert all(len(r["terms"]) == SHORT.steps for r in pool)
    kept = built.selected()
    assert [prompt for prompt, _ in kept] == [p for p in PROMPTS[:3] for _ in range(2)]
    assert kept[0][1].shape == exact_model.latent_shape


def test_controls_choose_from_the_same_pool(exact_model, tmp_path):
    sets = {
        rule: build_set(exact_model, PROMPTS[:4], tmp_path / rule, **SETTINGS, select=rule)
        for rule in ("mi", "random", "worst")
    }
    scores = {rule: s.table(["score"])["score"].to_pylist() for rule, s in sets.items()}
    assert scores["mi"] == scores["random"] == scores["worst"]
    means = {rule: s.summary()["score_mean_kept"] for rule, s in sets.items()}
    assert means["mi"] > means["random"] > means["worst"]


@pytest.mark.parametrize("estimator", ["orthogonal", "standard"])
def test_other_estimators_rank_the_same_latents(exact_model, tmp_path, estimator):
    from mitune.scoring.score import score

    plain = build_set(exact_model, PROMPTS[:2], tmp_path / "t", **(SETTINGS | {"keep": 6}))
    other = build_set(
        exact_model,
        PROMPTS[:2],
        tmp_path / estimator,
        **(SETTINGS | {"keep": 6}),
        estimator=estimator,
        draws=6,
    )
    columns = ["prompt_index", "candidate", "score", "latent", "terms"]
    rows = [s.table(columns).to_pylist() for s in (plain, other)]
    for a, b in zip(*rows, strict=True):
        assert (a["latent"], a["terms"]) == (b["latent"], b["terms"])
    # The score of a candidate is that of scoring its latent alone.
    row = rows[1][7]
    latent = torch.tensor(row["latent"]).view(1, *exact_model.latent_shape)
    alone = score(
        exact_model, [PROMPTS[row["prompt_index"]]], latent, estimator=estimator, draws=6, seed=5
    )
    assert float(alone[0]) == pytest.approx(row["score"], rel=1e-5)


@pytest.mark.parametrize("attention", ["auto", "math"])
def test_a_score_is_the_plain_models_own(exact_model, attention):
    """However the UNet is prepared for it: projections and the pairs' first layers shared."""
    from mitune.diffusion.schedule import Schedule
    from mitune.scoring.estimate import pointwise_mi
    from mitune.scoring.score import score

    latents = torch.randn(3, *exact_model.latent_shape, generator=torch.Generator().manual_seed(2))
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    expected = pointwise_mi(
        exact_model,
        latents,
        exact_model.encode_prompts(prompts),
        exact_model.encode_null(),
        Schedule.levels(exact_model.scheduler),
        draws=4,
    )
    found = score(exact_model, prompts, latents, draws=4, attention=attention)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert float(expected.min()) > 0


def test_other_settings_are_refused_with_the_difference(exact_model, tmp_path):
    build_set(exact_model, PROMPTS[:2], tmp_path / "s", **SETTINGS)
    with pytest.raises(UserError, match=r"steps"):
        build_set(
            exact_model,
            PROMPTS[:2],
            tmp_path / "s",
            **(SETTINGS | {"sampler": SamplerConfig(steps=4, guidance=1.0)}),
        )
    with pytest.raises(UserError, match=r"seed"):
        build_set(exact_model, PROMPTS[:2], tmp_path / "s", **(SETTINGS | {"seed": 6}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "path"}, "choose one of trajectory, rfmi, orthogonal, standard"),
        ({"keep": 7}, "keep"),
        ({"keep": 0}, "keep"),
        ({"select": "best"}, "mi"),
        ({"candidates": 0}, "candidates"),
        ({"slots": 0}, "slots"),
        ({"backend": "turbo"}, "choose one of eager, inductor, tensorrt"),
        ({"attention": "fast"}, "attention 'fast' is not known"),
        ({"cuda_graphs": True}, "cuda_graphs is on and the device is cpu"),
    ],
)
def test_nothing_is_written_for_bad_arguments(exact_model, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        build_set(exact_model, PROMPTS[:2], tmp_path / "s", **(SETTINGS | changes))
    assert not (tmp_path / "s").exists()


def test_a_non_finite_score_is_recorded_and_loses(exact_model, tmp_path, monkeypatch):
    original = Prepared.__call__
    calls = []

    def broken(self, z, t, cond):
        out = original(self, z, t, cond)
        calls.append(1)
        if len(calls) == 3:
            # The conditional half of slot 0, once: candidate 0 of the first prompt.
            out = out.clone()
            out[SETTINGS["slots"]] = float("nan")
        return out

    monkeypatch.setattr(Prepared, "__call__", broken)
    built = build_set(exact_model, PROMPTS[:2], tmp_path / "s", **(SETTINGS | {"keep": 5}))
    summary = built.summary()
    assert summary["non_finite"] == 1
    bad = [r for r in built.table().to_pylist() if not r["finite"]]
    assert [(r["prompt_index"], r["candidate"], r["selected"]) for r in bad] == [(0, 0, False)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"estimator": "standard", "draws": 2},
        {"prune": PruneConfig(policy="threshold", calibration=4, audit=0.3)},
    ],
    ids=["trajectory", "standard", "pruned"],
)
def test_shares_of_a_set_are_the_set_of_one_process(exact_model, tmp_path, options):
    settings = SETTINGS | options
    build_set(exact_model, PROMPTS, tmp_path / "whole", **settings)
    for number in (2, 0, 1):
        share = Shard(number=number, of=3)
        built = build_set(exact_model, PROMPTS, tmp_path / "shares", **settings, shard=share)
        assert built.complete == (number == 1)
    names = {p.name for p in (tmp_path / "whole").iterdir()}
    assert {p.name for p in (tmp_path / "shares").iterdir() if "-of-" not in p.name} == names
    assert parts(tmp_path / "shares") == parts(tmp_path / "whole")
    if "prune" in options:
        audits = [(tmp_path / name / "audit.json").read_bytes() for name in ("whole", "shares")]
        assert audits[0] == audits[1]


def test_a_share_repeats_the_batches_bit_for_bit(tmp_path):
    """In float32, as above; pools are generated whole, by batches of 7 of which parts end within
    one."""
    model = joint_model()
    settings = SETTINGS | {"estimator": "standard", "draws": 2}
    build_set(model, PROMPTS, tmp_path / "whole", **settings)
    for number in (1, 0):
        share = Shard(number=number, of=2)
        build_set(model, PROMPTS, tmp_path / "shares", **settings, shard=share)
    assert parts(tmp_path / "shares") == parts(tmp_path / "whole")


def test_a_fleets_share_without_a_finite_candidate_is_refused(exact_model, tmp_path, monkeypatch):
    """Before its last candidate, so that another worker makes it."""
    build = SetBuild(exact_model, PROMPTS[:2], BuildConfig.of(exact_model.preset, **SETTINGS))
    made = build.candidates

    def broken(*given):
        return (replace(each, score=math.nan) for each in made(*given))

    monkeypatch.setattr(build, "candidates", broken)
    with build.writer(tmp_path / "s", locked=False) as writer:
        with pytest.raises(UserError, match="no candidate of 2 prompts is finite"):
            build.fill(writer, finite=True)
        assert writer.pending_parts() == [0]


def test_a_process_makes_the_pools_for_the_fit_once_for_all_its_shares(exact_model, tmp_path):
    prune = PruneConfig(policy="threshold", calibration=4, audit=0.0)
    config = BuildConfig.of(exact_model.preset, **SETTINGS, prune=prune)
    build = SetBuild(exact_model, PROMPTS, config)
    made = []
    for number in (1, 2):  # neither has the first four prompts
        share = Shard(number=number, of=3)
        with build.writer(tmp_path / "s", share, locked=False) as writer:
            steering = build.steering(writer.path)
            pending = set(writer.pending_prompts())
            every = build.candidates(steering, pending)
            made.append([c.prompt_index for c in every])
    assert {p for p in made[0] if p < 8} == {0, 1, 2, 3}
    assert min(made[1]) == 16
