"""Teach a small denoiser where the things are that a caption names: while it learns, each noun's
cross-attention is drawn to the pixels of its object.

This is the token loss of TokenCompose (Wang et al., CVPR 2024, arXiv 2312.03626): for a noun with
attention A over the positions u, and its object's positions M,

    (1 - sum over M of A_u / sum of A_u)^2.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Named(NamedTuple):
    """What the captions of a batch name, and where it is."""

    nouns: Tensor
    """``[B, I]`` int64, positions of the nouns among the tokens; 0 where there is none."""
    masks: Tensor
    """``[B, I, h, w]`` float32 in [0, 1], the objects of each noun on the grid of the latents."""

    def rows(self, part: slice) -> "Named":
        """Of a part of the batch."""
        return Named(self.nouns[part], self.masks[part])

    @property
    def there(self) -> Tensor:
        """Which nouns' objects are there, ``[B, I]`` bool."""
        return (self.nouns > 0) & (self.masks.amax(dim=(2, 3)) > 0)


def token_loss(maps: list[Tensor], named: Named, count: int | None = None) -> Tensor:
    """The loss above of attention from ``mitune.models.attention_maps``, mean over layers and over
    the nouns whose object is there; 0 if none is. For a part of a batch, ``count`` is the number of
    such nouns in the whole, and the losses of all parts add up to the batch's."""
    there = named.there
    height, width = named.masks.shape[2:]
    losses = []
    for found in maps:
        shrink = round((height * width / found.shape[1]) ** 0.5)
        mask = F.avg_pool2d(named.masks, shrink).flatten(2)
        # [B, I, positions]: how much each position attends to each noun.
        of_noun = found.transpose(1, 2).take_along_dim(named.nouns[..., None], dim=1)
        share = (of_noun * mask).sum(-1) / of_noun.sum(-1)
        whole = there.sum() if count is None else torch.tensor(count)
        losses.append(((1 - share).square() * there).sum() / whole.clamp(min=1))
    return torch.stack(losses).mean()
