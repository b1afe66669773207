"""The tensors of ComfyUI's and kohya's files: names, shapes and the values that give the same
weights.

Both name a layer by a prefix for its network (``LatentModel.export_prefixes``) and its name in
diffusers, with an underscore for every dot.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.adapters.export.layers import Layer


@dataclass(frozen=True, kw_only=True)
class Approximation:
    """Plain LoRA tensors, and their relative error in each layer's update: ||D - U|| / ||D|| in
    Frobenius norms, where D is the update and U the part of it that the file holds."""

    tensors: dict[str, Tensor]
    errors: dict[str, float]


def comfyui(layers: Sequence[Layer]) -> dict[str, Tensor]:
    """ComfyUI's tensors, exact at strength 1 for LoRA and DoRA.

    Where ``dora_scale`` has one entry for each output, ComfyUI (comfy/weight_adapter/base.py,
    ``weight_decompose``, since its pull request 7727 of April 2025) divides by the norm of the base
    weight:
        W' = dora_scale (W + s B A) / (||W|| + eps),    eps of float32, in which it patches.
    peft divides by the norm of the sum instead. So dora_scale is not the magnitude m, but
        dora_scale = m (||W|| + eps) / ||W + s B A||,   a norm for each output.
    ComfyUI divides the tensors without reshaping, so dora_scale has as many dimensions as W. At
    strength k ComfyUI uses W + k (W' - W), whereas diffusers scales only B A.

    Args:
        layers: from ``adapted``.

    Returns:
        For each layer ``lora_down.weight`` A, ``lora_up.weight`` B, ``alpha`` s rank, and for DoRA
        ``dora_scale`` ``[out, 1]`` or ``[out, 1, 1, 1]``; all float32.
    """
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        tensors |= _plain(layer.key, layer.down, layer.up, layer.scale * layer.rank)
        if layer.magnitude is not None:
            eps = torch.finfo(torch.float32).eps
            norm = layer.weight.double().flatten(1).norm(dim=1) + eps
            scale = layer.magnitude.double() * norm / layer.direction().norm(dim=1)
            shape = (-1, *(1,) * (layer.weight.dim() - 1))
            tensors[f"{layer.key}.dora_scale"] = scale.view(shape).float()
    return tensors


def kohya(layers: Sequence[Layer], rank: int | None = None) -> Approximation:
    """Plain LoRA: the best approximation of each layer's whole update W' - W with a given rank.

    DoRA's update has full rank, as m rescales every row of W. Its best approximation in the
    Frobenius norm is the truncated singular value decomposition (Eckart and Young). A LoRA's own
    factors are already exact and are kept, unless a smaller rank is asked for.

    Args:
        layers: from ``adapted``.
        rank: of the result, at least 1; limited to the layer's smaller side, where it is exact.
            None: twice the adapter's for DoRA, the adapter's for LoRA.

    Returns:
        The tensors as for ``comfyui`` without dora_scale, and each layer's error by its key.
    """
    tensors: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    alpha = _alpha(layers[0], rank)
    for layer in layers:
        delta = layer.delta()
        if layer.magnitude is None and (rank is None or rank >= layer.rank):
            down, up, scale = layer.down, layer.up, layer.scale
        else:
            down, up = _truncated(layer, delta, rank or 2 * layer.rank)
            scale = 1.0
        # All layers get the same alpha, as diffusers confuses different ones: it looks for those of
        # attention layers under names that it has changed since. The factor is 1 if all layers are
        # alike.
        up = up * (scale * down.shape[0] / alpha)
        tensors |= _plain(layer.key, down, up, alpha)
        held = alpha / down.shape[0] * (up.double().flatten(1) @ down.double().flatten(1))
        size = delta.norm().item()
        errors[layer.key] = (delta - held).norm().item() / size if size else 0.0
    return Approximation(tensors=tensors, errors=errors)


def _alpha(layer: Layer, rank: int | None) -> float:
    if layer.magnitude is None and (rank is None or rank >= layer.rank):
        return layer.scale * layer.rank
    return float(rank or 2 * layer.rank)


def _truncated(layer: Layer, delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Float32 factors (A, B) of the best approximation of ``delta``, shaped like the layer's
    own."""
    left, values, right = torch.linalg.svd(delta.float(), full_matrices=False)
    rank = min(rank, len(values))
    root = values[:rank].sqrt()  # one for each factor, so that neither is tiny in half precision
    down = root.unsqueeze(1) * right[:rank]
    up = left[:, :rank] * root
    return (
        down.view(rank, *layer.weight.shape[1:]),
        up.reshape(-1, rank, *(1,) * (layer.weight.dim() - 2)),
    )


def _plain(key: str, down: Tensor, up: Tensor, alpha: float) -> dict[str, Tensor]:
    return {
        f"{key}.lora_down.weight": down.float(),
        f"{key}.lora_up.weight": up.float(),
        f"{key}.alpha": torch.tensor(alpha, dtype=torch.float32),
    }
