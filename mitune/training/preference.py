"""Diffusion-DPO (Wallace et al., CVPR 2024, arXiv 2311.12908) on pairs that mutual information
orders: the best and the worst candidate of a pool."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mitune.core.errors import UserError
from mitune.diffusion.process import Process
from mitune.models.protocol import Denoiser, concat
from mitune.training.batches import MicroBatch
from mitune.training.loss import mean_square, renoised


def preference_loss(
    model: Denoiser, reference: Denoiser, samples: MicroBatch, process: Process, beta: float
) -> Tensor:
    """The loss of each sample (Eq. 14 of the paper):

        -log sigmoid(-beta / 2 ((e_w - r_w) - (e_l - r_l)))

    with e and r the mean squared errors of the model's and the reference's prediction, for the
    preferred picture (w) and the worse one (l), which get the same noise and timestep. beta is that
    of the authors' code, which takes means over elements and the factor 1 / 2.

    Args:
        model: the denoiser, with its adapter.
        reference: the denoiser without it.
        samples: B samples with ``worse``.
        process: defines z_t and the target.
        beta: how far the model may leave the reference; the larger, the less.

    Returns:
        ``[B]`` float32.
    """
    assert samples.worse is not None
    made = [renoised(latents, samples, process) for latents in (samples.latents, samples.worse)]
    noisy, wanted = (torch.cat(each) for each in zip(*made, strict=True))
    t = torch.cat([process.model_t(samples.t)] * 2)
    cond = concat([samples.cond, samples.cond])
    with torch.no_grad():
        fixed = mean_square(reference(noisy, t, cond).float() - wanted)
    better, worse = (mean_square(model(noisy, t, cond).float() - wanted) - fixed).chunk(2)
    return -F.logsigmoid(-0.5 * beta * (better - worse))


def matched(
    pairs: Sequence[tuple[str, Tensor]],
    worse: Sequence[tuple[str, Tensor]] | None,
    beta: float,
) -> list[tuple[str, Tensor]]:
    """For each of ``pairs`` a worse pair of the same prompt, in the order of both sets; a prompt's
    last one also serves the pairs for which there is no other.

    Raises:
        UserError: there are worse pairs without a beta, a beta without them, or a prompt has none.
    """
    if (worse is None) != (beta == 0):
        raise UserError(
            f"dpo_beta is {beta:g} {'without' if worse is None else 'with'} a set of worse "
            "pictures: expected both or neither; give one that `mitune build --select worst` made "
            "of the same prompts, and a beta such as 2000"
        )
    if worse is None:
        return []
    of: dict[str, list[Tensor]] = {}
    for prompt, latent in worse:
        of.setdefault(prompt, []).append(latent)
    used: dict[str, int] = {}
    found = []
    for prompt, _ in pairs:
        if prompt not in of:
            raise UserError(
                f"the set of worse pictures has none of the prompt {prompt!r:.80}: expected one of "
                "the same prompts, built with --select worst"
            )
        place = used.get(prompt, 0)
        used[prompt] = place + 1
        found.append((prompt, of[prompt][min(place, len(of[prompt]) - 1)]))
    return found
