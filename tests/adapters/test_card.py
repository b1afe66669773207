"""The model card: true to the run, the same each time, readable by the hub, and its lines run."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from joint_model import predict
from tiny_model import TinyModel, TinySet, config, scramble

from mitune.adapters import adapter
from mitune.adapters.model_card import CARD, WORLDS, card, is_on_hub
from mitune.training.loop import tune
from mitune.worlds import known


def text(out: Path) -> str:
    return (out / CARD).read_text()


def front(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def run(out: Path, name: str = "tiny", **changes: Any) -> Path:
    model = TinyModel()
    model.name = name
    return tune(model, TinySet(), out, config(**changes))


def test_a_finished_run_has_a_card_that_tells_its_settings(tmp_path: Path) -> None:
    out = run(tmp_path, lr=0.00125, t_range=(300, 900), targets=("to_q", "to_k"))
    settings = json.loads((out / "run.json").read_text())["settings"]
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", text(out), re.MULTILINE))
    assert rows["method"] == "dora"
    assert (rows["rank"], rows["alpha"], rows["lr"]) == ("4", "4", "0.00125")
    assert (rows["batch"], rows["iterations"]) == ("8", "6")
    assert rows["t_range"] == "300, 900"
    assert rows["targets"] == "to_q, to_k"
    assert rows["set"] == f"5 pairs, SHA-256 {settings['set']['sha256']}"
    assert rows["set: steps"] == "50"
    assert rows["trained on from"] == "a fresh adapter"
    assert "torch 2." in rows["made with"]
    losses = [json.loads(x)["loss"] for x in (out / "metrics.jsonl").read_text().splitlines()]
    first, last = map(float, rows["loss, first and last step"].split(", "))
    assert (first, last) == pytest.approx((losses[0], losses[-1]), rel=1e-3)


def test_a_killed_run_ends_in_the_same_card(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(done: int, *_: object) -> None:
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        tune(TinyModel(), TinySet(), tmp_path / "a", config(), progress=kill)
    assert not (tmp_path / "a" / CARD).exists()
    run(tmp_path / "a")
    run(tmp_path / "b")
    assert text(tmp_path / "a") == text(tmp_path / "b")
    assert card(tmp_path / "a").decode() == text(tmp_path / "a")


def test_the_front_matter_names_a_base_of_the_hub_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = front(text(run(tmp_path / "hub", "stabilityai/stable-diffusion-2-1-base")))
    assert found == {
        "base_model": "stabilityai/stable-diffusion-2-1-base",
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["mitune", "lora"],
    }
    # A folder may look like a name on the hub, and its place is nobody's business.
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    local = text(run(tmp_path / "local", "models/mine"))
    assert "base_model" not in front(local)
    assert "`mine`" in local
    assert str(tmp_path) not in local


def test_the_name_of_the_model_may_change_between_two_halves(tmp_path: Path) -> None:
    """It is for people; the fingerprint decides."""
    run(tmp_path, "one")
    os.remove(tmp_path / "pytorch_lora_weights.safetensors")
    run(tmp_path, "two")
    assert "`one`" in text(tmp_path)


def test_without_a_run_nothing_is_claimed(tmp_path: Path) -> None:
    for content in (None, "{", '{"format": "mitune-set", "version": 1}', "[]"):
        if content is not None:
            (tmp_path / "run.json").write_text(content)
        found = card(tmp_path, base="a/b").decode()
        assert "Not known" in found
        assert "aligned" not in found
        assert front(found)["base_model"] == "a/b"


def test_the_lines_of_the_card_load_the_adapter(tmp_path: Path, shapes_model: Any) -> None:
    """Run as they stand, with another place of the folder."""
    adapter.attach(shapes_model, config())
    scramble(shapes_model.unet)
    notes = {"fingerprint": shapes_model.fingerprint}
    adapter.save(shapes_model, tmp_path / "a", notes)
    lines = re.findall(r"^    (.+)$", card(tmp_path, base="shapes-v1").decode(), re.MULTILINE)
    code = "\n".join(lines).replace("path/of/this/folder", str(tmp_path / "a"))
    names: dict[str, Any] = {}
    exec(code, names)
    text = shapes_model.encode_prompts(["a red circle"])["encoder_hidden_states"]
    ours = predict(shapes_model.unet, text)
    assert (ours - predict(names["pipeline"].unet, text)).abs().max() < 1e-6


def test_a_run_that_is_moved_keeps_its_card(tmp_path: Path) -> None:
    run(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert card(tmp_path / "b").decode() == text(tmp_path / "b")


def test_the_cards_know_the_embedded_models() -> None:
    assert tuple(known.WORLDS) == WORLDS


@pytest.mark.parametrize(
    ("name", "on_hub"),
    [("a/b", True), ("stabilityai/sd-2.1_x", True), ("./a", False), ("../a", False), ("a", False)],
)
def test_a_path_is_no_name_on_the_hub(name: str, on_hub: bool) -> None:
    assert is_on_hub(name) is on_hub
