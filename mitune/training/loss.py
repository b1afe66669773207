"""The denoising loss (MI-Tune, section 4; Ho et al., arXiv 2006.11239, Eq. 14), and a term for the
mutual information of what is trained on (MI-Tune, section 5)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mitune.config.training import TuneConfig
from mitune.diffusion.process import Process, target
from mitune.models.protocol import Conditioning, Denoiser, LatentModel, take
from mitune.training.batches import MicroBatch

Denoise = Callable[[Tensor, Tensor, Any], Tensor]
"""The call signature of ``mitune.models.protocol.Denoiser``."""


def denoising_loss(model: Denoiser, samples: MicroBatch, process: Process) -> Tensor:
    """Mean squared error of each sample's prediction.

    Args:
        model: the denoiser, with its adapter.
        samples: B samples.
        process: defines z_t and the target; on the samples' device.

    Returns:
        ``[B]`` float32 in any model precision: the mean over each sample's elements.
    """
    noisy, wanted = _renoised(samples, process)
    predicted = model(noisy, process.model_t(samples.t), samples.cond)
    return _mean_square(predicted.float() - wanted)


def _renoised(samples: MicroBatch, process: Process) -> tuple[Tensor, Tensor]:
    """z_t, and what should be predicted from it, both of the latents' shape."""
    shape = (-1, *(1,) * (samples.latents.dim() - 1))
    levels = process.levels(samples.t)
    columns = (*levels, *target(process.prediction, *levels))
    signal, spread, of_noise, of_clean = (column.float().view(shape) for column in columns)
    noisy = signal * samples.latents + spread * samples.noise
    return noisy, of_noise * samples.noise + of_clean * samples.latents


def _mean_square(error: Tensor) -> Tensor:
    return error.square().flatten(1).mean(1)


def information_loss(
    model: Denoiser, samples: MicroBatch, null: Conditioning, process: Process, weight: float
) -> Tensor:
    """The denoising loss less the mutual information of each sample's pair at its timestep:

        ||f - f_c||^2 - weight kappa_t ||f_c - f_u||^2,    both as means over elements.

    The unconditional prediction f_u is held fixed: else the model could raise the term by
    predicting worse without a prompt.

    Args:
        model, samples, process: as for ``denoising_loss``.
        null: B rows of conditioning of no prompt.
        weight: of the term.

    Returns:
        ``[B]`` float32, which can be negative.
    """
    noisy, wanted = _renoised(samples, process)
    t = process.model_t(samples.t)
    with torch.no_grad():
        empty = model(noisy, t, null).float()
    predicted = model(noisy, t, samples.cond).float()
    kappa = process.mi_weight(samples.t, next(iter(process.conventions))).float()
    return _mean_square(predicted - wanted) - weight * kappa * _mean_square(predicted - empty)


class BatchLoss:
    """Computes the share of a micro-batch in the mean loss of its whole batch.

    If the text encoder is trained, this also encodes the tokens, inside the autograd graph:
    embeddings from before the step would be out of date.
    """

    def __init__(self, model: LatentModel, config: TuneConfig) -> None:
        self._process = model.process.to(model.device)
        self._snr_gamma = config.snr_gamma
        self._batch = config.batch
        self._embed = None if config.text_encoder_lr is None else model.embed
        self._mi_weight = config.mi_weight
        # Tokens where the text encoder is trained, else the conditioning.
        self._null: Conditioning = {}
        if config.mi_weight:
            null = model.encode_null() if self._embed is None else model.tokenize_null()
            self._null = {name: tensor.to(model.device) for name, tensor in null.items()}

    def __call__(self, denoise: Denoise, samples: MicroBatch) -> Tensor:
        """The share of ``samples``, a float32 scalar. It is divided by the size of the batch, not
        by that of the micro-batch, because the last micro-batch may be smaller."""
        if self._embed is not None:
            samples = replace(samples, cond=self._embed(samples.cond))
        loss = self._each(denoise, samples)
        weights = self._process.loss_weight(samples.t, self._snr_gamma).float()
        if samples.weight is not None:
            weights = weights * samples.weight
        share: Tensor = (loss * weights).sum() / self._batch
        return share

    def _each(self, denoise: Denoise, samples: MicroBatch) -> Tensor:
        if not self._mi_weight:
            return denoising_loss(denoise, samples, self._process)
        null = take(self._null, torch.zeros(len(samples.t), dtype=torch.int64))
        if self._embed is not None:
            with torch.no_grad():
                null = self._embed(null)
        return information_loss(denoise, samples, null, self._process, self._mi_weight)
