"""The UNet of an adapted model without its adapter, as the merged gradient runs it."""

import copy
import itertools
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from mitune.adapters import network
from mitune.runtime.mixed_precision import FLOAT32_ENDS, HalfProducts, TrainedProducts
from mitune.runtime.upsampling import fold_upsampling, transposed


def plain_unet(
    adapted: Any, dtype: torch.dtype, *, mixed: bool, fold: bool = False
) -> tuple[Any, dict[str, Any]]:
    """A UNet in which the adapted layers have weights of their own, which have a gradient.

    Args:
        adapted: carries the adapter. Its other tensors are shared, not copied, but where their
            precision or layout changes.
        dtype: of the UNet.
        mixed: let a float32 UNet multiply in bfloat16, its ends excepted.
        fold: upsample within the convolution behind it (``mitune.runtime.upsampling``), where none
            of these is adapted.

    Returns:
        The UNet, and by name the layers in it that are adapted: ``TrainedProducts`` where they
        multiply in half precision. Their weights are not yet merged.
    """
    own = itertools.chain(adapted.parameters(), adapted.buffers())
    unet = copy.deepcopy(adapted, {id(tensor): tensor for tensor in own})
    network.strip(unet)
    names = {n for n, layer in adapted.named_modules() if isinstance(layer, LoraLayer)}
    if fold and not any(name.endswith("upsamplers.0.conv") for name in names):
        before = unet.state_dict()
        for name in fold_upsampling(unet):
            unet.get_parameter(name).data.copy_(transposed(before[name]))
    half = torch.bfloat16 if mixed else dtype
    trained: dict[str, Any] = {}
    for name, layer in list(unet.named_modules()):
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            continue
        whole = half.itemsize > 2 or (mixed and name.startswith(FLOAT32_ENDS))
        if name not in names:
            if mixed and not whole:
                unet.set_submodule(name, HalfProducts(layer, half))
            continue
        if whole:
            # A module of its own already, by the copy; its weight is not.
            layer.weight = nn.Parameter(layer.weight.detach().clone())
            trained[name] = layer
        else:
            trained[name] = TrainedProducts(layer, half, half_output=not mixed)
            unet.set_submodule(name, trained[name])
    return unet, trained
