"""Teach a small denoiser where the things are that a caption names: while it learns, each noun's
cross-attention is drawn to the pixels of its object.

This is the token loss of TokenCompose (Wang et al., CVPR 2024, arXiv 2312.03626, equation 2): for a
noun with attention A over the positions u, and its object's positions M,

    (1 - sum over M of A_u / sum of A_u)^2.

A denoiser of a few million weights learns from it in thousands of steps which attributes belong to
which object, for which the denoising loss alone takes many times as long on two cores.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor


class Named(NamedTuple):
    """What the captions of a batch name, and where it is."""

    nouns: Tensor
    """``[B, I]`` int64, positions of the nouns among the tokens; 0 where there is none."""
    masks: Tensor
    """``[B, I, h, w]`` float32 in [0, 1], the objects of each noun on the grid of the latents."""


class Grounding:
    """Records the cross-attention of a denoiser's calls, and computes the loss of it.

    Args:
        denoiser: gets the attention processors that record.
    """

    def __init__(self, denoiser: UNet2DConditionModel) -> None:
        self._maps: list[Tensor] = []
        self._denoiser = denoiser
        self._own = dict(denoiser.attn_processors)
        recording = {name: self._record for name in self._own if ".attn2." in name}
        denoiser.set_attn_processor({**self._own, **recording})

    def remove(self) -> None:
        """Give the denoiser its own processors again."""
        self._denoiser.set_attn_processor(self._own)

    def _record(
        self,
        attention: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """An attention processor of diffusers, with the attention computed in the open."""
        query, key, value = (
            attention.head_to_batch_dim(project(states))
            for project, states in (
                (attention.to_q, hidden_states),
                (attention.to_k, encoder_hidden_states),
                (attention.to_v, encoder_hidden_states),
            )
        )
        shares = attention.get_attention_scores(query, key, attention_mask)
        self._maps.append(shares.unflatten(0, (-1, attention.heads)).float().mean(dim=1))
        out: Tensor = attention.to_out[0](attention.batch_to_head_dim(torch.bmm(shares, value)))
        return out

    def loss(self, named: Named) -> Tensor:
        """The token loss of the denoiser's last call, mean over nouns and layers, and over heads
        before; 0 if no noun's object is there. Forgets that call."""
        maps, self._maps = self._maps, []
        there = (named.nouns > 0) & (named.masks.amax(dim=(2, 3)) > 0)
        height, width = named.masks.shape[2:]
        total = torch.zeros(())
        for found in maps:
            shrink = round((height * width / found.shape[1]) ** 0.5)
            mask = F.avg_pool2d(named.masks, shrink).flatten(2)
            # [B, I, positions]: how much each position attends to each noun.
            of_noun = found.transpose(1, 2).take_along_dim(named.nouns[..., None], dim=1)
            share = (of_noun * mask).sum(-1) / of_noun.sum(-1)
            total = total + ((1 - share).square() * there).sum() / there.sum().clamp(min=1)
        return total / max(1, len(maps))
