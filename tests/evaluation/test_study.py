"""The study in miniature: what it runs, what it compares, and that it resumes."""

import json

from mitune.evaluation import study
from mitune.sets import FineTuningSet


def test_study(tmp_path, capsys):
    small = study.Study(
        out=tmp_path,
        seeds=2,
        prompts=2,
        candidates=3,
        iterations=1,
        test_prompts=2,
        images=1,
        quiet=True,
    )
    result = study.run(small)
    names = {row["model"] for row in result["table"]}
    assert names == {"base", "mi R=1", "random R=1"}
    assert [(v["metric"], v["against"]) for v in result["verdicts"]] == [
        (metric, against) for metric in ("graded", "strict") for against in ("base", "random R=1")
    ]
    assert "s.e." in capsys.readouterr().out
    by_mi = FineTuningSet.open(tmp_path / "seed-1" / "mi" / "round-1" / "set")
    control = FineTuningSet.open(tmp_path / "seed-1" / "random" / "round-1" / "set")
    assert (by_mi.settings["seed"], by_mi.settings["select"]) == (1000, "mi")
    assert control.settings["select"] == "random"
    # Everything but what selection needs is equal.
    for name in ("sampler", "model_fingerprint", "seed", "keep"):
        assert by_mi.settings[name] == control.settings[name]
    written = json.loads((tmp_path / "study.json").read_text())
    assert written["table"] == result["table"]
    for name in ("ranking.png", "base_and_tuned.png"):
        assert (tmp_path / name).stat().st_size > 1000
    assert study.run(small)["table"] == result["table"]
