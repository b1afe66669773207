"""The command line as a user meets it: results, JSON, and one line for every mistake."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import mitune
from mitune.arguments.spec import options
from mitune.cli import main
from mitune.cli.commands import COMMANDS
from mitune.worlds.shapes.preset import PRESET

SHARE = {"slots": 100, "tick_seconds": 1.0, "step_seconds": 0.1, "share": 0.1}
QUICK = ["--candidates", "3", "--steps", "3", "--slots", "6", "--quiet"]


@pytest.fixture
def prompts(tmp_path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle and a blue square\n\na green square and a red triangle\n")
    return path


def run(*arguments: object) -> None:
    main([str(a) for a in arguments])


def last_json(capsys) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def fails(capsys, *arguments: object) -> str:
    """Exit code 2 and one line on stderr, which is returned."""
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    err = capsys.readouterr().err.strip()
    assert len(err.splitlines()) == 1
    assert err.startswith("mitune: ")
    return err


def test_build_tune_eval(prompts, tmp_path, capsys):
    built = tmp_path / "set"
    run("build", "--prompts", prompts, "--out", built, *QUICK, "--json")
    told = capsys.readouterr()
    summary = json.loads(told.out.splitlines()[-1])
    assert told.err == ""  # nothing of other libraries' either
    assert (summary["candidates"], summary["kept"], summary["complete"]) == (6, 4, True)
    repeat = (built / "command.yaml").read_text()
    run("build", "--config", built / "command.yaml", "--out", tmp_path / "again")
    assert last_json(capsys) == summary | {"path": str(tmp_path / "again")}
    assert (tmp_path / "again" / "command.yaml").read_text() == repeat.replace(
        str(built), str(tmp_path / "again")
    )
    adapter = tmp_path / "adapter"
    tune = ["tune", "--set", built, "--out", adapter, "--iterations", 2, "--batch", 4, "--quiet"]
    run(*tune, "--json")
    assert last_json(capsys) == {"adapter": str(adapter)}
    evaluate = ["eval", "--adapter", adapter, "--limit", 2, "--images", 1, "--steps", 3]
    run(*evaluate, "--seeds", 2, "--out", tmp_path / "eval", "--json")
    table = last_json(capsys)["table"]
    assert {(r["model"], r["metric"]) for r in table} == {
        (m, k) for m in ("base", "tuned") for k in ("mi_nats", "graded", "strict")
    }
    assert all(r["standard_error"] is not None for r in table)
    assert (tmp_path / "eval" / "eval.png").exists()
    for verb, out in (("tune", adapter), ("eval", tmp_path / "eval")):
        assert f"\nverb: {verb}\n" in (out / "command.yaml").read_text()
    run("tune", "--config", adapter / "command.yaml")  # it is finished, and stays so
    assert last_json(capsys) == {"adapter": str(adapter)}
    score = ["build", "--prompts", prompts, "--out", tmp_path / "s2", "--adapter", adapter]
    run(*score, *QUICK, "--json")
    assert last_json(capsys)["score_mean_all"] != summary["score_mean_all"]


def test_align_ends_with_a_table_and_two_pictures(prompts, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["align", "--prompts", prompts, "--out", out, *QUICK, "--iterations", 2, "--batch", 4]
    run(*command, "--images", 1, "--eval-prompts", prompts, "--json")
    printed = capsys.readouterr().out
    assert "base" in printed
    assert "tuned" in printed
    result = json.loads(printed.strip().splitlines()[-1])
    assert Path(result["adapter"], "pytorch_lora_weights.safetensors").is_file()
    for name in ("eval.png", "ranking.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 64
    assert json.loads((out / "eval.json").read_text())["table"] == result["eval"]["table"]
    assert "\nverb: align\n" in (out / "command.yaml").read_text()


def test_score(tmp_path, capsys):
    Image.new("RGB", (64, 64), "gray").save(tmp_path / "a.png")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "b.jpg")
    pictures = [tmp_path / "a.png", tmp_path / "b.jpg"]
    run("score", *pictures, "--prompt", "a red circle", "--draws", 2, "--json")
    scores = last_json(capsys)["scores"]
    assert [s["image"] for s in scores] == [str(p) for p in pictures]
    assert all(isinstance(s["mi_nats"], float) for s in scores)
    same = [pictures[1], pictures[1], "--draws", 2, "--json"]
    run("score", *same, "--prompt", "a red circle")
    one, two = (s["mi_nats"] for s in last_json(capsys)["scores"])
    assert one == two
    run("score", *same, "--prompt", "a red circle", "--map", tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 500
    run("score", *same, "--prompt", "a red circle", "--prompt", "a blue square")
    first, second = last_json(capsys)["scores"]
    assert (first["mi_nats"], second["prompt"]) == (one, "a blue square")
    assert second["mi_nats"] != one
    prompts = ["--prompt", "a"] * 3
    assert "3 prompts for 2 pictures" in fails(capsys, "score", *same, *prompts)


def test_bench_step(capsys, monkeypatch):
    """What it prints, not how fast it is."""

    def once(way, at_least=1.0):
        way()
        return 0.5

    monkeypatch.setattr("mitune.bench.step.median_seconds", once)
    monkeypatch.setattr("mitune.bench.step.measure_share", SHARE.copy)
    run("bench", "step", "--rows", "3", "--elements", "64", "--no-compiled", "--json")
    report = last_json(capsys)
    assert (report["rows"], report["elements"], report["tick"]) == (3, 64, SHARE)
    for name in ("eager", "reference", "cpp"):
        for case in (report[name], report[name]["noise"]):
            assert {"seconds", "ratio_vs_eager", "bandwidth_fraction"} <= case.keys()
    assert "rows is 0: expected at least 1" in fails(capsys, "bench", "step", "--rows", "0")


def test_doctor(capsys):
    run("doctor", "--json")
    report = last_json(capsys)
    assert report["step"]["reference"] is None
    assert report["versions"]["torch"]
    assert set(report["optional"]) == {"xformers", "onnxscript", "tensorrt"}


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("verb", COMMANDS)
def test_help_explains_every_option(verb, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    run(verb, "--help")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) < columns
    text = " ".join(" ".join(lines).split())
    for option in options(COMMANDS[verb]).values():
        flag = option.metavar if option.positional else option.flag
        assert f" {flag} " in text or f" --[no-]{option.flag[2:]} " in text
        assert len(option.words.split()) >= 2, option.name
        assert " ".join(option.words.split()) in text
        assert option.default is not None or option.shown is not None, "its help shows no default"


def test_help_of_the_program_names_every_verb(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run("--help")
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) < 80
    assert all(re.search(rf"^  {verb} +\w", text, re.MULTILINE) for verb in COMMANDS)
    run()
    assert capsys.readouterr().out == text


def test_help_shows_the_presets_numbers(capsys):
    run("build", "--help")
    text = " ".join(capsys.readouterr().out.split())
    (steps,) = re.findall(r"Denoising steps N\. \[default: the model's preset \((.*?)\)\]", text)
    assert steps.startswith("shapes: 25, ")
    assert "StableDiffusion3: 40, " in steps
    assert steps.endswith(", others: 50")
    assert f"shapes: {PRESET.sampler.t_min}, shapes-v1: 400, others: none" in text
    run("real", "--help")  # which cannot rank by trajectory
    text = " ".join(capsys.readouterr().out.split())
    assert "(shapes: standard, shapes-v1: standard, others: orthogonal)" in text


def test_version(capsys):
    run("--version")
    assert capsys.readouterr().out == f"mitune {mitune.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompts", "nowhere.txt"], "nowhere.txt does not exist"),
        (["--prompts", "EMPTY"], "is empty"),
        (["--candidates", "2", "--keep", "3"], "keep"),
        (["--estimator", "magic"], "trajectory, rfmi, orthogonal, standard"),
        (["--size", "832x"], "--size is 832x: expected WIDTHxHEIGHT"),
        (["--size", "32"], "size is given and the model is shapes: expected 64x64"),
        (["--prune", "halving", "--rungs", "25"], "rung '25': expected STEPS:CANDIDATES"),
        (
            ["--prune", "halving", "--confidence", "0.9"],
            "--confidence is given with --prune halving: it belongs to threshold",
        ),
        (
            ["--prune", "draft", "--rungs", "25:20"],
            "--rungs is given with --prune draft: it belongs to halving and threshold",
        ),
        (["--scheduler", "heun"], "ddpm, ddim, euler"),
        (["--device", "tpu"], "cpu, cuda"),
        (["--precision", "int4"], "float32, bfloat16, float16, bf16-mixed"),
        (["--select", "best"], "mi"),
        (["--model", "/nowhere", "--prompts", "GOOD"], "/nowhere"),
        (["--convention", "mine"], "paper, reference"),
        (["--limit", "0"], "limit is 0"),
        (["--adapter", "/nowhere"], "/nowhere"),
        (["--guidance", "nan"], "guidance is nan"),
        (["--steps", "5000"], "steps is 5000"),
        (["--t-min", "2000"], "t_min is 2000"),
        (["--draws", "0"], "draws is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--slots", "0"], "slots is 0"),
    ],
)
def test_mistakes(arguments, words, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "good.txt").write_text("a dog\n")
    files = {"EMPTY": tmp_path / "empty.txt", "GOOD": tmp_path / "good.txt"}
    arguments = [files.get(a, a) for a in arguments]
    assert words in fails(capsys, "build", "--out", tmp_path / "s", "--quiet", *arguments)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--targets", "to_x"], "'to_x' names no layer"),
        (["--rank", "0"], "rank is 0"),
        (["--rounds", "0"], "rounds is 0"),
        (["--eval-prompts", "nowhere.txt"], "nowhere.txt does not exist"),
    ],
)
def test_mistakes_that_matter_late_are_told_first(arguments, words, tmp_path, capsys):
    assert words in fails(capsys, "align", "--out", tmp_path / "r", "--quiet", *arguments)
    assert not (tmp_path / "r").exists()


def test_a_set_with_other_settings(prompts, tmp_path, capsys):
    build = ["build", "--prompts", prompts, "--out", tmp_path / "s", *QUICK]
    run(*build)
    before = (tmp_path / "s" / "command.yaml").read_text()
    assert "guidance" in fails(capsys, *build, "--guidance", "3")
    assert (tmp_path / "s" / "command.yaml").read_text() == before


def test_eval_tells_what_is_wrong_before_it_draws(prompts, tmp_path, capsys):
    (tmp_path / "file").touch()
    command = ["eval", "--prompts", prompts, "--adapter", tmp_path / "none"]
    assert "none is not there" in fails(capsys, *command, "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert "file is a file" in fails(capsys, *command, "--out", tmp_path / "file")
    assert "file is a file" in fails(capsys, *command, "--out", tmp_path / "file" / "x")


def test_a_mistake_is_also_the_last_line_of_json(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run("build", "--prompts", tmp_path / "none", "--out", tmp_path / "s", "--json")
    told = capsys.readouterr()
    assert stop.value.code == 2
    assert [json.loads(line) for line in told.out.splitlines()] == [
        {"error": told.err.removeprefix("mitune: ").strip()}
    ]


def test_a_truncated_set(prompts, tmp_path, capsys):
    build = ["build", "--prompts", prompts, "--out", tmp_path / "s", *QUICK]
    run(*build)
    part = next((tmp_path / "s" / "parts").iterdir())
    part.write_bytes(part.read_bytes()[:500])
    message = fails(capsys, "tune", "--set", tmp_path / "s", "--out", tmp_path / "a")
    assert part.name in message
    assert not (tmp_path / "a").exists()


def test_a_set_of_another_model(prompts, tmp_path, capsys):
    from mitune.worlds.shapes_v1.model import FOLDER

    other = tmp_path / "other"
    shutil.copytree(FOLDER, other)
    import torch
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(other / "unet")
    with torch.no_grad():
        unet.conv_in.bias[0] += 1
    unet.save_pretrained(other / "unet")
    run("build", "--prompts", prompts, "--out", tmp_path / "s", *QUICK)
    message = fails(
        capsys, "tune", "--model", other, "--set", tmp_path / "s", "--out", tmp_path / "a"
    )
    assert "another model" in message
    adapter = tmp_path / "adapter"
    run("tune", "--set", tmp_path / "s", "--out", adapter, "--iterations", 1, "--batch", 2)
    capsys.readouterr()
    message = fails(capsys, "eval", "--model", other, "--prompts", prompts, "--adapter", adapter)
    assert "another model" in message


def test_long_prompts_warn(tmp_path, capsys):
    path = tmp_path / "p.txt"
    long = "a red circle and " * 5 + "a blue square"
    path.write_text(long + "\n")
    run("build", "--prompts", path, "--out", tmp_path / "s", *QUICK)
    assert long in capsys.readouterr().err


def test_a_read_only_folder(prompts, capsys):
    # /proc is read-only for everyone, root too.
    assert "/proc" in fails(capsys, "build", "--prompts", prompts, "--out", "/proc/s", *QUICK)


def test_ctrl_c_says_how_to_go_on(prompts, tmp_path):
    out = tmp_path / "s"
    command = ["build", "--prompts", str(prompts), "--out", str(out), "--candidates", "500"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mitune.cli", *command],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        # Where the tests run in a shell's background, interrupts are ignored, and would stay so.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (out / "run.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "To go on: mitune build" in err
    assert "Traceback" not in err
