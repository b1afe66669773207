"""The loss of a batch, from the samples of its micro-batches."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mitune.adapters import adapter
from mitune.config.training import TuneConfig
from mitune.models.protocol import Conditioning, LatentModel, take
from mitune.training.batches import MicroBatch
from mitune.training.loss import denoising_loss, information_loss
from mitune.training.matching import matching_loss
from mitune.training.preference import preference_loss

Denoise = Callable[[Tensor, Tensor, Any], Tensor]
"""The call signature of ``mitune.models.protocol.Denoiser``."""


class BatchLoss:
    """Computes the share of a micro-batch in the mean loss of its whole batch.

    If the text encoder is trained, this also encodes the tokens, inside the autograd graph:
    embeddings from before the step would be out of date.

    Args:
        model: with the adapter on it.
        config: batch, snr_gamma, text_encoder_lr, mi_weight, dpo_beta and itm_factor are used.
    """

    def __init__(self, model: LatentModel, config: TuneConfig) -> None:
        self._process = model.process.to(model.device)
        self._config = config
        self._embed = None if config.text_encoder_lr is None else model.embed
        # Tokens where the text encoder is trained, else the conditioning.
        self._null: Conditioning = {}
        if config.mi_weight:
            null = model.encode_null() if self._embed is None else model.tokenize_null()
            self._null = {name: tensor.to(model.device) for name, tensor in null.items()}
        self._reference = adapter.without_adapter(model) if config.dpo_beta else model

    def __call__(self, denoise: Denoise, samples: MicroBatch) -> Tensor:
        """The share of ``samples``, a float32 scalar. It is divided by the size of the batch, not
        by that of the micro-batch, because the last micro-batch may be smaller."""
        if self._embed is not None:
            samples = replace(samples, cond=self._embed(samples.cond))
        loss = self._each(denoise, samples)
        weights = self._process.loss_weight(samples.t, self._config.snr_gamma).float()
        if samples.weight is not None:
            weights = weights * samples.weight
        share: Tensor = (loss * weights).sum() / self._config.batch
        return share

    def _each(self, denoise: Denoise, samples: MicroBatch) -> Tensor:
        """``[B]``: of each sample."""
        if self._config.dpo_beta:
            beta = self._config.dpo_beta
            return preference_loss(denoise, self._reference, samples, self._process, beta)
        if self._config.itm_factor:
            return matching_loss(denoise, samples, self._process, self._config.itm_factor)
        if self._config.mi_weight:
            null = take(self._null, torch.zeros(len(samples.t), dtype=torch.int64))
            if self._embed is not None:
                with torch.no_grad():
                    null = self._embed(null)
            return information_loss(denoise, samples, null, self._process, self._config.mi_weight)
        return denoising_loss(denoise, samples, self._process)
