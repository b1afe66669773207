"""The denoising loss (MI-Tune, section 4; Ho et al., arXiv 2006.11239, Eq. 14), and a term for the
mutual information of what is trained on (MI-Tune, section 5)."""

import torch
from torch import Tensor

from mitune.diffusion.process import Process, target
from mitune.models.protocol import Conditioning, Denoiser
from mitune.training.batches import MicroBatch


def denoising_loss(model: Denoiser, samples: MicroBatch, process: Process) -> Tensor:
    """Mean squared error of each sample's prediction.

    Args:
        model: the denoiser, with its adapter.
        samples: B samples.
        process: defines z_t and the target; on the samples' device.

    Returns:
        ``[B]`` float32 in any model precision: the mean over each sample's elements.
    """
    noisy, wanted = renoised(samples.latents, samples, process)
    predicted = model(noisy, process.model_t(samples.t), samples.cond)
    return mean_square(predicted.float() - wanted)


def renoised(latents: Tensor, samples: MicroBatch, process: Process) -> tuple[Tensor, Tensor]:
    """z_t of ``latents`` ([B, ...]) with the samples' noise and timesteps, and what should be
    predicted from it, both of the latents' shape."""
    shape = (-1, *(1,) * (latents.dim() - 1))
    levels = process.levels(samples.t)
    columns = (*levels, *target(process.prediction, *levels))
    signal, spread, of_noise, of_clean = (column.float().view(shape) for column in columns)
    noisy = signal * latents + spread * samples.noise
    return noisy, of_noise * samples.noise + of_clean * latents


def mean_square(error: Tensor) -> Tensor:
    """Of each row, ``[B]``."""
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
    noisy, wanted = renoised(samples.latents, samples, process)
    t = process.model_t(samples.t)
    with torch.no_grad():
        empty = model(noisy, t, null).float()
    predicted = model(noisy, t, samples.cond).float()
    kappa = process.mi_weight(samples.t, next(iter(process.conventions))).float()
    return mean_square(predicted - wanted) - weight * kappa * mean_square(predicted - empty)
