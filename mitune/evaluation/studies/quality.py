"""How good and how various pictures are, whatever they are asked to show, so that alignment that
was bought with collapse can be seen."""

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def features(vae: Any, pictures: Tensor) -> Tensor:
    """What the autoencoder's encoder makes of pictures in its middle, mean over positions.

    Args:
        vae: an AutoencoderKL. It is trained on the world's pictures, and no study trains it.
        pictures: ``[N, 3, h, w]`` float32 in [0, 1].

    Returns:
        ``[N, F]`` float64.
    """
    found: list[Tensor] = []
    middle = vae.encoder.mid_block.register_forward_hook(
        lambda module, given, made: found.append(made.mean(dim=(2, 3)).double().cpu())
    )
    try:
        for part in pictures.split(256):
            vae.encode((part * 2 - 1).to(vae.device, vae.dtype))
    finally:
        middle.remove()
    return torch.cat(found)


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Of the normal distributions with the mean and covariance of two samples of features (Heusel
    et al. 2017, Eq. 6), ``[N, F]`` and ``[M, F]`` float64."""
    a, b = one.T.cov(), other.T.cov()
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    # The trace of the root of a b is that of the root of the symmetric root(a) b root(a).
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    apart = (one.mean(0) - other.mean(0)).square().sum()
    return float(apart + a.trace() + b.trace() - 2 * cross)


def diversity(found: Tensor, each: int) -> Tensor:
    """Mean distance between the features of two pictures of one prompt, ``[P]`` float64; NaN for
    one picture.

    Args:
        found: ``[P * each, F]``, by prompt.
        each: pictures of a prompt.
    """
    pools = found.view(-1, each, found.shape[1])
    distances = torch.cdist(pools, pools)
    return (
        distances.sum(dim=(1, 2)) / (each * (each - 1))
        if each > 1
        else pools.new_full((len(pools),), torch.nan)
    )
