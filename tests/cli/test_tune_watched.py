"""``mitune tune`` with the options of watching, as a user meets it."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from mitune.cli import main

TRAINED = "a red circle and a blue square"
HELD_OUT = "a green square and a red triangle\na blue circle\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of one prompt, and lists of others."""
    found = tmp_path_factory.mktemp("watched")
    (found / "prompts.txt").write_text(TRAINED + "\n")
    (found / "held_out.txt").write_text(HELD_OUT)
    (found / "both.txt").write_text(TRAINED + "\n" + HELD_OUT)
    build = ["build", "--prompts", str(found / "prompts.txt"), "--out", str(found / "set")]
    main([*build, "--candidates", "2", "--steps", "2", "--slots", "2", "--quiet"])
    return found


def tune(folder: Path, out: Path, *options: object) -> None:
    few = ["--iterations", 4, "--batch", 2, "--rank", 4, "--quiet"]
    main([str(a) for a in ["tune", "--set", folder / "set", "--out", out, *few, *options]])


def test_pictures_the_best_and_the_end(folder: Path, tmp_path: Path) -> None:
    watched = ["--held-out", folder / "held_out.txt", "--held-out-every", 2, "--patience", 1]
    pictures = ["--validation-prompts", TRAINED, "a blue circle", "--validation-steps", 2]
    tune(folder, tmp_path, *watched, "--best", *pictures)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "held_out_mi" in line] == [2, 4]
    for step in (2, 4):
        with Image.open(tmp_path / "samples" / f"step-{step:06d}.png") as image:
            assert image.size[0] > image.size[1]  # four columns, two rows
    recorded = json.loads((tmp_path / "run.json").read_text())["settings"]["held_out"]
    assert {"prompts": 2, "every": 2, "patience": 1, "best": True}.items() <= recorded.items()
    assert recorded["seed"] == 2_000_000
    assert (tmp_path / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--held-out", "nowhere.txt"], "nowhere.txt does not exist"),
        (["--held-out", "BOTH"], f"are trained on, such as {TRAINED!r}"),
        (["--patience", "2"], "patience is asked for without held-out prompts"),
        (["--best"], "best is asked for without held-out prompts"),
        (["--validation-prompts", "a", "a"], "'a' is given twice"),
        (["--validation-prompts"], "--validation-prompts has no value"),
        (["--validation-steps", "0"], "validation_steps is 0"),
        (["--log-to", "paper"], "choose one of tensorboard, wandb"),
        (["--log-to", "wandb"], "pip install 'mitune[wandb]'"),
    ],
)
def test_mistakes(
    options: list[str],
    words: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    given = [folder / "both.txt" if o == "BOTH" else o for o in options]
    with pytest.raises(SystemExit) as stop:
        tune(folder, tmp_path / "run", *given)
    assert stop.value.code == 2
    err = capsys.readouterr().err.strip()
    assert words in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
