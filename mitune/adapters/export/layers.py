"""What an adapter does to each layer, in float64: the arithmetic that all export formats start
from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from mitune.adapters import adapter as adapters
from mitune.adapters.names import TEXT_MODEL
from mitune.core.errors import UserError
from mitune.models.protocol import LatentModel


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One adapted layer. A convolution's kernel counts as inputs: in = C h w.

    Attributes:
        name: of the layer in its network, with its dots.
        key: its name in the other program's files; "" if the family has none there.
        weight: W of the base, ``[out, in]`` or ``[out, C, h, w]`` float32.
        down: A, ``[rank, in]`` or ``[rank, C, h, w]``.
        up: B, ``[out, rank]`` or ``[out, rank, 1, 1]``.
        scale: s.
        magnitude: m of DoRA, ``[out]``; None for LoRA.
    """

    name: str
    key: str
    weight: Tensor
    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None

    @property
    def rank(self) -> int:
        """Columns of B."""
        return self.down.shape[0]

    def product(self) -> Tensor:
        """s B A, ``[out, in]`` float64."""
        return self.scale * (self.up.double().flatten(1) @ self.down.double().flatten(1))

    def direction(self) -> Tensor:
        """V = W + s B A, ``[out, in]`` float64."""
        return self.weight.double().flatten(1) + self.product()

    def delta(self) -> Tensor:
        """W' - W, ``[out, in]`` float64, where W' is V for LoRA and m V / ||V|| for DoRA.

        Computed as (m / ||V|| - 1) W + m / ||V|| s B A, because the difference of two float32
        weights would have lost the digits that they share.
        """
        if self.magnitude is None:
            return self.product()
        gain: Tensor = (self.magnitude.double() / self.direction().norm(dim=1)).unsqueeze(1)
        return (gain - 1) * self.weight.double().flatten(1) + gain * self.product()


@contextmanager
def adapted(
    model: LatentModel, adapter: Path | str, format: str = "diffusers"
) -> Iterator[list[Layer]]:
    """The layers of an adapter, which is on the model inside the block and taken off after it.

    Args:
        model: in float32, without an adapter.
        adapter: its folder or file.
        format: whose names of the layers are wanted.

    Raises:
        UserError: a model that is not in float32, or as ``mitune.adapters.adapter.load``.
    """
    if model.dtype != torch.float32:
        raise UserError(
            f"model {model.name} is in {model.precision}: expected float32, as an export is of "
            "the base's own weights; load it with precision float32"
        )
    adapters.load(model, adapter, fingerprint=model.fingerprint)
    prefixes = model.export_prefixes.get(format, {})
    try:
        yield [
            _layer(network, name.removeprefix(TEXT_MODEL), module, prefixes)
            for network, carrier in adapters.carriers(model).items()
            for name, module in carrier.named_modules()
            if isinstance(module, LoraLayer)
        ]
    finally:
        adapters.detach(model)


def _layer(network: str, name: str, module: Any, prefixes: Mapping[str, str]) -> Layer:
    (own,) = module.lora_A  # the name under which peft keeps the one adapter
    magnitude = None
    if own in module.lora_magnitude_vector:
        # peft has [1, out, 1, 1] for convolutions.
        magnitude = module.lora_magnitude_vector[own].weight.detach().flatten()
    return Layer(
        name=name,
        key=prefixes[network] + name.replace(".", "_") if network in prefixes else "",
        weight=module.get_base_layer().weight.detach(),
        down=module.lora_A[own].weight.detach(),
        up=module.lora_B[own].weight.detach(),
        scale=float(module.scaling[own]),
        magnitude=magnitude,
    )
