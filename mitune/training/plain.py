"""A copy of an adapted model's denoiser without the adapter modules, for the merged gradient."""

import copy
import itertools
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from mitune.adapters import network
from mitune.models.protocol import LatentModel, denoiser_of
from mitune.runtime.mixed_precision import HalfProducts, TrainedProducts
from mitune.runtime.upsampling import fold_upsampling, transposed


def plain_denoiser(model: LatentModel, *, fold: bool = False) -> tuple[Any, dict[str, Any]]:
    """Copy the denoiser, in the model's precision, with separate trainable weights in the adapted
    layers.

    Args:
        model: the model, with the adapter on it. Its other tensors are shared, and copied only
            where their precision or layout changes.
        fold: fold each upsampling into the convolution after it (``mitune.runtime.upsampling``), if
            none of these convolutions is adapted.

    Returns:
        The network, and its adapted layers by name: ``TrainedProducts`` where they multiply in half
        precision. Their weights are not yet merged.
    """
    adapted, mixed = denoiser_of(model), model.precision == "bf16-mixed"
    own = itertools.chain(adapted.parameters(), adapted.buffers())
    plain = copy.deepcopy(adapted, {id(tensor): tensor for tensor in own})
    network.remove_adapter(plain)
    names = {n for n, layer in adapted.named_modules() if isinstance(layer, LoraLayer)}
    if (
        fold
        and model.passes.folded_upsampling
        and not any(name.endswith("upsamplers.0.conv") for name in names)
    ):
        before = plain.state_dict()
        for name in fold_upsampling(plain):
            plain.get_parameter(name).data.copy_(transposed(before[name]))
    half = torch.bfloat16 if mixed else model.dtype
    trained: dict[str, Any] = {}
    for name, layer in list(plain.named_modules()):
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            continue
        whole = half.itemsize > 2 or (mixed and name.startswith(model.passes.float32))
        if name not in names:
            if mixed and not whole:
                plain.set_submodule(name, HalfProducts(layer, half))
            continue
        if whole:
            # The deep copy made a new module, but it shares its weight with the model.
            layer.weight = nn.Parameter(layer.weight.detach().clone())
            trained[name] = layer
        else:
            trained[name] = TrainedProducts(layer, half, half_output=not mixed)
            plain.set_submodule(name, trained[name])
    return plain, trained
