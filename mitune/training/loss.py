"""The denoising loss (MI-Tune, section 4; Ho et al., arXiv 2006.11239, Eq. 14)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mitune.config.training import TuneConfig
from mitune.models.protocol import Denoiser
from mitune.training.batches import MicroBatch, Tunable

Denoise = Callable[[Tensor, Tensor, Any], Tensor]
"""As ``mitune.models.protocol.Denoiser``."""


def noising_table(alphas_cumprod: Tensor) -> Tensor:
    """``[T, 2]`` float32, columns sqrt(abar_t) and sqrt(1 - abar_t), rooted in float64."""
    abar = alphas_cumprod.double()
    return torch.stack([abar.sqrt(), (1 - abar).sqrt()], dim=1).float()


def denoising_loss(model: Denoiser, samples: MicroBatch, table: Tensor, prediction: str) -> Tensor:
    """Mean squared error of each sample's prediction.

    z_t = sqrt(abar) z0 + sqrt(1 - abar) eps; the target is eps, or for v-prediction
    v = sqrt(abar) eps - sqrt(1 - abar) z0 (Salimans and Ho, arXiv 2202.00512).

    Args:
        model: the denoiser, adapter and all.
        samples: B samples.
        table: from ``noising_table``, on the samples' device.
        prediction: "epsilon" or "v_prediction".

    Returns:
        ``[B]`` float32: the mean over the sample's elements, whatever the model's precision.
    """
    shape = (-1, *(1,) * (samples.latents.dim() - 1))
    signal, noise = (column.view(shape) for column in table[samples.t].unbind(1))
    noisy = signal * samples.latents + noise * samples.noise
    target = samples.noise
    if prediction == "v_prediction":
        target = signal * samples.noise - noise * samples.latents
    predicted = model(noisy, samples.t, samples.cond)
    return (predicted.float() - target).square().flatten(1).mean(1)


def loss_weights(alphas_cumprod: Tensor, prediction: str, snr_gamma: float | None) -> Tensor:
    """Of each timestep's loss, ``[T]`` float32: 1; or with ``snr_gamma`` min-SNR's (Hang et al.,
    arXiv 2303.09556, Eq. 5 and its v-prediction form), with SNR = abar / (1 - abar)

        min(SNR, gamma) / SNR   for epsilon,   min(SNR, gamma) / (SNR + 1)   for v.
    """
    abar = alphas_cumprod.double()
    if snr_gamma is None:
        return torch.ones_like(abar).float()
    snr = abar / (1 - abar)
    return (snr.clamp(max=snr_gamma) / (snr if prediction == "epsilon" else snr + 1)).float()


class BatchLoss:
    """What micro-batches add to the mean loss of their whole batch.

    Where the text encoder is trained, their texts are encoded here, in the graph: what was encoded
    before would be another step's.
    """

    def __init__(self, model: Tunable, config: TuneConfig) -> None:
        abar = model.scheduler.alphas_cumprod
        self._prediction = model.prediction
        self._table = noising_table(abar).to(model.device)
        self._weights = loss_weights(abar, model.prediction, config.snr_gamma).to(model.device)
        self._batch = config.batch
        self._embed = None if config.text_encoder_lr is None else model.embed

    def __call__(self, denoise: Denoise, samples: MicroBatch) -> Tensor:
        """Their share, a float32 scalar: over the batch's size, not the micro-batch's, of which the
        last may be smaller."""
        if self._embed is not None:
            samples = replace(samples, cond=self._embed(samples.cond))
        loss = denoising_loss(denoise, samples, self._table, self._prediction)
        weights = self._weights[samples.t]
        if samples.weight is not None:
            weights = weights * samples.weight
        share: Tensor = (loss * weights).sum() / self._batch
        return share
