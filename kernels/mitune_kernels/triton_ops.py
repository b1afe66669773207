"""The operations as Triton kernels, for GPUs; under TRITON_INTERPRET=1 also, slowly, for CPUs."""

from typing import Any

import torch
from torch import Tensor
from triton import cdiv

from mitune_kernels import triton_kernels as kernels

BLOCK = 1024
"""Elements of a row that one program works on at a time; a multiple of 4, the words of a block of
Philox."""
OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": False}
"""Options of every launch. Contraction would round a product and a sum once where the definition of
the noise rounds twice."""
_MOST_ELEMENTS = 2**31 - BLOCK
"""Limit of a row of the step: its elements are counted in 32 bits, which halves the registers."""


def philox(key: Tensor, step: Tensor, count: int) -> Tensor:
    """See :func:`mitune_kernels.philox`."""
    out = step.new_empty((step.shape[0], count))
    _launch_noise(kernels.philox_kernel, key, step, out)
    return out


def normal(key: Tensor, step: Tensor, count: int) -> Tensor:
    """See :func:`mitune_kernels.normal`, with rows flat."""
    out = step.new_empty((step.shape[0], count), dtype=torch.float32)
    _launch_noise(kernels.normal_kernel, key, step, out)
    return out


def _launch_noise(kernel: Any, key: Tensor, step: Tensor, out: Tensor) -> None:
    rows, count = out.shape
    if out.numel() > 0:
        grid = (rows, _blocks(count))
        with torch.cuda.device_of(out):
            kernel[grid](key, step, out, count, BLOCK=BLOCK, **OPTIONS)


def _blocks(count: int) -> int:
    """The number of programs for a row; a grid has at most 65535 of them in this dimension."""
    blocks: int = cdiv(count, BLOCK)
    if blocks > 65535:
        raise ValueError(f"got rows of {count} elements, expected at most {65535 * BLOCK}")
    return blocks


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
    rows = z.shape[0]
    if rows == 0:
        return
    count = _count(z)
    with torch.cuda.device_of(z):
        kernels.step_kernel[(rows,)](
            eps_uncond,
            eps_cond,
            z,
            score,
            index,
            key,
            table,
            z_next,
            score_next,
            terms,
            # If a buffer is left out, a pointer that is never dereferenced.
            z_next if model_input is None else model_input,
            index if index_next is None else index_next,
            score_next if t_next is None else t_next,
            guidance,
            rows,
            len(table),
            count,
            z.shape[1],
            LAST_UNCOND=not eps_uncond.is_contiguous(),
            LAST_COND=not eps_cond.is_contiguous(),
            LAST_Z=not z.is_contiguous(),
            LAST_NEXT=not z_next.is_contiguous(),
            LAST_INPUT=model_input is not None and not model_input.is_contiguous(),
            IN_PLACE=z_next.data_ptr() == z.data_ptr(),
            HISTORY=terms.dim() == 3,
            COPIES=0 if model_input is None else len(model_input) // rows,
            MOVES_INDEX=index_next is not None,
            T_COPIES=0 if t_next is None else len(t_next) // rows,
            BLOCK=BLOCK,
            **OPTIONS,
        )


def renoise(
    z0: Tensor,
    row: Tensor,
    key: Tensor,
    draw: Tensor,
    levels: Tensor,
    dtype: torch.dtype,
    copies: int,
) -> Tensor:
    """See :func:`mitune_kernels.renoise`."""
    rows = len(row)
    out = z0.new_empty((copies * rows, *z0.shape[1:]), dtype=dtype)
    if rows > 0:
        count = _count(z0)
        with torch.cuda.device_of(z0):
            kernels.renoise_kernel[(rows, _blocks(count))](
                z0, row, key, draw, levels, out, len(z0), rows, count,
                COPIES=copies, BLOCK=BLOCK, **OPTIONS,
            )  # fmt: skip
    return out


def renoise_score(
    eps_uncond: Tensor,
    eps_cond: Tensor,
    z0: Tensor,
    row: Tensor,
    key: Tensor,
    draw: Tensor,
    levels: Tensor,
) -> Tensor:
    """See :func:`mitune_kernels.renoise_score`."""
    rows = len(row)
    terms = z0.new_empty((rows, 2))
    if rows > 0:
        with torch.cuda.device_of(z0):
            kernels.renoise_score_kernel[(rows,)](
                eps_uncond, eps_cond, z0, row, key, draw, levels, terms, len(z0), _count(z0),
                BLOCK=BLOCK, **OPTIONS,
            )  # fmt: skip
    return terms


def _count(z: Tensor) -> int:
    """Number of elements in a row."""
    count = z[0].numel()
    if count > _MOST_ELEMENTS:
        raise ValueError(f"got {count} elements in a row, expected at most {_MOST_ELEMENTS}")
    return count
