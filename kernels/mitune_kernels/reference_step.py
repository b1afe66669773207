"""The solver step in plain torch: every other implementation is compared with it."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from mitune_kernels.reference_noise import normals

CHUNK = 1024
"""Elements of a row that are summed together; part of the definition, as float32 sums depend on
order."""
LANES = 32
"""Partial sums of a chunk: two registers of the widest processors, so that summing needs no memory.
Part of the definition too."""


def row_sum(x: Tensor) -> Tensor:
    """Sum of each row, ``[B, d]`` to ``[B]``, in an order that does not depend on batch, threads or
    device.

    A chunk's elements are added one after the other to 32 lanes. The lanes are folded in half until
    one number is left; then the chunks' numbers are folded in the same way.
    """
    rows, count = x.shape
    chunks = (count + CHUNK - 1) // CHUNK
    x = pad(x, (0, chunks * CHUNK - count)).reshape(rows, chunks, CHUNK // LANES, LANES)
    lanes = torch.zeros_like(x[:, :, 0])
    for group in x.unbind(2):
        lanes = lanes + group
    return _fold(_fold(lanes))


def _fold(x: Tensor) -> Tensor:
    """Sum over the last dimension by adding its halves repeatedly."""
    size = 1 << (x.shape[-1] - 1).bit_length()
    x = pad(x, (0, size - x.shape[-1]))
    while size > 1:
        size //= 2
        x = x[..., :size] + x[..., size:]
    return x[..., 0]


def step(
    eps_uncond: Tensor,
    eps_cond: Tensor,
    z: Tensor,
    score: Tensor,
    index: Tensor,
    key: Tensor,
    table: Tensor,
    guidance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`mitune_kernels.step`; computes in z's dtype, so float64 in gives float64 out."""
    idle, known, at = _rows(index, table)
    # An index outside the table makes its row NaN.
    a, b, sigma, weight, _ = torch.where(known[:, None], table[at], torch.nan).unbind(1)
    a, b, sigma = a[:, None], b[:, None], sigma[:, None]
    now = z.flatten(1)
    uncond = eps_uncond.flatten(1).to(z.dtype)
    delta = eps_cond.flatten(1).to(z.dtype) - uncond
    terms = torch.stack((row_sum(delta * delta), row_sum(uncond * delta)), dim=1)

    moved = a * now + b * (uncond + guidance * delta)
    noisy = moved + sigma * normals(key, index + 1, now.shape[1])
    moved = torch.where(sigma == 0, moved, noisy)
    # Chosen, not multiplied by a mask: the prediction of an idle row may be NaN.
    z_next = torch.empty_like(z).copy_(torch.where(idle[:, None], now, moved).reshape(z.shape))
    score_next = torch.where(idle, score, score + weight * terms[:, 0])
    terms = torch.where(known[:, None], terms, torch.nan)
    return z_next, score_next, torch.where(idle[:, None], 0.0, terms)


def _rows(index: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows are idle, which have an index in the table, and the index clamped to the table."""
    known = (index >= 0) & (index < len(table))
    return index == -1, known, index.clamp(0, len(table) - 1)


def step_out(
    eps_uncond: Tensor,
    eps_cond: Tensor,
    z: Tensor,
    score: Tensor,
    index: Tensor,
    key: Tensor,
    table: Tensor,
    guidance: float,
    z_next: Tensor,
    score_next: Tensor,
    terms: Tensor,
    model_input: Tensor | None,
    index_next: Tensor | None,
    t_next: Tensor | None,
) -> None:
    """See :func:`mitune_kernels.step_out`."""
    idle, known, at = _rows(index, table)
    in_place = z_next.data_ptr() == z.data_ptr()
    results = step(eps_uncond, eps_cond, z, score, index, key, table, guidance)
    following = torch.where(known & (index + 1 < len(table)), index + 1, -1)
    z_next.copy_(results[0])
    score_next.copy_(results[1])
    if terms.dim() == 2:
        terms.copy_(results[2])
    else:
        row = torch.arange(len(at), device=at.device)
        terms[row, at] = torch.where(known[:, None], results[2], terms[row, at])
    if model_input is not None:
        halves = model_input.unflatten(0, (-1, len(z))) if len(z) else model_input[None]
        written = ~idle | (not in_place)
        written = written.view(-1, *[1] * (z.dim() - 1))
        halves.copy_(torch.where(written, results[0].to(model_input.dtype), halves))
    if t_next is not None:
        halves = t_next.view(-1, len(z)) if len(z) else t_next[None]
        halves.copy_(torch.where(following >= 0, table[following.clamp(min=0), 4], halves))
    if index_next is not None:
        index_next.copy_(following)
