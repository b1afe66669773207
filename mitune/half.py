"""Layers that multiply in half precision between float32 inputs and outputs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLOAT32_ENDS = ("conv_in", "conv_out", "time_embedding")
"""Small layers at both ends of a UNet, through which every element goes: they stay in float32."""


class Pairing:
    """What the layers of one UNet know of the call they are in; its rows of text if these are
    twice the latents, else 0."""

    rows: int = 0


class HalfProducts(nn.Module):
    """A convolution or linear layer that multiplies in ``dtype`` and whose input, bias and output
    are float32; the rows of a pair as (u, c - u), see ``mitune.families.pairs``. Its weight is
    frozen.

    Args:
        layer: whose parameters it takes over; the weight is rounded.
        dtype: bfloat16 or float16.
        pairing: of the UNet it is in; None gives all rows alike, and rounds the bias with them.
        half_output: hand on ``dtype`` instead of float32.
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        dtype: torch.dtype,
        pairing: Pairing | None = None,
        half_output: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
        self.bias = layer.bias
        if pairing is None and layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().to(dtype), requires_grad=False)
        self._dtype = dtype
        self._pairing = pairing
        self._half_output = half_output
        self._convolution: tuple[Any, ...] | None = None
        if isinstance(layer, nn.Conv2d):
            self._convolution = layer.stride, layer.padding, layer.dilation, layer.groups

    def forward(self, x: Tensor) -> Tensor:
        if self._pairing is not None and len(x) == self._pairing.rows:
            # Rows that are a difference have no bias: it is added afterwards, to their sums.
            y = _with_first(self._product(_with_first(x.float(), -1.0)), 1.0)
            if self.bias is not None:
                y = y + (self.bias[:, None, None] if y.dim() == 4 else self.bias)
        else:
            y = self._product(x, None if self.bias is None else self.bias.to(self._dtype))
        return y.to(self._dtype) if self._half_output else y

    def _product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._times(x.to(self._dtype), self.weight, bias)

    def _times(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self._convolution is None:
            return F.linear(x, weight, bias).float()
        return F.conv2d(x, weight, bias, *self._convolution).float()


class TrainedProducts(HalfProducts):
    """The same with a float32 weight that is trained.

    A weight W moves by less than half precision resolves: rounded, it would stay where it was for
    many steps. It is multiplied as W = H + L, both in ``dtype``, H the rounded weight and L what
    rounding left. Gradients are those of H alone, at half precision's error.
    """

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, dtype: torch.dtype, half_output: bool = False
    ) -> None:
        super().__init__(layer, dtype, half_output=half_output)
        self.weight = nn.Parameter(layer.weight.detach().float().clone())

    def _product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        x, high = x.to(self._dtype), self.weight.to(self._dtype)
        low = (self.weight - high).detach().to(self._dtype)
        return self._times(x, high, bias) + self._times(x.detach(), low)


def _with_first(x: Tensor, times: float) -> Tensor:
    """The first half of the rows, and the second with ``times`` the first added to it."""
    first, second = x.chunk(2)
    return torch.cat([first, second + times * first])
