"""The denoiser of an adapted model without its adapter, as the merged gradient runs it."""

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
    """A copy of the denoiser in which the adapted layers have weights of their own, which have a
    gradient; in the model's precision.

    Args:
        model: carries the adapter. Its other tensors are shared, not copied, but where their
            precision or layout changes.
        fold: upsample within the convolution behind it (``mitune.runtime.upsampling``), where none
            of these is adapted.

    Returns:
        The network, and by name the layers in it that are adapted: ``TrainedProducts`` where they
        multiply in half precision. Their weights are not yet merged.
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
            # A module of its own already, by the copy; its weight is not.
            layer.weight = nn.Parameter(layer.weight.detach().clone())
            trained[name] = layer
        else:
            trained[name] = TrainedProducts(layer, half, half_output=not mixed)
            plain.set_submodule(name, trained[name])
    return plain, trained
