"""One solver step of a batch of candidates: guidance, score, solver update and noise."""

import math

import torch
from torch import Tensor

from mitune_kernels.checks import check_rows, check_tensor
from mitune_kernels.dispatch import choose
from mitune_kernels.ops import IMPLEMENTATIONS

_STEP = {name: getattr(torch.ops.mitune, f"step_{name}").default for name in IMPLEMENTATIONS}
_STEP_OUT = {
    name: getattr(torch.ops.mitune, f"step_out_{name}").default for name in IMPLEMENTATIONS
}
_PREDICTION_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def step(
    eps_uncond: Tensor,
    eps_cond: Tensor,
    z: Tensor,
    score: Tensor,
    index: Tensor,
    key: Tensor,
    table: Tensor,
    guidance: float,
    impl: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of an affine solver, with the score's increment (MI-Tune, Eq. 2 and Algorithm 2).

    With delta = eps_cond - eps_uncond, and (a, b, sigma, weight) the table's row ``index``::

        z_next     = a z + b (eps_uncond + guidance delta) + sigma w,   w = normal(key, index + 1)
        score_next = score + weight ||delta||^2
        terms      = (||delta||^2, <eps_uncond, delta>)

    Predictions are upcast before they are subtracted; sums are float32 in a fixed order: a row's
    result has the same bits in any batch and with any number of threads. Rows whose sigma is 0 take
    no noise.

    Args:
        eps_uncond: ``[B, ...]`` float32, bfloat16 or float16, contiguous or channels-last: the
            prediction (noise or velocity, whichever the table is made for) under the empty prompt.
        eps_cond: the same under the candidate's prompt, of the same dtype.
        z: ``[B, ...]`` float32, contiguous or channels-last.
        score: ``[B]`` float32, nats so far.
        index: ``[B]`` int64, the row of the table; -1 for an inactive row, which keeps z and score
            and gets terms 0.
        key: ``[B, 4]`` int64: seed_lo, seed_hi, candidate, prompt (see
            :func:`mitune_kernels.normal`).
        table: ``[N, 4]`` float32, columns a, b, sigma, weight (nats per unit of ||delta||^2).
        guidance: scale of classifier-free guidance.
        impl: ``auto`` or a name of :func:`mitune_kernels.implementations`.

    Returns:
        z_next, laid out as z; score_next ``[B]``; terms ``[B, 2]``; all float32, none an alias of
        an input.

    Raises:
        ValueError: an argument of another shape, dtype, layout or device; guidance not finite; a
            tensor that requires grad; an unknown ``impl``; on CPU, outside compiled code, also an
            index outside the table or a table that is not finite (elsewhere checking them would
            wait for the device).
        RuntimeError: the named implementation is not available here.
    """
    _check(eps_uncond, eps_cond, z, score, index, key, table, guidance)
    result: tuple[Tensor, Tensor, Tensor] = _STEP[choose(impl, z.device)](
        eps_uncond, eps_cond, z, score, index, key, table, guidance
    )
    return result


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
    impl: str = "auto",
) -> None:
    """:func:`step` into given buffers, for loops that keep them at fixed addresses.

    Args:
        z_next: as z; may be z itself.
        score_next: as score; may be score itself.
        terms: ``[B, 2]`` float32.

    Raises:
        ValueError, RuntimeError: as :func:`step`.
    """
    _check(eps_uncond, eps_cond, z, score, index, key, table, guidance)
    check_rows("z_next", z_next, (torch.float32,), z)
    check_tensor("score_next", score_next, torch.float32, (z.shape[0],), z.device)
    check_tensor("terms", terms, torch.float32, (z.shape[0], 2), z.device)
    _STEP_OUT[choose(impl, z.device)](
        eps_uncond, eps_cond, z, score, index, key, table, guidance, z_next, score_next, terms
    )


def _check(
    eps_uncond: Tensor,
    eps_cond: Tensor,
    z: Tensor,
    score: Tensor,
    index: Tensor,
    key: Tensor,
    table: Tensor,
    guidance: float,
) -> None:
    if z.dim() < 2 or math.prod(z.shape[1:]) == 0:
        raise ValueError(
            f"z: got shape {list(z.shape)}, expected [rows, ...] with at least one element in a row"
        )
    rows = z.shape[0]
    check_rows("z", z, (torch.float32,), z)
    check_rows("eps_uncond", eps_uncond, _PREDICTION_DTYPES, z)
    check_rows("eps_cond", eps_cond, (eps_uncond.dtype,), z)
    check_tensor("score", score, torch.float32, (rows,), z.device)
    check_tensor("index", index, torch.int64, (rows,), z.device)
    check_tensor("key", key, torch.int64, (rows, 4), z.device)
    if table.dim() != 2 or table.shape[0] == 0:
        raise ValueError(f"table: got shape {list(table.shape)}, expected [N, 4] with N > 0")
    check_tensor("table", table, torch.float32, (table.shape[0], 4), z.device)
    if not math.isfinite(guidance):
        raise ValueError(f"guidance: got {guidance}, expected a finite number")
    if z.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_values(index, table)


def _check_values(index: Tensor, table: Tensor) -> None:
    if not bool(table.isfinite().all()):
        raise ValueError(
            "table: got a value that is not finite, expected finite a, b, sigma, weight"
        )
    if index.numel() > 0:
        low, high = (int(bound) for bound in index.aminmax())
        if low < -1 or high >= table.shape[0]:
            got = low if low < -1 else high
            raise ValueError(f"index: got {got}, expected -1 to {table.shape[0] - 1}")
