"""An adapter that looks long trained, and the weights it stands for, from the equations alone."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from tiny_model import TinyModel, config, scramble
from torch import Tensor

from mitune.adapters import adapter
from mitune.adapters.adapter_file import FILE

# Square and other linear layers, and convolutions of both kernels.
MIXED = ("to_q", "to_k", "proj_in", "ff.net.2", "conv1", "conv_shortcut", "time_emb_proj")
KINDS = [
    {"method": "lora", "alpha": 10.0},
    {"method": "lora", "targets": MIXED},
    {"method": "dora", "alpha": 10.0},
    {"method": "dora", "targets": MIXED},
]
NAMES = ["lora", "lora-mixed", "dora", "dora-mixed"]


def trained(folder: Path, **changes: Any) -> TinyModel:
    """A model that carries the adapter saved in ``folder``."""
    model = TinyModel()
    adapter.attach(model, config(**changes))
    scramble(model.unet)
    notes = {"fingerprint": model.fingerprint, "model": "tiny", "run": "the run"}
    adapter.save(model, folder, notes)
    return model


def base_weights() -> dict[str, Tensor]:
    """W by the layer's name, float64."""
    state = TinyModel().unet.state_dict()
    return {k.removesuffix(".weight"): v.double() for k, v in state.items() if v.dim() > 1}


def merged(folder: Path, scale: float) -> dict[str, Tensor]:
    """W' of the adapted layers in float64: V = W + s B A, or for DoRA m V / ||V||."""
    tensors = {k: v.double() for k, v in load_file(folder / FILE).items()}
    weights = {}
    for name, weight in base_weights().items():
        if (down := tensors.get(f"unet.{name}.lora.down.weight")) is None:
            continue
        up = tensors[f"unet.{name}.lora.up.weight"]
        v = weight + scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)
        if (m := tensors.get(f"unet.{name}.lora_magnitude_vector")) is not None:
            v = v * (m.flatten() / v.flatten(1).norm(dim=1)).view(-1, *(1,) * (v.dim() - 1))
        weights[name] = v
    return weights


def notes(file: Path) -> dict[str, Any]:
    """mitune's entry in the header of a safetensors file."""
    with safe_open(file, framework="pt") as content:
        found: dict[str, Any] = json.loads(content.metadata()["mitune"])
    return found


def loaded(path: Path) -> TinyModel:
    """A model whose UNet plain diffusers gave the LoRA at ``path``."""
    model = TinyModel()
    pipeline = model.plain_pipeline()
    pipeline.load_lora_weights(path)
    model.unet = pipeline.unet
    return model


def furthest(one: Tensor, other: Tensor) -> float:
    """The largest absolute difference."""
    return (one.double() - other.double()).abs().max().item()
