"""The ablations in miniature: what is trained, on what, and that they resume."""

import json

import pytest

from mitune.config.training import TuneConfig
from mitune.evaluation import ablation
from mitune.sets import FineTuningSet


def small(what, out):
    return ablation.Ablation(
        what=what,
        out=out,
        seeds=1,
        prompts=2,
        candidates=3,
        iterations=1,
        test_prompts=2,
        images=1,
        processes=1,  # another would not know the quick preset
        quiet=True,
    )


def settings(folder):
    return json.loads((folder / "run.json").read_text())["settings"]


@pytest.mark.usefixtures("quick_preset")
def test_table_8(tmp_path, capsys):
    asked = small("parts", tmp_path)
    result = ablation.run(asked)
    assert list(dict.fromkeys(row["model"] for row in result["table"])) == [
        "base",
        "dora",
        "lora",
        "joint",
        "joint, equal lr",
    ]
    chosen = {
        name: settings(tmp_path / "seed-0" / name)["config"]
        for name in ("dora", "lora", "joint", "joint, equal lr")
    }
    rate = chosen["dora"]["lr"]
    assert [c["method"] for c in chosen.values()] == ["dora", "lora", "dora", "dora"]
    assert [c["text_encoder_lr"] for c in chosen.values()] == [
        None,
        None,
        pytest.approx(rate / 20),
        rate,
    ]
    assert "strict: lora less dora" in capsys.readouterr().out
    assert json.loads((tmp_path / "table.json").read_text())["table"] == result["table"]
    assert ablation.run(asked)["table"] == result["table"]


@pytest.mark.usefixtures("quick_preset")
def test_table_7(tmp_path):
    ablation.run(small("real", tmp_path))
    kept = FineTuningSet.open(tmp_path / "seed-0" / "real-set")
    # Of two prompts with two generated pairs each, nine times as many real ones.
    assert len(kept.selected()) >= 36
    assert kept.candidates == 2 * kept.keep
    for share, count in ((0.25, 1), (0.5, 4), (0.9, 36)):
        found = settings(tmp_path / "seed-0" / f"real {share}")
        assert found["config"]["real_share"] == share
        assert found["real"]["pairs"] == count
    assert "real" not in settings(tmp_path / "seed-0" / "dora")


def test_the_paper_s_own_choice_comes_first():
    for what in ("parts", "real"):
        first, *others = ablation.variants(what, TuneConfig()).values()
        assert first == TuneConfig()
        assert all(other != first for other in others)
