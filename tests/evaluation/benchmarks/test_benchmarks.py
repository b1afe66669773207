"""Benchmarks: what is drawn and scored, how it goes on, and the files of the official scorers."""

import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from mitune.config.sampling import SamplerConfig
from mitune.config.sets import GenerateConfig
from mitune.core.errors import UserError
from mitune.core.images import as_pictures
from mitune.engine.stream import generate
from mitune.evaluation.benchmarks.agreement import agreement
from mitune.evaluation.benchmarks.run import run_benchmark, table
from mitune.evaluation.benchmarks.suite import PAPER, read_suite
from mitune.methods import picture_files
from mitune.methods.picture_files import file_names

CONFIG = GenerateConfig(
    candidates=2, sampler=SamplerConfig(steps=2, guidance=2.0), seed=5, scored=False
)
COLOURS = ["a red circle and a blue square", "a green square and a red cross"]
COMPLEX = ["A red circle.", "a blue square", "a green cross"]


CALLS: defaultdict[str, list[int]] = defaultdict(list)
"""By metric, how many pictures each call got; of no attribute, as these identify a metric."""


@dataclass
class Fixed:
    """A metric that knows each picture's number."""

    name: str
    step: float
    requires: str = "nothing"

    def score(self, images, prompts, /):
        CALLS[self.name].append(len(images))
        return self.step * torch.arange(len(images), dtype=torch.float64)


@pytest.fixture
def folder(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "color_val.txt").write_text("\n".join(COLOURS))
    (lists / "complex_val.txt").write_text("\n".join(COMPLEX))
    (lists / "complex_val_spatial.txt").write_text("a red circle\n")
    (lists / "complex_val_action.txt").write_text("a blue square\n")
    return lists


def metrics():
    return [Fixed("blip-vqa", 0.1), Fixed("spatial", 0.2), Fixed("clip", 0.3)]


def test_the_lists_of_compbench_are_read_with_their_metrics(folder):
    suite = read_suite(f"t2i-compbench={folder}")
    assert suite.prompts == {"color": COLOURS, "complex": COMPLEX}
    assert suite.metrics["color"] == ("blip-vqa",)
    assert suite.metrics["complex"] == ("blip-vqa", "spatial", "clip")
    assert read_suite(f"t2i-compbench={folder}", 1).prompts["complex"] == COMPLEX[:1]


def test_what_is_no_benchmark_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no list of T2I-CompBench"):
        read_suite(f"t2i-compbench={tmp_path}")
    with pytest.raises(UserError, match="geneval2=FILE"):
        read_suite("geneval2")
    with pytest.raises(UserError, match="none"):
        read_suite(str(tmp_path / "none"))


def test_official_layout_is_read_back_as_the_official_scorers_read_it(
    exact_model, folder, tmp_path
):
    suite = read_suite(f"t2i-compbench={folder}")
    out = tmp_path / "out"
    run_benchmark(exact_model, suite, metrics(), out, CONFIG)
    for category, prompts in suite.prompts.items():
        # As BLIP_vqa.py lists, sorts and parses them.
        names = os.listdir(out / category / "samples")
        names.sort(key=lambda name: int(name.split("_")[-1].split(".")[0]))
        assert [n.split("_")[0] for n in names] == [p for p in prompts for _ in range(2)]
    blip = json.loads((out / "color/annotation_blip/vqa_result.json").read_text())
    expected = ["0.0000", "0.1000", "0.2000", "0.3000"]
    assert blip == [{"question_id": i, "answer": a} for i, a in enumerate(expected)]
    told = (out / "color/annotation_blip/blip_vqa_score.txt").read_text()
    assert float(told.split(":")[1]) == pytest.approx(0.15)
    # As 3_in_1.py computes them from the three files: spatial, action, and all three.
    parts = {
        name: [float(row["answer"]) for row in json.loads((out / "complex" / place).read_text())]
        for name, place in {
            "blip": "annotation_blip/vqa_result.json",
            "spatial": "annotation_obj_detection/vqa_result.json",
            "clip": "annotation_clip/vqa_result.json",
        }.items()
    }
    rows = zip(parts["blip"], parts["spatial"], parts["clip"], strict=True)
    whole = [
        (b + s) / 2 if i < 2 else (b + c) / 2 if i < 4 else (b + s + c) / 3
        for i, (b, s, c) in enumerate(rows)
    ]
    found = json.loads((out / "complex/annotation_3_in_1/vqa_result.json").read_text())
    assert [row["answer"] for row in found] == pytest.approx(whole)


def test_the_pictures_are_the_models_own(exact_model, folder, tmp_path):
    suite = read_suite(f"t2i-compbench={folder}")
    run_benchmark(exact_model, suite, [], tmp_path / "out", CONFIG)
    made = {(c.prompt_index, c.index): c for c in generate(exact_model, COLOURS, CONFIG)}
    for number, name in enumerate(file_names(COLOURS, 2)):
        (expected,) = as_pictures(exact_model.decode(made[divmod(number, 2)].latent[None]))
        drawn = Image.open(tmp_path / "out/color/samples" / name)
        assert drawn.tobytes() == expected.tobytes()


def test_it_goes_on_where_it_stopped(exact_model, folder, tmp_path, monkeypatch):
    suite, out = read_suite(f"t2i-compbench={folder}"), tmp_path / "out"
    run_benchmark(exact_model, suite, metrics(), out, CONFIG)
    lost = out / "color/samples" / file_names(COLOURS, 2)[3]
    content = lost.read_bytes()
    lost.unlink()
    drawn = []
    real = picture_files.generate

    def counted(*args, **options):
        drawn.extend(options["requests"])
        return real(*args, **options)

    monkeypatch.setattr(picture_files, "generate", counted)
    CALLS.clear()
    run_benchmark(exact_model, suite, metrics(), out, CONFIG)
    assert [(r.prompt_index, r.index) for r in drawn] == [(1, 1)]
    assert lost.read_bytes() == content
    assert CALLS == {}


