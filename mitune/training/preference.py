"""Diffusion-DPO (Wallace et al., CVPR 2024, arXiv 2311.12908) on pairs that mutual information
orders: the best and the worst candidate of a pool."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mitune.config.training import TuneConfig
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
    config: TuneConfig,
    wrong: Mapping[str, str] | None = None,
) -> list[tuple[str, Tensor]]:
    """For each of ``pairs`` a worse pair of the same prompt, in the order of both sets; a prompt's
    last one also serves the pairs for which there is no other.

    Args:
        pairs: (prompt, latent), preferred.
        worse: the others; None for none.
        config: dpo_beta and itm_factor say what they are for.
        wrong: wrong prompts, by the right ones; None for none.

    Raises:
        UserError: there are worse pictures or wrong prompts that the config has no use for, or it
            has one and there are none; a prompt has none.
    """
    given, used = worse is not None or wrong is not None, config.dpo_beta or config.itm_factor
    if given != bool(used) or (config.dpo_beta and worse is None):
        raise UserError(
            f"dpo_beta is {config.dpo_beta:g} and itm_factor {config.itm_factor:g} "
            f"{'with' if given else 'without'} worse pictures or wrong prompts: expected a set "
            "that `mitune build --select worst` made of the same prompts, with a dpo_beta such as "
            "2000 or an itm_factor such as 1 (which also takes wrong prompts), or none of them"
        )
    if wrong is not None and (lacking := [p for p, _ in pairs if p not in wrong]):
        raise UserError(
            f"there is no wrong prompt for {lacking[0]!r:.80}: expected one for each prompt"
        )
    if worse is None:
        return []
    of: dict[str, list[Tensor]] = {}
    for prompt, latent in worse:
        of.setdefault(prompt, []).append(latent)
    taken: dict[str, int] = {}
    found = []
    for prompt, _ in pairs:
        if prompt not in of:
            raise UserError(
                f"the set of worse pictures has none of the prompt {prompt!r:.80}: expected one of "
                "the same prompts, built with --select worst"
            )
        place = taken.get(prompt, 0)
        taken[prompt] = place + 1
        found.append((prompt, of[prompt][min(place, len(of[prompt]) - 1)]))
    return found
