"""`mitune export` and `mitune merge` as a user meets them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_model import config, scramble

from mitune.adapters import adapter
from mitune.adapters.adapter_file import FILE
from mitune.adapters.export.write import FORMATS
from mitune.cli import main
from mitune.config.sampling import SamplerConfig
from mitune.methods.build import build_set


@pytest.fixture
def trained(shapes_model: Any, tmp_path: Path) -> Path:
    adapter.attach(shapes_model, config())
    scramble(shapes_model.unet)
    notes = {"fingerprint": shapes_model.fingerprint, "model": "shapes-v1"}
    adapter.save(shapes_model, tmp_path / "a", notes)
    adapter.detach(shapes_model)
    return tmp_path / "a"


def run(*arguments: object) -> None:
    own = () if "--model" in arguments else ("--model", "shapes-v1")
    main([str(argument) for argument in (*arguments, *own)])


def fails(capsys: Any, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    error: str = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert error.startswith("mitune: ")
    return error


@pytest.mark.parametrize("format", FORMATS)
def test_export_tells_what_it_wrote(
    trained: Path, tmp_path: Path, capsys: Any, format: str
) -> None:
    out = tmp_path / "mine"
    run("export", "--adapter", trained, "--format", format, "--out", out, "--json")
    printed = capsys.readouterr().out.strip().splitlines()
    found = json.loads(printed[-1])
    assert (found["format"], found["path"]) == (format, str(out))
    if format == "merged":
        assert found["file"] is None
        assert (out / "model_index.json").is_file()
    else:
        assert Path(found["file"]).is_file()
    assert (out / "README.md").is_file()
    if format == "kohya":
        assert found["rank"] == 8
        assert 0 < found["error_mean"] < found["error_largest"] < 1
        assert f"largest {found['error_largest']:.3g}" in printed[-2]
    else:
        assert found["error_largest"] is None


def test_merge_makes_a_model(trained: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "m"
    run("merge", "--adapter", trained, "--out", out, "--json")
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1]) == {"model": str(out)}
    assert "is not empty" in fails(capsys, "merge", "--adapter", trained, "--out", out)
    # The merged model is another one: the adapter does not fit it.
    message = fails(capsys, "merge", "--model", out, "--adapter", trained, "--out", tmp_path / "n")
    assert "another model" in message
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "lycoris"], "diffusers, comfyui, kohya, merged"),
        (["--format", "comfyui", "--rank", "4"], "kohya alone"),
        (["--format", "kohya", "--rank", "0"], "rank is 0"),
        (["--format", "kohya", "--model", "/nowhere"], "/nowhere"),
    ],
)
def test_mistakes(
    trained: Path, tmp_path: Path, capsys: Any, arguments: list[str], words: str
) -> None:
    out = tmp_path / "b"
    assert words in fails(capsys, "export", "--adapter", trained, "--out", out, *arguments)
    assert not out.exists()


def test_no_adapter(tmp_path: Path, capsys: Any) -> None:
    for verb in (["merge"], ["export", "--format", "kohya"]):
        message = fails(capsys, *verb, "--adapter", tmp_path / "a", "--out", tmp_path / "b")
        assert "is not there" in message


@pytest.mark.parametrize(
    "verb",
    ["score", "build", "tune", "eval", "merge", "diffusers", "kohya"],
)
def test_an_adapter_with_a_nan_is_one_line_in_every_verb(
    shapes_model: Any, trained: Path, tmp_path: Path, capsys: Any, verb: str
) -> None:
    file = trained / FILE
    tensors = load_file(file)
    value = next(iter(tensors.values()))
    value.view(-1)[-1] = float("nan")
    with safe_open(file, framework="pt") as content:
        header = content.metadata()
    save_file(tensors, file, header)
    out = tmp_path / "out"
    given: list[object] = ["--adapter", trained]
    if verb == "score":
        Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
        words = ["score", tmp_path / "a.png", "--prompt", "a red circle", "--draws", 2]
    elif verb == "tune":
        sampler = SamplerConfig(steps=1, t_min=0)
        shapes = {"candidates": 1, "keep": 1, "estimator": "trajectory", "sampler": sampler}
        build_set(shapes_model, ["a red circle"], tmp_path / "set", **shapes)
        words = ["tune", "--set", tmp_path / "set", "--iterations", 1, "--batch", 1, "--out", out]
        given = ["--start", trained]
    elif verb == "build":
        words = ["build", "--candidates", 1, "--keep", 1, "--limit", 1, "--out", out]
    elif verb == "eval":
        words = ["eval", "--limit", 1, "--images", 1, "--steps", 1]
    else:
        words = ["merge"] if verb == "merge" else ["export", "--format", verb]
        words += ["--out", out]
    message = fails(capsys, *words, *given)
    assert f"adapter {file} holds a value in " in message
    assert "not finite" in message
    assert not out.exists()
