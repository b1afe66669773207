"""The denoising loss (MI-Tune, section 4; Ho et al., arXiv 2006.11239, Eq. 14)."""

import torch
from torch import Tensor

from mitune.denoiser import Denoiser
from mitune.tuning.batches import MicroBatch


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
