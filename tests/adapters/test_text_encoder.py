"""Every form of an adapter that is on the text encoder too."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from joint_model import embeddings, joint_model, pipeline, predict, trained_joint
from safetensors.torch import load_file
from test_comfyui import patched
from trained import furthest, notes

import mitune
from mitune.adapters import adapter
from mitune.adapters.adapter_file import FILE
from mitune.adapters.export.write import export_adapter
from mitune.adapters.merge import merged_weights
from mitune.models.protocol import with_networks

FULL = 10_000


@pytest.mark.parametrize("method", ["dora", "lora"])
def test_comfyui_makes_the_merged_weights_of_both(tmp_path: Path, method: str) -> None:
    """Under the names of comfy/lora.py, ``model_lora_keys_clip``, re-stated here."""
    model = trained_joint(tmp_path / "a", method=method, alpha=10.0)
    done = export_adapter(joint_model(), tmp_path / "a", tmp_path / "mine", "comfyui")
    assert done.file is not None
    file, plain = load_file(done.file), joint_model()
    expected = merged_weights(model.text_encoder)
    keys = {key.split(".")[0] for key in file if key.startswith("lora_te")}
    for block in range(2):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            key = f"lora_te_text_model_encoder_layers_{block}_self_attn_{part}"
            keys.remove(key)
            name = f"encoder.layers.{block}.self_attn.{part}"
            base = plain.text_encoder.get_submodule(name).weight.detach().double()
            assert furthest(base, expected[f"{name}.weight"]) > 1e-2
            assert furthest(patched(base, file, key), expected[f"{name}.weight"]) < 1e-5
    assert not keys
    assert any(key.startswith("lora_unet_") for key in file)
    assert notes(done.file)["format"] == "comfyui"


@pytest.mark.parametrize("method", ["dora", "lora"])
def test_plain_diffusers_reads_kohyas_form_of_both(tmp_path: Path, method: str) -> None:
    """At full rank, where nothing is lost."""
    model = trained_joint(tmp_path / "a", method=method, alpha=10.0)
    done = export_adapter(joint_model(), tmp_path / "a", tmp_path / "b", "kohya", rank=FULL)
    assert done.file is not None
    assert done.error_largest is not None
    assert done.error_largest < 1e-5
    theirs = pipeline()
    theirs.load_lora_weights(done.file)
    ours = embeddings(model)
    assert furthest(ours, embeddings(joint_model())) > 0.1
    # The file's factors are float32. So what plain diffusers makes of them is within what four
    # units in the last place of the weights move it.
    within = furthest(embeddings(nudged(model, 2.0**-22)), ours)
    assert furthest(embeddings(theirs), ours) < within < 1e-3
    assert furthest(predict(theirs.unet, ours), predict(model.unet, ours)) < 1e-5


def nudged(model: Any, by: float) -> Any:
    """The same with the text encoder's weights off by so much, relatively, at random."""
    own = copy.deepcopy(model.text_encoder).double()
    found = with_networks(model, {"text_encoder": own})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in found.text_encoder.parameters():
            tensor *= 1 + by * torch.randn(tensor.shape, generator=generator).double()
    return found


def test_the_error_told_is_over_the_layers_of_both(tmp_path: Path) -> None:
    trained_joint(tmp_path / "a")
    done = export_adapter(joint_model(), tmp_path / "a", tmp_path / "b", "kohya", rank=1)
    assert done.file is not None
    layers = {key.split(".")[0] for key in load_file(done.file)}
    card = (tmp_path / "b" / "README.md").read_text()
    assert f"over {len(layers)} layers" in card
    assert sum(layer.startswith("lora_te_") for layer in layers) == 8


def test_the_diffusers_form_is_the_file_itself(tmp_path: Path) -> None:
    trained_joint(tmp_path / "a")
    done = export_adapter(joint_model(), tmp_path / "a", tmp_path / "b", "diffusers")
    assert done.file is not None
    assert done.file.read_bytes() == (tmp_path / "a" / FILE).read_bytes()


def test_a_merged_folder_has_both(tmp_path: Path) -> None:
    tuned = trained_joint(tmp_path / "a")
    text, model = embeddings(tuned), joint_model()
    before = embeddings(model)
    export_adapter(model, tmp_path / "a", tmp_path / "m", "merged")
    assert torch.equal(embeddings(model), before)
    assert not adapter.attached(model)
    theirs: Any = StableDiffusionPipeline.from_pretrained(tmp_path / "m")
    assert furthest(embeddings(theirs), text) < 1e-5
    assert furthest(predict(theirs.unet, text), predict(tuned.unet, text)) < 1e-5
    for network in (theirs.unet, theirs.text_encoder):
        assert not any("lora" in name for name in network.state_dict())
    ours = mitune.load(tmp_path / "m", device="cpu")
    assert furthest(embeddings(ours), text) < 1e-5
    assert ours.fingerprint != model.fingerprint
    assert "of the text encoder if that was trained" in (tmp_path / "m" / "README.md").read_text()
