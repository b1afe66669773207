"""The ladder in small: the loops agree with each other, and the figures with what was run."""

import pytest
import torch

from mitune.bench import ladder as module
from mitune.bench.ladder import RUNGS, ladder
from mitune.bench.plot import plot_ladder
from mitune.bench.rungs import Setting
from mitune.bench.scale import measure_scale
from mitune.bench.table import explain
from mitune.errors import UserError
from mitune.families.prepared import Prepared
from mitune.generate import SamplerConfig
from mitune.shapes.prompts import prompts

SETTING = Setting(
    prompts=prompts("train")[:2],
    candidates=6,
    sampler=SamplerConfig(steps=10, guidance=7.5, convention="reference"),
    slots=6,
)


@pytest.fixture
def uncompiled(monkeypatch):
    """Compiling is tested elsewhere, and takes a minute."""
    monkeypatch.setattr(
        module, "Prepared", lambda model, backend="eager", **given: Prepared(model, **given)
    )
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)


@pytest.fixture
def whole(uncompiled):
    lines = []
    return ladder(SETTING, lines.append), lines


def test_every_rung_is_there_and_the_float32_ones_choose_alike(whole, tmp_path):
    result, lines = whole
    rungs = result["rungs"]
    assert set(rungs) == {*RUNGS, "draft 5"} - {"captured"}
    assert len(lines) == len(rungs)
    for name in ("slots", "authors", "exact float32"):
        assert (rungs[name]["top1_agreement"], rungs[name]["regret_nats"]) == (1.0, 0.0)
    # The authors' loop is diffusers' scheduler and its own arithmetic: an independent reference.
    assert rungs["authors"]["spearman"] == pytest.approx(1.0, abs=1e-6)
    assert rungs["authors"]["passes_per_candidate"] == 20
    assert rungs["slots"]["passes_per_candidate"] == 20
    for name, figures in rungs.items():
        wanted = {"candidates_per_s", "passes_per_candidate", "top1_agreement", "recall_top1"}
        assert wanted | {"regret_nats", "occupancy"} <= figures.keys(), name
        assert figures["ratio_vs_authors"] == pytest.approx(
            figures["candidates_per_s"] / rungs["authors"]["candidates_per_s"]
        )
        assert figures["tflop_per_s"] > 0
    hours = result["projection"]["hours"]["exact"]
    assert hours == pytest.approx(35000 / rungs["exact"]["candidates_per_s"] / 3600 * 50 / 10)
    policies = {entry["policy"]: entry for entry in result["curve"]}
    assert policies["exact"]["recall_top1"]["mean"] == 1.0
    # t = 1 alone does not count: five of six leave one step out.
    assert policies["exact"]["passes"] == pytest.approx((6 * 9 + 1) / (6 * 10))
    text = explain(result)
    assert all(name in text for name in rungs)
    plot_ladder(result, tmp_path / "ladder.svg")
    assert "authors" in (tmp_path / "ladder.svg").read_text()


def test_some_rungs_alone(uncompiled):
    result = ladder(SETTING, only=("half", "draft 5"))
    assert list(result["rungs"]) == ["exact float32", "half", "draft 5"]
    assert result["rungs"]["half"]["ratio_vs_authors"] is None
    assert "nan" in explain(result)
    with pytest.raises(UserError, match="rung 'fast' is not known: choose from slots, authors"):
        ladder(SETTING, only=("fast",))


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
