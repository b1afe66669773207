"""What a model is: each part that changes a number refuses a resume by its name, and nothing else
does. Also that sets and runs of earlier versions still open."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from mitune.adapters import adapter
from mitune.cli import main
from mitune.config.sampling import SamplerConfig
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.load import load
from mitune.methods.build import build_set
from mitune.sets import FineTuningSet
from mitune.training.loop import tune
from mitune.worlds.shapes_v1.model import FOLDER

TINY = TuneConfig(rank=2, alpha=2, batch=2, iterations=1)
PROMPTS = ["a red circle", "a blue square"]
QUICK: dict[str, Any] = {
    "candidates": 2,
    "keep": 1,
    "estimator": "trajectory",
    "sampler": SamplerConfig(steps=2, guidance=1.0),
    "slots": 4,
}


def edit(file: str, **changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def shift(part: str, name: str) -> Callable[[Path], object]:
    """One weight moved a little."""

    def change(folder: Path) -> None:
        (path,) = (folder / part).glob("*.safetensors")
        found = load_file(path)
        found[name].view(-1)[0] += 0.5
        save_file(found, path, metadata={"format": "pt"})

    return change


def swap_tokens(folder: Path) -> None:
    path = folder / "tokenizer/tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words["red</w>"], words["blue</w>"] = words["blue</w>"], words["red</w>"]
    path.write_text(json.dumps(content))


SCHEDULER = "scheduler/scheduler_config.json"
CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "prediction": (edit(SCHEDULER, prediction_type="v_prediction"), "scheduler.prediction_type"),
    "solver": (
        edit("model_index.json", scheduler=["diffusers", "DDIMScheduler"]),
        "scheduler.class is 'DDPMScheduler' there and 'DDIMScheduler'",
    ),
    "spacing": (edit(SCHEDULER, timestep_spacing="trailing"), "scheduler.timestep_spacing"),
    "betas": (edit(SCHEDULER, beta_end=0.013), "scheduler.beta_end is 0.012 there and 0.013"),
    "vae's weights": (shift("vae", "decoder.conv_out.bias"), "vae.weights"),
    "vae's scale": (edit("vae/config.json", scaling_factor=0.18215), "vae.scaling_factor"),
    "unet's weights": (shift("unet", "conv_in.bias"), "model_fingerprint"),
    "unet's config": (edit("unet/config.json", norm_eps=1e-3), "unet.norm_eps"),
    "text encoder's config": (edit("text_encoder/config.json", hidden_act="gelu"), "hidden_act"),
    "tokens": (swap_tokens, "tokenizer.vocabulary"),
    "length": (edit("tokenizer/tokenizer_config.json", model_max_length=12), "model_max_length"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A set of the plain model, and an adapter trained on it."""
    folder = tmp_path_factory.mktemp("built")
    model = load(FOLDER, device="cpu")
    found = build_set(model, PROMPTS, folder / "set", **QUICK)
    tune(model, found, folder / "run", TINY)
    return folder


@pytest.mark.parametrize("name", CHANGES)
def test_another_part_is_another_model(built: Path, tmp_path: Path, name: str) -> None:
    change, message = CHANGES[name]
    change(shutil.copytree(FOLDER, tmp_path / "m"))
    model = load(tmp_path / "m", device="cpu")
    before = {path: path.read_bytes() for path in built.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message) as caught:
        build_set(model, PROMPTS, built / "set", **QUICK)
    assert "holds a set built otherwise" in str(caught.value)
    found = FineTuningSet.open(built / "set")
    with pytest.raises(UserError, match="the set was built with another model") as caught:
        tune(model, found, tmp_path / "new", TINY)
    part = message.removeprefix("model_").partition(".")[0]
    if part in model.parts:
        assert f"the {part} differs" in str(caught.value)
    assert not (tmp_path / "new").exists()
    assert before == {path: path.read_bytes() for path in built.rglob("*") if path.is_file()}


def test_an_adapter_belongs_to_the_weights_it_was_trained_on(built: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDER, tmp_path / "m"))
    CHANGES["spacing"][0](folder)
    CHANGES["vae's scale"][0](folder)
    assert adapter.attached(load(folder, adapter=built / "run", device="cpu"))
    CHANGES["unet's weights"][0](folder)
    with pytest.raises(UserError, match="was trained on another model"):
        load(folder, adapter=built / "run", device="cpu")


def test_a_run_goes_on_with_the_same_model_alone(built: Path, tmp_path: Path) -> None:
    """A run is refused by its own record, too: the set may have been built elsewhere."""

    class Anyones:
        def __init__(self) -> None:
            self.settings: dict[str, Any] = {}

        def selected(self) -> Any:
            return FineTuningSet.open(built / "set").selected()

    folder = Path(shutil.copytree(FOLDER, tmp_path / "m"))
    tune(load(folder, device="cpu"), Anyones(), tmp_path / "run", TINY)
    CHANGES["prediction"][0](folder)
    with pytest.raises(UserError, match=r"model\.parts\.scheduler\.prediction_type is 'eps"):
        tune(load(folder, device="cpu"), Anyones(), tmp_path / "run", TINY)


