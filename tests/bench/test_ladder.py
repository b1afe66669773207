"""The ladder in small: the loops agree with each other, and the figures with what was run."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from mitune.bench import plan
from mitune.bench.ladder import ladder
from mitune.bench.plan import RUNGS
from mitune.bench.plot import plot_ladder
from mitune.bench.random_model import TINY
from mitune.bench.rungs import Setting
from mitune.bench.scale import measure_scale
from mitune.bench.table import explain
from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.models.stable_diffusion import random_weights
from mitune.runtime.prepared import Prepared
from mitune.worlds.shapes_v1.prompts import prompts

SETTING = Setting(
    model=TINY,
    prompts=prompts("train")[:2],
    candidates=4,
    sampler=SamplerConfig(steps=6, guidance=7.5, convention="reference"),
    slots=4,
)


def small_unet():
    """Of the random models' text width."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=1024,
        attention_head_dim=2,
    )


@pytest.fixture
def uncompiled(monkeypatch):
    """Compiling is tested elsewhere, and takes a minute."""
    monkeypatch.setitem(random_weights.UNETS, TINY, small_unet)
    monkeypatch.setattr(
        plan, "Prepared", lambda model, backend="eager", **given: Prepared(model, **given)
    )
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)


@pytest.fixture
def whole(uncompiled):
    lines = []
    return ladder(SETTING, lines.append), lines


def test_every_rung_is_there_and_the_float32_ones_choose_alike(whole, tmp_path):
    result, lines = whole
    rungs = result["rungs"]
    on_a_gpu = {"captured", "captured triton", "captured cuda"}
    assert set(rungs) == {*RUNGS, "draft 4"} - on_a_gpu
    # The baselines come before what they are compared with, and so have a second line.
    assert len(lines) == len(rungs) + 2
    for name in ("slots", "authors", "exact float32"):
        assert (rungs[name]["top1_agreement"], rungs[name]["regret_nats"]) == (1.0, 0.0)
    # The authors' loop is diffusers' scheduler and its own arithmetic: an independent reference.
    assert rungs["authors"]["spearman"] == pytest.approx(1.0, abs=1e-6)
    assert rungs["authors"]["passes_per_candidate"] == 12
    assert rungs["slots"]["passes_per_candidate"] == 12
    for name, figures in rungs.items():
        wanted = {"candidates_per_s", "passes_per_candidate", "top1_agreement", "recall_top1"}
        assert wanted | {"regret_nats", "occupancy"} <= figures.keys(), name
        assert figures["ratio_vs_authors"] == pytest.approx(
            figures["candidates_per_s"] / rungs["authors"]["candidates_per_s"]
        )
        assert figures["tflop_per_s"] > 0
    hours = result["projection"]["hours"]["exact"]
    assert hours == pytest.approx(35000 / rungs["exact"]["candidates_per_s"] / 3600 * 50 / 6)
    policies = {entry["policy"]: entry for entry in result["curve"]}
    assert policies["exact"]["recall_top1"]["mean"] == 1.0
    # t = 1 alone does not count: three of four leave one step out.
    assert policies["exact"]["passes"] == pytest.approx((4 * 5 + 1) / (4 * 6))
    text = explain(result)
    assert all(name in text for name in rungs)
    plot_ladder(result, tmp_path / "ladder.svg")
    assert "authors" in (tmp_path / "ladder.svg").read_text()


def test_some_rungs_alone_compared_with_the_exact_run_if_that_is_one_of_them(uncompiled):
    result = ladder(SETTING, only=("half", "exact float32", "draft 4"))
    assert list(result["rungs"]) == ["exact float32", "half", "draft 4"]
    assert result["rungs"]["half"]["ratio_vs_authors"] is None
    assert "nan" in explain(result)
    lines = []
    result = ladder(SETTING, lines.append, only=("half",))
    assert result["rungs"]["half"]["top1_agreement"] is None
    assert result["curve"] == []
    assert len(lines) == 1
    with pytest.raises(UserError, match="rung 'fast' is not known: choose from slots, authors"):
        ladder(SETTING, only=("fast",))


def test_a_ladder_goes_on_where_it_was_stopped(uncompiled, tmp_path, monkeypatch):
    """In two processes with one file, the second with the exact run and the pruned one."""
    file = tmp_path / "ladder.jsonl"
    short = SamplerConfig(steps=5, guidance=7.5, convention="reference")
    few = replace(SETTING, slow_prompts=1, candidates=3, slots=3, sampler=short)
    first = ladder(few, only=("authors", "fused"), file=file)["rungs"]
    monkeypatch.setattr(plan, "run_loop", lambda *_: pytest.fail("the authors' loop is known"))
    result = ladder(few, only=("authors", "fused", "halving late", "exact float32"), file=file)
    rungs = result["rungs"]
    assert list(rungs) == ["authors", "exact float32", "fused", "halving late"]
    for name in ("authors", "fused"):
        assert rungs[name]["seconds"] == first[name]["seconds"]
    # What was read is compared as if it had been made just now: to the bit, NaN and all.
    assert rungs["authors"]["top1_agreement"] == 1.0
    assert rungs["authors"]["score_apart"] < 1e-3  # float32 along five steps
    assert 0 < rungs["fused"]["score_apart"] < 1.0
    assert rungs["fused"]["seconds"] > 0
    assert ladder(few, only=("fused",), file=file)["rungs"] == rungs
    with pytest.raises(UserError, match="slots is 3 there and 2 here"):
        ladder(replace(few, slots=2), file=file)


def test_the_exact_run_convolves_in_float32_and_leaves_the_setting_as_it_was(monkeypatch):
    """cuDNN's default is TF32."""
    seen = []

    def run(*_, **__):
        seen.append(torch.backends.cudnn.allow_tf32)

    monkeypatch.setattr(plan, "run_engine", run)
    monkeypatch.setattr(plan, "Prepared", lambda *_, **__: None)
    rungs = plan.Rungs(SETTING)
    for name in ("slots", "exact float32", "half", "fused"):
        rungs.run(name, None)
    assert seen == [False, False, True, True]
    assert torch.backends.cudnn.allow_tf32


def test_scale_makes_ten_times_the_work(shapes_model):
    result = measure_scale(
        shapes_model,
        prompts("train")[:10],
        candidates=1,
        sampler=SamplerConfig(steps=2),
        slots=1,
        backend="eager",
    )
    for case in result.values():
        assert case["ratio"] == pytest.approx(case["seconds"][1] / case["seconds"][0])
        assert case["occupancy"] == 1.0
