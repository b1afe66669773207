"""The weights of a network with an adapter merged into them: the same predictions without the
adapter's layers."""

import copy
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import Tensor

from mitune.core.errors import UserError


def merged_weights(unet: Any) -> dict[str, Tensor]:
    """Parameters and buffers, by the plain network's names, with which it predicts what ``unet``
    does.

    The merge is peft's own: W + s B A for LoRA, m (W + s B A) / ||W + s B A|| for DoRA, in the
    adapter's float32 and rounded once to the layer's dtype.

    Args:
        unet: a denoiser or text encoder, with or without an adapter; unchanged.

    Returns:
        The network's own tensors where no adapter is, new ones where one was merged.

    Raises:
        UserError: an adapter that makes weights infinite or NaN.
    """
    weights: dict[str, Tensor] = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in unet.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in unet.named_modules():
        if isinstance(layer, LoraLayer):
            own: Any = copy.deepcopy(layer)
            try:
                own.merge(safe_merge=True)
            except ValueError as error:  # peft raises it for weights that are not finite
                raise UserError(
                    f"the adapter makes the weights of {name} infinite or no numbers: expected an "
                    "adapter whose update fits float32; its alpha or its values are damaged"
                ) from error
            weights[f"{name}.weight"] = own.get_base_layer().weight.detach()
    return weights
