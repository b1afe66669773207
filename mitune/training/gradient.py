"""Compute the gradient of a batch with respect to the trained tensors.

There are two ways to the same gradient: through peft's own modules (here), and through the merged
weights (``mitune.training.merged``).
"""

from typing import Protocol

import torch
from torch import Tensor

from mitune.adapters import adapter
from mitune.config.training import TuneConfig
from mitune.models.protocol import LatentModel, with_networks
from mitune.training.batch_loss import BatchLoss
from mitune.training.batches import MicroBatch
from mitune.training.merged import MergedGradient
from mitune.training.shards import Shards


class Gradient(Protocol):
    """Accumulates the gradient of one optimizer step over its micro-batches."""

    def begin(self) -> None:
        """Start a new optimizer step with the current values of the adapter."""
        ...

    def add(self, samples: MicroBatch) -> Tensor:
        """Add a micro-batch's share of the gradient of the whole batch's mean loss.

        Returns:
            Its share of the loss, a float32 scalar on the device; the call does not wait for it.
        """
        ...

    def finish(self) -> None:
        """Store the sum in ``.grad`` of the trained tensors, float32."""
        ...


class PeftGradient:
    """The gradient by autograd through the adapter's own modules, or of all of a network's weights.
    With shards, FSDP sums the gradients over the processes during the backward pass."""

    def __init__(
        self, model: LatentModel, config: TuneConfig, shards: Shards | None = None
    ) -> None:
        self._loss = BatchLoss(model, config)
        self._model, parameters = model, adapter.parameters(model)
        if shards is not None:
            self._model = with_networks(model, {model.denoiser: shards.network})
            parameters = shards.parameters()
        self._parameters = list(parameters.values())

    def begin(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def add(self, samples: MicroBatch) -> Tensor:
        with torch.enable_grad():
            share = self._loss(self._model, samples)
            share.backward()
        return share.detach()

    def finish(self) -> None:
        pass


def gradient_of(model: LatentModel, config: TuneConfig, shards: Shards | None = None) -> Gradient:
    """The gradient that ``config.gradient`` names, for the adapter on the model. With method full
    it is always autograd's own, of all weights; these may be in ``shards``."""
    if config.gradient == "merged" and config.method != "full":
        return MergedGradient(model, config)
    return PeftGradient(model, config, shards)
