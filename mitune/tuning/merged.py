"""The gradient of an adapter by way of the merged weights: merge, accumulate, project.

With V = W + s B A, n the norm of each of its rows (a row is what makes one output) and DoRA's
W' = (m / n) V, a loss that depends on A, B and m through W' alone has, with n taken as a constant
(Liu et al., arXiv 2402.09353, section 4.3) and D the gradient of W',

    dm = rowsum(D * V) / n,   dV = (m / n) D,   dA = s B^T dV,   dB = s dV A^T;

for LoRA m / n is 1. A, B and m change once in an optimizer step. So W' is made once, D is added up
over all micro-batches of the plain UNet, and A, B and m get theirs once: no module of an adapter is
in the way of the hot path, which is that of a UNet without adapter.
"""

import copy
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from mitune.half import FLOAT32_ENDS, HalfProducts, TrainedProducts
from mitune.tuning import network
from mitune.tuning.batches import MicroBatch, Tunable
from mitune.tuning.config import TuneConfig
from mitune.tuning.loss import BatchLoss

_NAME = "default"


class MergedGradient:
    """See above; ``mitune.tuning.gradient.Gradient``.

    Args:
        model: carries the adapter. Its UNet's frozen tensors are shared, not copied, but where
            their precision changes.
        config: batch and snr_gamma are used.

    The products are in the model's precision. In half precision W' is multiplied as the sum of two
    halves, so that no update of the adapter is lost in rounding, and D is added up in float32.
    """

    def __init__(self, model: Tunable, config: TuneConfig) -> None:
        self._loss = BatchLoss(model, config)
        self._unet, self._parts = _plain(
            model.unet, model.dtype, mixed=model.precision == "bf16-mixed"
        )
        # The text encoder is small beside the UNet: its adapter stays in the graph.
        text = model.text_encoder if config.text_encoder_lr is not None else None
        self._text = [] if text is None else list(network.parameters(text).values())
        self._leaves = [*(part.leaf for part in self._parts), *self._text]
        self._dtype = model.dtype
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def begin(self) -> None:
        for part in self._parts:
            part.merge()
        self._sums = [torch.zeros_like(leaf) for leaf in self._leaves]

    def add(self, samples: MicroBatch) -> Tensor:
        with torch.enable_grad():
            share = self._loss(self._denoise, samples)
            gradients = torch.autograd.grad(share, self._leaves)
        torch._foreach_add_(self._sums, list(gradients))
        return share.detach()

    @torch.no_grad()
    def finish(self) -> None:
        count = len(self._parts)
        for part, total in zip(self._parts, self._sums[:count], strict=True):
            part.project(total)
        for tensor, total in zip(self._text, self._sums[count:], strict=True):
            tensor.grad = total
        self._sums = []

    def _denoise(self, z: Tensor, t: Tensor, cond: Any, /) -> Tensor:
        text = cond["encoder_hidden_states"]
        prediction: Tensor = self._unet(
            z.to(self._dtype), t, encoder_hidden_states=text, return_dict=False
        )[0]
        return prediction


@dataclass
class _Part:
    """One adapted layer: its adapter's tensors, and the leaf that stands for W' in the plain
    UNet."""

    layer: Any
    leaf: nn.Parameter

    def merge(self) -> None:
        """W' into the leaf, in float32 and rounded once to the leaf's dtype."""
        direction = self._direction()
        if self._dora:
            direction = self._gain(torch.linalg.vector_norm(direction, dim=1)) * direction
        self.leaf.copy_(direction.view_as(self.leaf))

    def project(self, total: Tensor) -> None:
        """The gradients of A, B and m from that of W', ``total``."""
        scale = self.layer.scaling[_NAME]
        down, up = self.layer.lora_A[_NAME].weight, self.layer.lora_B[_NAME].weight
        rows = total.flatten(1).to(down.dtype)
        if self._dora:
            magnitude = self.layer.lora_magnitude_vector[_NAME].weight
            direction = self._direction()
            norm = torch.linalg.vector_norm(direction, dim=1)
            magnitude.grad = ((rows * direction).sum(1) / norm).view_as(magnitude)
            rows = rows * self._gain(norm)
        down.grad = (scale * up.flatten(1).T @ rows).view_as(down)
        up.grad = (scale * rows @ down.flatten(1).T).view_as(up)

    @property
    def _dora(self) -> bool:
        return _NAME in self.layer.lora_magnitude_vector

    def _direction(self) -> Tensor:
        """V = W + s B A, ``[out, rest]`` in the adapter's dtype."""
        down, up = self.layer.lora_A[_NAME].weight, self.layer.lora_B[_NAME].weight
        weight = self.layer.get_base_layer().weight.to(down.dtype).flatten(1)
        return torch.addmm(weight, up.flatten(1), down.flatten(1), alpha=self.layer.scaling[_NAME])

    def _gain(self, norm: Tensor) -> Tensor:
        """DoRA's m / n, ``[out, 1]``, for n ``[out]``."""
        magnitude: Tensor = self.layer.lora_magnitude_vector[_NAME].weight
        return (magnitude.flatten() / norm)[:, None]


def _plain(adapted: Any, dtype: torch.dtype, *, mixed: bool) -> tuple[Any, list[_Part]]:
    """The UNet without its adapter, and its adapted layers with leaves for weights; other tensors
    are those of ``adapted``. ``dtype`` is the UNet's; ``mixed`` lets it multiply in bfloat16."""
    own = itertools.chain(adapted.parameters(), adapted.buffers())
    unet = copy.deepcopy(adapted, {id(tensor): tensor for tensor in own})
    network.strip(unet)
    layers = {n: layer for n, layer in adapted.named_modules() if isinstance(layer, LoraLayer)}
    half = torch.bfloat16 if mixed else dtype
    parts = []
    for name, layer in list(unet.named_modules()):
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        if name in layers:
            if half.itemsize > 2 or (mixed and name.startswith(FLOAT32_ENDS)):
                # A module of its own already, by the copy; its weight is not.
                layer.weight = nn.Parameter(layer.weight.detach().clone())
                trained: Any = layer
            else:
                trained = TrainedProducts(layer, half, half_output=not mixed)
                unet.set_submodule(name, trained)
            parts.append(_Part(layers[name], trained.weight))
        elif mixed and not name.startswith(FLOAT32_ENDS):
            unet.set_submodule(name, HalfProducts(layer, half))
    return unet, parts
