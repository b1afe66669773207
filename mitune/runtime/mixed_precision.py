"""Layers that multiply in half precision between float32 inputs and outputs."""

import logging
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

logger = logging.getLogger(__name__)

Product = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
"""A layer that multiplies by its weight."""


def multiplies(dtype: torch.dtype) -> bool:
    """Whether this processor has products of a half precision, through oneDNN; on x86-64 bfloat16
    needs AVX512."""
    if not torch.backends.mkldnn.is_available():  # oneDNN, by its former name
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def halves_pay(device: torch.device) -> bool:
    """Whether a model in bfloat16 is faster there than in float32."""
    return device.type != "cpu" or multiplies(torch.bfloat16)


@cache
def tell_if_slow(precision: str, device: torch.device) -> None:
    """Warn, once, where a processor without products of a half precision is asked for them."""
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    if device.type != "cpu" or precision in ("float32", "float64") or multiplies(dtype):
        return
    cost = "is slower than float32" if precision == "bf16-mixed" else "takes 10 times as long"
    logger.warning(
        "this processor cannot multiply %s: precision %s %s; use float32", dtype, precision, cost
    )


class Pairing:
    """What the layers of one network know of the call they are in; its rows of conditioning if
    these are twice the latents, else 0."""

    rows: int = 0

    def tell(self, latents: int, conditioning: int) -> None:
        """The next call has so many rows of each."""
        self.rows = conditioning if conditioning == 2 * latents else 0


class HalfProducts(nn.Module):
    """A convolution or linear layer that multiplies in ``dtype`` and whose input, bias and output
    are float32; the rows of a pair as (u, c - u), see ``mitune.runtime.cfg_batch``. Its weight is
    frozen.

    Args:
        layer: whose parameters it takes over; the weight is rounded.
        dtype: bfloat16 or float16.
        pairing: of the network it is in; None gives all rows alike.
        half_output: hand on ``dtype`` instead of float32.
    """

    def __init__(
        self,
        layer: Product,
        dtype: torch.dtype,
        pairing: Pairing | None = None,
        half_output: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
        self.bias = layer.bias
        self._dtype = dtype
        self._pairing = pairing
        self._half_output = half_output
        self._multiply = _products(layer)
        self._emulates = layer.weight.device.type == "cpu" and not multiplies(dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self._pairing is not None and len(x) == self._pairing.rows:
            y = _with_first(self._product(_with_first(x.float(), -1.0)), 1.0)
        else:
            y = self._product(x)
        if self.bias is not None:  # rows that are a difference have none: after their sum
            y = y + (self.bias[:, None, None] if y.dim() == 4 else self.bias)
        return y.to(self._dtype) if self._half_output else y

    def _product(self, x: Tensor) -> Tensor:
        return self._times(x.to(self._dtype), self.weight)

    def _times(self, x: Tensor, weight: Tensor) -> Tensor:
        if self._emulates:
            # Float32 holds the product of two such numbers exactly: only the order of the sums
            # differs from a processor that multiplies them, and torch's own loops take some 20
            # times as long (docs/processors.md).
            return self._multiply(x.float(), weight.float()).to(self._dtype).float()
        return self._multiply(x, weight).float()


class TrainedProducts(HalfProducts):
    """The same for a float32 weight that is trained, :meth:`take`.

    A weight W moves by less than half precision resolves: rounded, it would stay where it was for
    many steps. It is multiplied as W = H + L, both in ``dtype``, H the rounded weight and L what
    rounding left. ``weight`` is H, and its gradient stands for W's, at half precision's error. Both
    are made outside of what is compiled, where a compiler may leave the rounding out, and L with
    it.
    """

    low: Tensor

    def __init__(self, layer: Product, dtype: torch.dtype, half_output: bool = False) -> None:
        super().__init__(layer, dtype, half_output=half_output)
        # Its own: of a layer in dtype already, the weight above is the layer's.
        self.weight = nn.Parameter(self.weight.detach().clone())
        self.register_buffer("low", torch.zeros_like(self.weight))
        self.take(layer.weight)

    @torch.no_grad()
    def take(self, weight: Tensor) -> None:
        """Have W = ``weight``, in float32 or better."""
        self.weight.copy_(weight)
        self.low.copy_(weight - self.weight)

    def _product(self, x: Tensor) -> Tensor:
        x = x.to(self._dtype)
        return self._times(x, self.weight) + self._times(x.detach(), self.low)


def _products(layer: Product) -> Callable[[Tensor, Tensor], Tensor]:
    """What a layer does with its input and weight."""
    if isinstance(layer, nn.Linear):
        return F.linear
    given = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    if isinstance(layer, nn.Conv2d):
        return partial(F.conv2d, **given)
    return partial(F.conv_transpose2d, **given, output_padding=layer.output_padding)


def _with_first(x: Tensor, times: float) -> Tensor:
    """The first half of the rows, and the second with ``times`` the first added to it."""
    # Of three dimensions or five: torch.compile takes four for a picture and lays the second
    # innermost. Not torch.cat of two halves, between which it chooses element by element.
    halves = x.unflatten(0, (2, -1)) if x.dim() == 4 else x.reshape(2, -1, x.shape[-1])
    of_first = times * torch.arange(2, device=x.device).view(2, *[1] * (halves.dim() - 1))
    return (halves + of_first * halves[:1]).reshape(x.shape)
