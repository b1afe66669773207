"""The denoising loss (MI-Tune, section 4; Ho et al., arXiv 2006.11239, Eq. 14)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from mitune.config.training import TuneConfig
from mitune.diffusion.process import Process, target
from mitune.models.protocol import Denoiser, LatentModel
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
    shape = (-1, *(1,) * (samples.latents.dim() - 1))
    levels = process.levels(samples.t)
    columns = (*levels, *target(process.prediction, *levels))
    signal, spread, of_noise, of_clean = (column.float().view(shape) for column in columns)
    noisy = signal * samples.latents + spread * samples.noise
    wanted = of_noise * samples.noise + of_clean * samples.latents
    predicted = model(noisy, process.model_t(samples.t), samples.cond)
    return (predicted.float() - wanted).square().flatten(1).mean(1)


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

    def __call__(self, denoise: Denoise, samples: MicroBatch) -> Tensor:
        """The share of ``samples``, a float32 scalar. It is divided by the size of the batch, not
        by that of the micro-batch, because the last micro-batch may be smaller."""
        if self._embed is not None:
            samples = replace(samples, cond=self._embed(samples.cond))
        loss = denoising_loss(denoise, samples, self._process)
        weights = self._process.loss_weight(samples.t, self._snr_gamma).float()
        if samples.weight is not None:
            weights = weights * samples.weight
        share: Tensor = (loss * weights).sum() / self._batch
        return share
