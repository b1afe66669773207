"""What an optimizer step needs of a model: the gradient of a batch, in the adapter's tensors.

Two ways to the same gradient: through peft's own modules, here, and through the merged weights
(``mitune.training.merged``).
"""

from typing import Protocol

import torch
from torch import Tensor

from mitune.adapters import adapter
from mitune.config.training import TuneConfig
from mitune.models.protocol import LatentModel, with_networks
from mitune.training.batches import MicroBatch
from mitune.training.loss import BatchLoss
from mitune.training.merged import MergedGradient
from mitune.training.shards import Shards


class Gradient(Protocol):
    """Begins with the adapter as it is, adds up micro-batches, and leaves ``.grad`` behind."""

    def begin(self) -> None:
        """A new optimizer step: the adapter has changed."""
        ...

    def add(self, samples: MicroBatch) -> Tensor:
        """Add a micro-batch's share of the gradient of the whole batch's mean loss.

        Returns:
            Its share of the loss, a float32 scalar on the device; nobody waits for it.
        """
        ...

    def finish(self) -> None:
        """Leave the sum in the ``grad`` of the adapter's tensors, float32."""
        ...


class PeftGradient:
    """By autograd through the adapter's own modules, or all of a network's weights; those in shards
    are added up over the processes meanwhile."""

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
    """The way that ``config.gradient`` names, of the adapter that is on the model; autograd's own
    where all weights train, which may be in ``shards``."""
    if config.gradient == "merged" and config.method != "full":
        return MergedGradient(model, config)
    return PeftGradient(model, config, shards)
