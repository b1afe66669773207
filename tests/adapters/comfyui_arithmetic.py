"""ComfyUI's own arithmetic, re-stated in float64."""

import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps  # ComfyUI patches in float32


def patched(weight: Tensor, file: dict[str, Tensor], key: str, strength: float = 1.0) -> Tensor:
    """What ComfyUI makes of a layer: comfy/lora.py ``load_lora``, comfy/weight_adapter/lora.py
    ``calculate_weight`` and base.py ``weight_decompose``, step by step."""
    up, down = (file[f"{key}.lora_{part}.weight"].double() for part in ("up", "down"))
    alpha = file[f"{key}.alpha"].item() / down.shape[0]
    difference = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    if (scale := file.get(f"{key}.dora_scale")) is None:
        return weight + strength * alpha * difference
    result = weight + alpha * difference
    ones = [1] * (weight.dim() - 1)
    if scale.shape[0] == result.shape[0]:  # an output axis: the norms are the base weight's
        norm = weight.flatten(1).norm(dim=1).reshape(-1, *ones)
    else:  # an input axis: those of the sum
        norm = result.transpose(0, 1).flatten(1).norm(dim=1).reshape(-1, *ones).transpose(0, 1)
    result *= scale.double() / (norm + EPS)  # in place there too: a wrong shape is an error
    return weight + strength * (result - weight)
