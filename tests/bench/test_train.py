"""The trainers in small: they agree with each other, and the figures with what was run."""

from dataclasses import replace

import pytest
import torch

import mitune
from mitune.bench import baselines
from mitune.bench import train as module
from mitune.bench.train import RUNGS, TrainSetting, explain, measure_training
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.runtime.mixed_precision import halves_pay
from mitune.worlds.shapes_v1.prompts import prompts


@pytest.fixture
def setting(monkeypatch):
    """Compiling is tested elsewhere, and takes minutes."""
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    monkeypatch.setattr("mitune.training.program.compile_run", lambda run, device: run)
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return TrainSetting(
        model=mitune.load("shapes-v1", device="cpu"),
        pairs=list(zip(prompts("train")[:4], latents, strict=True)),
        config=TuneConfig(rank=4, alpha=4, batch=4, micro_batch=2, iterations=2),
        steps=1,
        half="bf16-mixed",
    )


def test_every_rung_has_the_same_gradient_within_its_precision(setting):
    lines = []
    result = measure_training(setting, lines.append)
    rungs = result["rungs"]
    assert [*rungs] == [name for name in RUNGS if name != "captured"]  # which wants a GPU
    assert len(lines) == len(rungs)
    for name in ("authors", "peft", "merged", "compiled"):
        assert rungs[name]["max_grad_error"] < 1e-4
        assert rungs[name]["losses"] == pytest.approx(rungs["authors"]["losses"], rel=1e-5)
    for name in ("fair", "ours"):
        # The fair one is in float32 where the processor has no bfloat16.
        exact = name == "fair" and not halves_pay(torch.device("cpu"))
        assert exact or rungs[name]["max_grad_error"] > 1e-5
        assert rungs[name]["max_grad_error"] < 0.5
        assert rungs[name]["losses"] == pytest.approx(rungs["authors"]["losses"], rel=0.02)
    for figures in rungs.values():
        assert {"samples_per_s", "peak_bytes", "max_grad_error"} <= figures.keys()
        assert figures["ratio_vs_fair"] == pytest.approx(
            figures["samples_per_s"] / rungs["fair"]["samples_per_s"]
        )
    hours = result["projection"]["hours"]["ours"]
    assert hours == pytest.approx(120_000 / rungs["ours"]["samples_per_s"] / 3600)
    assert "x authors" in explain(result)


def test_some_rungs_alone(setting):
    result = measure_training(setting, only=["merged"])
    assert list(result["rungs"]) == ["merged"]
    assert result["rungs"]["merged"]["ratio_vs_fair"] is None
    with pytest.raises(UserError, match="rung 'best' is not known"):
        measure_training(setting, only=["best"])


def test_a_run_that_was_stopped_goes_on_and_leaves_the_model_as_it_was(setting, tmp_path):
    file = tmp_path / "train.jsonl"
    before = {name: x.clone() for name, x in setting.model.unet.state_dict().items()}
    first = measure_training(setting, only=["merged"], file=file)["rungs"]
    result = measure_training(replace(setting, exact_samples=0), only=["peft"], file=file)
    rungs = result["rungs"]
    assert list(rungs) == ["peft", "merged"]
    assert rungs["merged"]["samples_per_s"] == first["merged"]["samples_per_s"]
    assert rungs["peft"]["max_grad_error"] is None  # nothing was asked for to compare with
    assert "x authors" in explain(result)
    after = setting.model.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(x, after[name]) for name, x in before.items())


def test_the_authors_take_eight_and_the_fair_one_thirty_two():
    assert baselines.AuthorsTrainer.micro_batch == 8
    assert baselines.FairTrainer.micro_batch == 32
    assert module.PAPER_SAMPLES == 120_000
