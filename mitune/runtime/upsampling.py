"""Nearest-neighbour upsampling and the 3x3 convolution after it as one transposed convolution.

Of the nine inputs of a convolution on a doubled map, many are equal: 16 products for each pixel of
the small map replace 36. The kernel's entries are sums of the convolution's.
"""

from typing import Any

import torch
from torch import Tensor, nn

_TAPS = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
"""Row r marks the taps of the convolution whose sum is tap r of the transposed convolution.

With x doubled to x', x'[2m] = x'[2m + 1] = x[m], and y[i] = sum of w[k] x'[i + k - 1], the tap
w'[i + 1 - 2m] of x[m] in y[i] is w[2m - i + 1] + w[2m - i + 2], where they exist."""


def fold_upsampling(unet: Any) -> set[str]:
    """Replace every upsampling of a diffusers network by a transposed convolution, in place. Its
    weights must be set afterwards (:func:`transposed`).

    Returns:
        The names of the parameters to set; empty, and nothing is replaced, if for the model's own
        size a map is not always twice the size of the one below it.
    """
    size = unet.config.sample_size
    sides = size if isinstance(size, (tuple, list)) else (size,)
    layers = {
        name: layer
        for name, layer in unet.named_modules()
        if type(layer).__name__ == "Upsample2D" and layer.use_conv and not layer.use_conv_transpose
    }
    if any(side % 2 ** len(layers) for side in sides):
        return set()
    for layer in layers.values():
        given = layer.conv
        folded = nn.ConvTranspose2d(
            given.in_channels,
            given.out_channels,
            kernel_size=4,
            stride=2,
            padding=1,
            bias=given.bias is not None,
            device=given.weight.device,
            dtype=given.weight.dtype,
        )
        folded.bias = given.bias
        layer.conv, layer.use_conv_transpose = folded.requires_grad_(False), True
    return {f"{name}.conv.weight" for name in layers}


def transposed(weight: Tensor) -> Tensor:
    """The kernel ``[in, out, 4, 4]`` that does what upsampling followed by ``weight``
    ``[out, in, 3, 3]`` does, in float32 or better."""
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    taps = _TAPS.to(weight)
    return torch.einsum("rk,sl,oikl->iors", taps, taps, weight)
