"""Teach a small denoiser where the things are that a caption names: while it learns, each noun's
cross-attention is drawn to the pixels of its object.

This is the token loss of TokenCompose (Wang et al., CVPR 2024, arXiv 2312.03626): for a noun with
attention A over the positions u, and its object's positions M,

    (1 - sum over M of A_u / sum of A_u)^2.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Named(NamedTuple):
    """What the captions of a batch name, and where it is."""

    nouns: Tensor
    """``[B, I]`` int64, positions of the nouns among the tokens; 0 where there is none."""
    masks: Tensor
    """``[B, I, h, w]`` float32 in [0, 1], the objects of each noun on the grid of the latents."""


@contextmanager
def cross_attention(denoiser: Any) -> Iterator[list[Tensor]]:
    """Record the cross-attention of a UNet of diffusers while the context is open.

    Yields:
        A list that each call extends by the attention of every layer, ``[B, positions, tokens]``
        float32, mean over heads; it is computed from the layer's queries and keys, beside the call.
    """
    maps: list[Tensor] = []
    with ExitStack() as hooks:
        for name, layer in denoiser.named_modules():
            if name.endswith(".attn2"):
                for handle in _record(layer, maps):
                    hooks.callback(handle.remove)
        yield maps


def _record(layer: Any, maps: list[Tensor]) -> list[Any]:
    queries: list[Tensor] = []

    def query(module: Any, given: Any, made: Tensor) -> None:
        queries.append(made)

    def key(module: Any, given: Any, made: Tensor) -> None:
        q, k = (
            x.float().unflatten(2, (layer.heads, -1)).movedim(2, 1) for x in (queries.pop(), made)
        )
        maps.append((layer.scale * q @ k.mT).softmax(dim=-1).mean(dim=1))

    return [layer.to_q.register_forward_hook(query), layer.to_k.register_forward_hook(key)]


def token_loss(maps: list[Tensor], named: Named) -> Tensor:
    """The loss above of attention from ``cross_attention``, mean over layers and over the nouns
    whose object is there; 0 if none is."""
    there = (named.nouns > 0) & (named.masks.amax(dim=(2, 3)) > 0)
    height, width = named.masks.shape[2:]
    losses = []
    for found in maps:
        shrink = round((height * width / found.shape[1]) ** 0.5)
        mask = F.avg_pool2d(named.masks, shrink).flatten(2)
        # [B, I, positions]: how much each position attends to each noun.
        of_noun = found.transpose(1, 2).take_along_dim(named.nouns[..., None], dim=1)
        share = (of_noun * mask).sum(-1) / of_noun.sum(-1)
        losses.append(((1 - share).square() * there).sum() / there.sum().clamp(min=1))
    return torch.stack(losses).mean()
