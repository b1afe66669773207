"""Layers that multiply in half precision between float32 inputs and outputs."""

import logging
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

logger = logging.getLogger(__name__)

Product = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
"""Layers that multiply by a weight."""


def multiplies(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies in a half precision, through oneDNN; on x86-64 bfloat16
    needs AVX512."""
    if not torch.backends.mkldnn.is_available():  # oneDNN, by its former name
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def halves_pay(device: torch.device) -> bool:
    """Whether a model is faster in bfloat16 than in float32 on ``device``."""
    return device.type != "cpu" or multiplies(torch.bfloat16)


@cache
def tell_if_slow(precision: str, device: torch.device) -> None:
    """Warn, once, if a half precision is asked for that this processor cannot multiply in."""
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    if device.type != "cpu" or precision in ("float32", "float64") or multiplies(dtype):
        return
    cost = "is slower than float32" if precision == "bf16-mixed" else "takes 10 times as long"
    logger.warning(
        "this processor cannot multiply %s: precision %s %s; use float32", dtype, precision, cost
    )


class Pairing:
    """What the layers of one network know about the current call: its rows of conditioning if these
    are twice the latents, else 0."""

    rows: int = 0

    def tell(self, latents: int, conditioning: int) -> None:
        """Set the numbers of rows of the next call."""
        self.rows = conditioning if conditioning == 2 * latents else 0


class HalfProducts(nn.Module):
    """A convolution or linear layer that multiplies in ``dtype``, with float32 input, bias and
    output. The rows of a pair enter as (u, c - u), see ``mitune.runtime.cfg_batch``. Its weight is
    frozen.

    Args:
        layer: its parameters are taken over; the weight is rounded.
        dtype: bfloat16 or float16.
        pairing: of the network that it is in; None treats all rows alike.
        half_output: return ``dtype`` instead of float32.
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
        if self.bias is not None:  # added to sums only: rows that are a difference have no bias
            y = y + (self.bias[:, None, None] if y.dim() == 4 else self.bias)
        return y.to(self._dtype) if self._half_output else y

    def _product(self, x: Tensor) -> Tensor:
        return self._times(x.to(self._dtype), self.weight)

    def _times(self, x: Tensor, weight: Tensor) -> Tensor:
        if self._emulates:
            # Float32 holds the product of two half-precision numbers exactly. So only the order of
            # the sums differs from a processor that multiplies them, and torch's own loops take
            # some 20 times as long (docs/processors.md).
            return self._multiply(x.float(), weight.float()).to(self._dtype).float()
        return self._multiply(x, weight).float()


class TrainedProducts(HalfProducts):
    """The same for a float32 weight that is trained, and set by :meth:`take`.

    In training a weight W moves by less than half precision resolves: rounded, it would not change
    for many steps. So it is multiplied as W = H + L, both in ``dtype``, where H is the rounded
    weight and L is what rounding left. ``weight`` is H, and its gradient stands for W's, with half
    precision's error. Both are computed outside compiled code, because a compiler may omit the
    rounding, and L with it.
    """

    low: Tensor

    def __init__(self, layer: Product, dtype: torch.dtype, half_output: bool = False) -> None:
        super().__init__(layer, dtype, half_output=half_output)
        # A copy: if the layer is in dtype already, the weight above is the layer's own.
        self.weight = nn.Parameter(self.weight.detach().clone())
        self.register_buffer("low", torch.zeros_like(self.weight))
        self.take(layer.weight)

    @torch.no_grad()
    def take(self, weight: Tensor) -> None:
        """Set W to ``weight``, in float32 or better."""
        self.weight.copy_(weight)
        self.low.copy_(weight - self.weight)

    def _product(self, x: Tensor) -> Tensor:
        x = x.to(self._dtype)
        return self._times(x, self.weight) + self._times(x.detach(), self.low)


def _products(layer: Product) -> Callable[[Tensor, Tensor], Tensor]:
    """The function that a layer applies to its input and weight."""
    if isinstance(layer, nn.Linear):
        return F.linear
    given = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    if isinstance(layer, nn.Conv2d):
        return partial(F.conv2d, **given)
    return partial(F.conv_transpose2d, **given, output_padding=layer.output_padding)


def _with_first(x: Tensor, times: float) -> Tensor:
    """Return the first half of the rows, and the second half with ``times`` the first added."""
    # In three or five dimensions: torch.compile takes four for a picture and makes the second
    # innermost. Not torch.cat of two halves, as that chooses between them element by element.
    halves = x.unflatten(0, (2, -1)) if x.dim() == 4 else x.reshape(2, -1, x.shape[-1])
    of_first = times * torch.arange(2, device=x.device).view(2, *[1] * (halves.dim() - 1))
    return (halves + of_first * halves[:1]).reshape(x.shape)
