"""HN-ITM: fine-tuning on image-text matching with hard negatives (Krojer et al., NeurIPS 2023,
"HardNeg-DiffusionITM", arXiv 2305.16397, section 3.3)."""

import torch
from torch import Tensor

from mitune.diffusion.process import Process
from mitune.models.protocol import Denoiser, concat
from mitune.training.batches import MicroBatch
from mitune.training.loss import mean_square, renoised


def matching_loss(model: Denoiser, samples: MicroBatch, process: Process, factor: float) -> Tensor:
    """The denoising loss, less the error with what does not match, as far as it may count:

        e - min(e', factor e),

    where e' is the error under a wrong prompt (``samples.wrong``), of a worse picture under the
    right one (``samples.worse``), or the sum of both such terms; noise and timestep are the same.
    Without the bound the model would unlearn to denoise. The authors' code takes the bound of a
    batch's means; here each sample has its own.

    Args:
        model: the denoiser, with its adapter.
        samples: B samples with negatives of either kind.
        process: defines z_t and the target.
        factor: of the bound.

    Returns:
        ``[B]`` float32.
    """
    noisy, wanted = renoised(samples.latents, samples, process)
    inputs, targets, conds = [noisy], [wanted], [samples.cond]
    if samples.wrong is not None:
        inputs.append(noisy)
        targets.append(wanted)
        conds.append(samples.wrong)
    if samples.worse is not None:
        other, of_other = renoised(samples.worse, samples, process)
        inputs.append(other)
        targets.append(of_other)
        conds.append(samples.cond)
    count = len(inputs)
    t = torch.cat([process.model_t(samples.t)] * count)
    predicted = model(torch.cat(inputs), t, concat(conds)).float()
    right, *errors = mean_square(predicted - torch.cat(targets)).chunk(count)
    bound = factor * right.detach()
    loss: Tensor = right - sum(torch.minimum(error, bound) for error in errors)
    return loss