def test_other_settings_are_refused_with_the_difference(exact_model, folder, tmp_path):
    suite, out = read_suite(f"t2i-compbench={folder}"), tmp_path / "out"
    run_benchmark(exact_model, suite, [], out, CONFIG)
    other = GenerateConfig(candidates=3, sampler=CONFIG.sampler, seed=5, scored=False)
    with pytest.raises(UserError, match="with images 2, here it is 3"):
        run_benchmark(exact_model, suite, [], out, other)
    with pytest.raises(UserError, match="with adapter None, here it is abc"):
        run_benchmark(exact_model, suite, [], out, CONFIG, adapter="abc")
    (out / "benchmark.json").write_text("[")
    with pytest.raises(UserError, match=r"benchmark\.json cannot be read"):
        run_benchmark(exact_model, suite, [], out, CONFIG)


def test_a_metric_that_changed_scores_again(exact_model, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\n")
    suite, out = read_suite(str(path)), tmp_path / "out"
    run_benchmark(exact_model, suite, [Fixed("x", 1.0)], out, CONFIG)
    result = run_benchmark(exact_model, suite, [Fixed("x", 3.0)], out, CONFIG)
    assert result["rows"][0]["value"]["mean"] == 1.5


def test_pictures_that_changed_are_scored_again(exact_model, folder, tmp_path):
    suite, out = read_suite(f"t2i-compbench={folder}"), tmp_path / "out"
    run_benchmark(exact_model, suite, metrics(), out, CONFIG)
    first, second = (out / "color/samples" / name for name in file_names(COLOURS, 2)[:2])
    first.write_bytes(second.read_bytes())
    CALLS.clear()
    run_benchmark(exact_model, suite, metrics(), out, CONFIG)
    assert CALLS == {"blip-vqa": [4]}


def test_drawing_alone_leaves_an_earlier_runs_results(exact_model, folder, tmp_path):
    suite, out = read_suite(f"t2i-compbench={folder}"), tmp_path / "out"
    run_benchmark(exact_model, suite, metrics(), out, CONFIG)
    made = (out / "results.json").read_bytes()
    run_benchmark(exact_model, suite, [], out, CONFIG)
    assert (out / "results.json").read_bytes() == made


def test_names_hold_what_file_names_may_not(tmp_path):
    (name,) = file_names(["a_b/c\\d" + "é" * 300], 1)
    assert name.startswith("a b c d")
    assert name.endswith("_000000.png")
    assert name.split("_")[0] + "_000000.png" == name
    (tmp_path / name).write_bytes(b"")


def test_the_table_has_the_papers_numbers():
    value = {"mean": 0.5, "standard_error": 0.01}
    told = table("t2i-compbench", [{"category": "color", "metric": "blip-vqa", "value": value}])
    assert "| color | blip-vqa | 0.500 ± 0.010 | 0.4965 | 0.6157 |" in told
    assert PAPER["MI-Tune"]["complex"] == 53.54


def test_the_command_runs_and_names_what_is_missing(folder, tmp_path, capsys):
    from mitune.cli import main

    given = ["eval", "--bench", f"t2i-compbench={folder}", "--images", "1", "--steps", "2"]
    with pytest.raises(SystemExit, match="2"):
        main([*given, "--out", str(tmp_path / "x"), "--scorers", f"blip-vqa={tmp_path}/none"])
    assert "scorer blip-vqa needs the weights" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    with pytest.raises(SystemExit, match="2"):
        main(given)
    with pytest.raises(SystemExit, match="2"):
        main([*given, "--out", str(tmp_path / "x"), "--seeds", "2"])
    assert "a benchmark has one" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["eval", "--out", str(tmp_path / "x")])
    assert "--adapter is missing" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*given, "--out", str(tmp_path / "x"), "--shard", "0/2"])
    assert "--shard is given without --draw-only" in capsys.readouterr().err
    drawn = [*given, "--out", str(tmp_path / "x"), "--draw-only", "--quiet"]
    main([*drawn, "--shard", "1/2"])
    assert not (tmp_path / "x" / "command.yaml").exists()  # one process leaves it
    main([*drawn, "--shard", "0/2"])
    assert "shard" not in (tmp_path / "x" / "command.yaml").read_text()
    assert len(list(Path(tmp_path / "x").rglob("*.png"))) == 5
    own = tmp_path / "own.txt"
    own.write_text("a red circle\n")
    options = ["--images", "1", "--steps", "2", "--quiet", "--out", str(tmp_path / "y")]
    main(["eval", "--bench", str(own), *options])
    assert "| all | oracle |" in capsys.readouterr().out


def test_metrics_agree_within_prompts_as_counted_by_hand():
    texts = ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    one = torch.tensor([1.0, 2, 3, 1, 2, 3, 1, 2, 3])
    # In order; one of three pairs turned; all alike, which says nothing.
    other = torch.tensor([10.0, 20, 30, 2, 1, 3, 5, 5, 5])
    (row,) = agreement(texts, {"one": one, "other": other})
    assert row["metrics"] == ["one", "other"]
    assert row["prompts"] == 2
    assert row["tau"] == pytest.approx((1 + 1 / 3) / 2)
    assert row["tau_se"] == pytest.approx((1 - 1 / 3) / 2)
