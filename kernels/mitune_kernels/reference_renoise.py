"""Re-noising of given latents in plain torch, and the score of its predictions."""

import torch
from torch import Tensor

from mitune_kernels.reference_noise import normals
from mitune_kernels.reference_step import row_sum


def renoise(
    z0: Tensor,
    row: Tensor,
    key: Tensor,
    draw: Tensor,
    levels: Tensor,
    dtype: torch.dtype,
    copies: int,
) -> Tensor:
    """See :func:`mitune_kernels.renoise`; computes in z0's dtype."""
    signal, spread, _, _ = levels.split(1, dim=1)
    clean = _rows(z0, row)
    noisy = signal * clean + spread * normals(key, draw, clean.shape[1])
    repeated: Tensor = noisy.to(dtype).repeat(copies, 1)
    return repeated.view(copies * len(row), *z0.shape[1:])


def _rows(z0: Tensor, row: Tensor) -> Tensor:
    """``[B, d]``, the latents that ``row`` names; NaN for a row that is not in z0."""
    known = (row >= 0) & (row < len(z0))
    return torch.where(known[:, None], z0.flatten(1)[row.clamp(0, len(z0) - 1)], torch.nan)


def renoise_score(
    eps_uncond: Tensor,
    eps_cond: Tensor,
    z0: Tensor,
    row: Tensor,
    key: Tensor,
    draw: Tensor,
    levels: Tensor,
) -> Tensor:
    """See :func:`mitune_kernels.renoise_score`; computes in z0's dtype."""
    _, _, of_noise, of_clean = levels.split(1, dim=1)
    clean = _rows(z0, row)
    target = of_noise * normals(key, draw, clean.shape[1]) + of_clean * clean
    uncond = eps_uncond.flatten(1).to(z0.dtype)
    cond = eps_cond.flatten(1).to(z0.dtype)
    delta = cond - uncond
    gap = delta * ((target - uncond) + (target - cond))
    return torch.stack((row_sum(delta * delta), row_sum(gap)), dim=1)
