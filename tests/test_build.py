"""Building sets: resume after SIGKILL, estimators, selection, refusals."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mitune.build import build_set
from mitune.errors import UserError
from mitune.families.prepared import Prepared
from mitune.sampler import SamplerConfig
from mitune.shapes.prompts import prompts

PROMPTS = prompts("train")[:20]
SHORT = SamplerConfig(steps=5, guidance=1.0)
SETTINGS = {"candidates": 6, "keep": 2, "sampler": SHORT, "seed": 5, "slots": 7}

SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_build import PROMPTS, SETTINGS
from mitune.build import build_set
from mitune.load import load
build_set(load("shapes", device="cpu"), PROMPTS, Path(sys.argv[1]), **SETTINGS)
"""


def parts(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "parts").glob("*.parquet"))}


def in_a_process(out: Path) -> subprocess.Popen:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out)], env={**os.environ, "PYTHONPATH": path}
    )


def test_killed_three_times_and_resumed_it_is_the_uninterrupted_set(tmp_path):
    whole = in_a_process(tmp_path / "whole")
    assert whole.wait() == 0
    expected = parts(tmp_path / "whole")
    assert len(expected) == 3
    draw = random.Random(0)
    out = tmp_path / "killed"
    for _ in range(3):
        process = in_a_process(out)
        # Wait for the build to begin, then strike at a random moment within it.
        while not (out / "run.json").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert in_a_process(out).wait() == 0
    assert parts(out) == expected


def test_resuming_repeats_the_batches_bit_for_bit(shapes_model, tmp_path):
    build_set(shapes_model, PROMPTS, tmp_path / "whole", **SETTINGS)
    expected = parts(tmp_path / "whole")
    # A part in the middle is lost: its candidates must meet the same batches again.
    (tmp_path / "whole" / "parts" / sorted(expected)[1]).unlink()
    build_set(shapes_model, PROMPTS, tmp_path / "whole", **SETTINGS)
    assert parts(tmp_path / "whole") == expected


def test_progress_counts_each_candidate_once(shapes_model, tmp_path):
    seen = []
    build_set(shapes_model, PROMPTS, tmp_path / "s", **SETTINGS, progress=lambda *a: seen.append(a))
    assert seen == [(i, 120) for i in range(1, 121)]
    (tmp_path / "s" / "parts" / "part-00001.parquet").unlink()
    seen.clear()
    build_set(shapes_model, PROMPTS, tmp_path / "s", **SETTINGS, progress=lambda *a: seen.append(a))
    assert seen == [(i, 120) for i in range(73, 121)]


def test_the_best_by_score_are_kept_with_their_latents(shapes_model, tmp_path):
    built = build_set(shapes_model, PROMPTS[:3], tmp_path / "s", **SETTINGS)
    rows = built.table().to_pylist()
    assert len(rows) == 18
    for p in range(3):
        pool = sorted((r for r in rows if r["prompt_index"] == p), key=lambda r: -r["score"])
        assert [r["selected"] for r in pool] == [True, True, False, False, False, False]
        assert all((r["latent"] is not None) == r["selected"] for r in rows)
        assert all(len(r["terms"]) == 5 for r in pool)
    kept = built.selected()
    assert [prompt for prompt, _ in kept] == [p for p in PROMPTS[:3] for _ in range(2)]
    assert kept[0][1].shape == shapes_model.latent_shape


def test_controls_choose_from_the_same_pool(shapes_model, tmp_path):
    sets = {
        rule: build_set(shapes_model, PROMPTS[:4], tmp_path / rule, **SETTINGS, select=rule)
        for rule in ("mi", "random", "worst")
    }
    scores = {rule: s.table(["score"])["score"].to_pylist() for rule, s in sets.items()}
    assert scores["mi"] == scores["random"] == scores["worst"]
    means = {rule: s.summary()["score_mean_kept"] for rule, s in sets.items()}
    assert means["mi"] > means["random"] > means["worst"]


@pytest.mark.parametrize("estimator", ["orthogonal", "standard"])
def test_other_estimators_rank_the_same_latents(shapes_model, tmp_path, estimator):
    from mitune.score import score

    plain = build_set(shapes_model, PROMPTS[:2], tmp_path / "t", **(SETTINGS | {"keep": 6}))
    other = build_set(
        shapes_model,
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
    latent = torch.tensor(row["latent"]).view(1, *shapes_model.latent_shape)
    alone = score(
        shapes_model, [PROMPTS[row["prompt_index"]]], latent, estimator=estimator, draws=6, seed=5
    )
    assert float(alone[0]) == pytest.approx(row["score"], rel=1e-4, abs=1e-3)


def test_other_settings_are_refused_with_the_difference(shapes_model, tmp_path):
    build_set(shapes_model, PROMPTS[:2], tmp_path / "s", **SETTINGS)
    with pytest.raises(UserError, match=r"steps"):
        build_set(
            shapes_model,
            PROMPTS[:2],
            tmp_path / "s",
            **(SETTINGS | {"sampler": SamplerConfig(steps=4, guidance=1.0)}),
        )
    with pytest.raises(UserError, match=r"seed"):
        build_set(shapes_model, PROMPTS[:2], tmp_path / "s", **(SETTINGS | {"seed": 6}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "path"}, "choose one of trajectory, orthogonal, standard"),
        ({"keep": 7}, "keep"),
        ({"keep": 0}, "keep"),
        ({"select": "best"}, "mi"),
        ({"candidates": 0}, "candidates"),
        ({"slots": 0}, "slots"),
        ({"backend": "turbo"}, "choose one of eager, inductor, tensorrt"),
        ({"attention": "fast"}, "attention 'fast' is not known"),
    ],
)
def test_nothing_is_written_for_bad_arguments(shapes_model, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        build_set(shapes_model, PROMPTS[:2], tmp_path / "s", **(SETTINGS | changes))
    assert not (tmp_path / "s").exists()


def test_a_non_finite_score_is_recorded_and_loses(shapes_model, tmp_path, monkeypatch):
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
    built = build_set(shapes_model, PROMPTS[:2], tmp_path / "s", **(SETTINGS | {"keep": 5}))
    summary = built.summary()
    assert summary["non_finite"] == 1
    bad = [r for r in built.table().to_pylist() if not r["finite"]]
    assert [(r["prompt_index"], r["candidate"], r["selected"]) for r in bad] == [(0, 0, False)]