def test_how_a_path_is_spelt_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trailing slash, a relative path, a link, another place: the same set, byte for byte."""
    folder = Path(shutil.copytree(FOLDER, tmp_path / "m"))
    (tmp_path / "p").write_text("\n".join(PROMPTS))
    (tmp_path / "link").symlink_to(folder)

    def build(model: str, out: str) -> bytes:
        words = ["build", "--model", model, "--prompts", str(tmp_path / "p"), "--quiet"]
        words += ["--candidates", "2", "--keep", "1", "--steps", "2", "--guidance", "1"]
        words += ["--estimator", "trajectory", "--t-min", "0", "--out", str(tmp_path / out)]
        main(words)
        return (tmp_path / out / "parts/part-00000.parquet").read_bytes()

    monkeypatch.chdir(tmp_path)
    first = build(str(folder), "s")
    assert FineTuningSet.open(tmp_path / "s").notes == {"model": str(folder)}
    for spelt in (f"{folder}{os.sep}", "m", "./m/../m", "link"):
        (tmp_path / "s/parts/part-00000.parquet").unlink()
        assert build(spelt, "s") == first
    assert build("m", "other") == first


def test_what_rounds_otherwise_does_not_go_on(shapes_model, tmp_path: Path) -> None:
    out = tmp_path / "s"
    build_set(shapes_model, PROMPTS, out, **QUICK)
    settings = FineTuningSet.open(out).settings
    told = {key: settings[key] for key in ("backend", "attention", "slots", "precision")}
    assert told == {"backend": "eager", "attention": "auto", "slots": 4, "precision": "float32"}
    for changes, line in (
        ({"slots": 2}, "slots is 4 there and 2 here"),
        ({"attention": "math"}, "attention is 'auto' there and 'math' here"),
    ):
        with pytest.raises(UserError, match=line):
            build_set(shapes_model, PROMPTS, out, **(QUICK | changes))
    # More slots than candidates are as many slots as candidates.
    build_set(shapes_model, PROMPTS, out, **(QUICK | {"slots": 64}))
    # And of a set without a part nothing is rounded yet: fewer slots, where so many did not fit.
    (out / "parts/part-00000.parquet").unlink()
    assert build_set(shapes_model, PROMPTS, out, **(QUICK | {"slots": 2})).settings["slots"] == 2


def earlier_set(folder: Path) -> None:
    """``folder`` as a version before this one's would have left it before its first part."""
    content = json.loads((folder / "run.json").read_text())
    content["settings"]["model"] = content.pop("notes")["model"]
    for key in ("model_parts", "backend", "attention", "slots"):
        del content["settings"][key]
    (folder / "run.json").write_text(json.dumps(content))
    for part in (folder / "parts").iterdir():
        part.unlink()


def test_a_set_of_an_earlier_version_opens_and_goes_on(shapes_model, tmp_path, capsys) -> None:
    out = tmp_path / "s"
    scores = build_set(shapes_model, PROMPTS, out, **QUICK).table(["score"])
    earlier_set(out)
    found = build_set(shapes_model, PROMPTS, out, **QUICK)
    assert found.complete
    assert found.table(["score"]) == scores
    assert "did not record model_parts, backend, attention, slots" in capsys.readouterr().err
    assert found.settings["model"] == "shapes-v1"
    build_set(shapes_model, PROMPTS, out, **QUICK)
    assert capsys.readouterr().err == ""  # nothing is added: nothing to be told
    tune(shapes_model, found, tmp_path / "run", TINY)
    with pytest.raises(UserError, match="seed is 0 there and 1 here"):
        build_set(shapes_model, PROMPTS, out, **QUICK, seed=1)


def test_a_run_of_an_earlier_version_goes_on(shapes_model, tmp_path: Path) -> None:
    found = build_set(shapes_model, PROMPTS, tmp_path / "s", **QUICK)
    steps = TuneConfig(rank=2, alpha=2, batch=2, iterations=2, checkpoint_every=1)
    tune(shapes_model, found, tmp_path / "whole", steps)
    out = tmp_path / "run"

    def stop(step: int, *_: Any) -> None:
        raise KeyboardInterrupt

    def as_before() -> None:
        content = json.loads((out / "run.json").read_text())
        del content["settings"]["model"]["parts"]
        (out / "run.json").write_text(json.dumps(content))

    # The record is an earlier version's before the first checkpoint is written under its name.
    written = tune.__globals__["manifest"].write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "mitune.training.manifest.write", lambda *given: (written(*given), as_before())
        )
        with pytest.raises(KeyboardInterrupt):
            tune(shapes_model, found, out, steps, progress=stop)
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-000001"]
    tune(shapes_model, found, out, steps)
    file = "pytorch_lora_weights.safetensors"
    ours, theirs = load_file(out / file), load_file(tmp_path / "whole" / file)
    assert all((ours[key] == theirs[key]).all() for key in theirs)
