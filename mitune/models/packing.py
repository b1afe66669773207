"""Latents as the tokens of a transformer that takes squares of two by two latents."""

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 2
"""Latents along the side of a token."""


def pack(z: Tensor) -> Tensor:
    """``[N, C, H, W]`` to ``[N, H W / 4, 4 C]``, row by row; in a token the channels are outermost,
    as diffusers' ``_pack_latents`` orders them."""
    return F.pixel_unshuffle(z, SIDE).flatten(2).mT


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of :func:`pack`, ``[N, C, height, width]``."""
    return F.pixel_shuffle(tokens.mT.unflatten(2, (height // SIDE, width // SIDE)), SIDE)


def positions(height: int, width: int, device: torch.device) -> Tensor:
    """(0, row, column) of each token, ``[height width, 3]`` float32, of a picture that is so many
    tokens high and wide."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return torch.stack([torch.zeros_like(y), y, x], dim=-1).flatten(0, 1).float()
