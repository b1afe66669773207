"""ComfyUI's file, read with ComfyUI's own arithmetic, re-stated here in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_arithmetic import patched
from safetensors.torch import load_file
from tiny_model import TinyModel
from torch import Tensor
from trained import KINDS, MIXED, NAMES, base_weights, furthest, merged, notes, trained

from mitune.adapters.adapter_file import FILE, digest
from mitune.adapters.export.write import export_adapter


def key_map() -> dict[str, str]:
    """comfy/lora.py ``model_lora_keys_unet``: diffusers' name, every dot an underscore."""
    return {f"lora_unet_{name.replace('.', '_')}": name for name in base_weights()}


def export(tmp_path: Path, **changes: Any) -> dict[str, Tensor]:
    trained(tmp_path / "a", **changes)
    done = export_adapter(TinyModel(), tmp_path / "a", tmp_path / "mine", "comfyui")
    assert done.file == tmp_path / "mine" / "mine.safetensors"
    assert done.error_largest is None
    return load_file(done.file)


@pytest.mark.parametrize("changes", KINDS, ids=NAMES)
def test_comfyui_makes_the_merged_weights_of_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    file, names = export(tmp_path, **changes), key_map()
    expected = merged(tmp_path / "a", changes.get("alpha", 4) / 4)
    assert {names[key.split(".")[0]] for key in file} == expected.keys()
    for key, name in names.items():
        if name in expected:
            base = base_weights()[name]
            assert furthest(base, expected[name]) > 1e-2
            assert furthest(patched(base, file, key), expected[name]) < 1e-6, name


def test_a_renamed_magnitude_is_wrong(tmp_path: Path) -> None:
    """That is why the export is more than names: the same test fails for m itself."""
    file, names = export(tmp_path, targets=MIXED), key_map()
    expected, magnitudes = merged(tmp_path / "a", 1.0), load_file(tmp_path / "a" / FILE)
    for key, name in names.items():
        if name in expected:
            m = magnitudes[f"unet.{name}.lora_magnitude_vector"].flatten()
            base = base_weights()[name]
            naive = {**file, f"{key}.dora_scale": m.view(-1, *(1,) * (base.dim() - 1))}
            assert furthest(patched(base, naive, key), expected[name]) > 1e-2, name


def test_a_convolution_needs_a_scale_of_four_dimensions(tmp_path: Path) -> None:
    file, names = export(tmp_path, targets=("conv1",)), key_map()
    key = next(key.split(".")[0] for key in file)
    base = base_weights()[names[key]]
    assert file[f"{key}.dora_scale"].shape == (base.shape[0], 1, 1, 1)
    file[f"{key}.dora_scale"] = file[f"{key}.dora_scale"].flatten(1)
    with pytest.raises(RuntimeError):
        patched(base, file, key)


def test_half_strength_is_half_the_way_of_the_weights(tmp_path: Path) -> None:
    file, names = export(tmp_path), key_map()
    for key in {key.split(".")[0] for key in file}:
        base, expected = base_weights()[names[key]], merged(tmp_path / "a", 1.0)[names[key]]
        half = patched(base, file, key, strength=0.5)
        assert furthest(half, (base + expected) / 2) < 1e-6


def test_an_output_whose_base_weight_is_zero_is_exact_too(tmp_path: Path) -> None:
    """ComfyUI's eps alone is divided by there."""
    from mitune.adapters.export.formats import comfyui
    from mitune.adapters.export.layers import Layer

    weight, down, up = torch.zeros(3, 5), torch.randn(2, 5), torch.randn(3, 2)
    layer = Layer(
        name="x",
        key="lora_unet_x",
        weight=weight,
        down=down,
        up=up,
        scale=1.0,
        magnitude=torch.ones(3),
    )
    found = patched(weight.double(), comfyui([layer]), "lora_unet_x")
    v = up.double() @ down.double()
    assert furthest(found, v / v.norm(dim=1, keepdim=True)) < 1e-6


def test_the_names_are_those_of_stable_diffusion(tmp_path: Path) -> None:
    """As sd-scripts and ComfyUI's tests have them, and no two layers share one."""
    file = export(tmp_path, targets=("to_out.0", "ff.net.0.proj", "conv_shortcut"))
    block = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
    assert f"{block}_attn1_to_out_0.lora_down.weight" in file
    assert f"{block}_ff_net_0_proj.dora_scale" in file
    assert "lora_unet_up_blocks_0_resnets_0_conv_shortcut.alpha" in file
    assert len(key_map()) == len(base_weights())


def test_the_header_says_what_it_is(tmp_path: Path) -> None:
    export(tmp_path)
    found = notes(tmp_path / "mine" / "mine.safetensors")
    assert found.pop("mitune")
    assert found == {
        "adapter": digest(tmp_path / "a"),
        "fingerprint": TinyModel().fingerprint,
        "format": "comfyui",
        "model": "tiny",
        "run": "the run",
    }
