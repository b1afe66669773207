"""The study in miniature: what it runs, what it compares, and that it resumes."""

import json

import pytest

from mitune.evaluation import study
from mitune.sets import FineTuningSet


@pytest.mark.usefixtures("quick_preset")
def test_study(tmp_path, capsys):
    small = study.Study(
        out=tmp_path,
        seeds=2,
        prompts=2,
        candidates=3,
        iterations=1,
        test_prompts=2,
        images=1,
        processes=1,  # another would not know the quick preset
        quiet=True,
    )
    result = study.run(small)
    names = {row["model"] for row in result["table"]}
    assert names == {"base", "mi R=1", "random R=1"}
    assert [(v["round"], v["metric"], v["against"]) for v in result["verdicts"]] == [
        (1, metric, against)
        for metric in ("graded", "strict")
        for against in ("base", "random R=1")
    ]
    assert "s.e." in capsys.readouterr().out
    by_mi = FineTuningSet.open(tmp_path / "seed-1" / "mi" / "round-1" / "set")
    control = FineTuningSet.open(tmp_path / "seed-1" / "random" / "round-1" / "set")
    assert (by_mi.settings["seed"], by_mi.rule, control.rule) == (1000, "mi", "random")
    # Everything but selection is equal, and the slots, of which a smaller pool takes fewer.
    own, others = ({**each.settings, "slots": None} for each in (by_mi, control))
    assert own == others
    assert (by_mi.prompts, by_mi.keep) == (control.prompts, control.keep)
    written = json.loads((tmp_path / "study.json").read_text())
    assert written["table"] == result["table"]
    for name in ("ranking.png", "base_and_tuned.png"):
        assert (tmp_path / name).stat().st_size > 1000
    assert study.run(small)["table"] == result["table"]
