"""One solver step of a batch of candidates: guidance, score, solver update and noise."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mitune_kernels.checks import (
    check_finite,
    check_number,
    check_overlap,
    check_range,
    check_rows,
    check_tensor,
)
from mitune_kernels.dispatch import choose
from mitune_kernels.ops import IMPLEMENTATIONS

_STEP = {name: getattr(torch.ops.mitune, f"step_{name}").default for name in IMPLEMENTATIONS}
_STEP_OUT = {
    name: getattr(torch.ops.mitune, f"step_out_{name}").default for name in IMPLEMENTATIONS
}
_MODEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class StepResult(NamedTuple):
    """The results of :func:`step`; all new tensors."""

    z: Tensor
    """The next latents ``[B, ...]`` float32, in the layout of the given ones."""
    score: Tensor
    """``[B]`` float32, nats so far."""
    terms: Tensor
    """``[B, 2]`` float32: ||delta||^2 and <eps_uncond, delta>."""
    model_input: Tensor | None
    """``[copies B, ...]`` of the asked dtype: the next latents, once or twice; None if not asked
    for."""


def step(
    eps_uncond: Tensor,
    eps_cond: Tensor,
    z: Tensor,
    score: Tensor,
    index: Tensor,
    key: Tensor,
    table: Tensor,
    guidance: float,
    *,
    input_dtype: torch.dtype | None = None,
    copies: int = 2,
    impl: str = "auto",
) -> StepResult:
    """One step of an affine solver, with the score's increment (MI-Tune, Eq. 2 and Algorithm 2).

    With delta = eps_cond - eps_uncond, and (a, b, sigma, weight, t) the table's row ``index``::

        z_next     = a z + b (eps_uncond + guidance delta) + sigma w,   w = normal(key, index + 1)
        score_next = score + weight ||delta||^2
        terms      = (||delta||^2, <eps_uncond, delta>)

    Predictions are upcast before they are subtracted. Sums are float32 in a fixed order: a row's
    result has the same bits in any batch and with any number of threads. Rows whose sigma is 0 get
    no noise.

    Args:
        eps_uncond: ``[B, ...]`` float32, bfloat16 or float16, contiguous or channels-last: the
            prediction (noise, v or velocity, as the table was made for) under the empty prompt.
        eps_cond: the same under the candidate's prompt, of the same dtype.
        z: ``[B, ...]`` float32, contiguous or channels-last.
        score: ``[B]`` float32, nats so far.
        index: ``[B]`` int64, the row of the table; -1 for an inactive row, which keeps z and score
            and gets terms 0.
        key: ``[B, 4]`` int64: seed_lo, seed_hi, candidate, prompt (see
            :func:`mitune_kernels.normal`).
        table: ``[N, 5]`` float32, columns a, b, sigma, weight (nats per unit of ||delta||^2) and t,
            the timestep that the model is given (used only by :func:`step_out`).
        guidance: scale of classifier-free guidance.
        input_dtype: also return the next latents as the model's next input, in this dtype
            (float32, bfloat16 or float16).
        copies: how often that input holds the latents: 2 for the unconditional and the conditional
            pass.
        impl: ``auto`` or a name of :func:`mitune_kernels.implementations`.

    Raises:
        ValueError: an argument of another shape, dtype, layout or device; a tensor that requires
            grad or carries a tangent; an unknown ``impl``; outside compiled code, also guidance or
            a table that is not finite and, on CPU, an index outside the table (elsewhere the check
            would wait for the device: such a row gets NaN).
        RuntimeError: the named implementation is not available here.
    """
    _check(eps_uncond, eps_cond, z, score, index, key, table, guidance)
    if input_dtype is not None and input_dtype not in _MODEL_DTYPES:
        raise ValueError(f"input_dtype: got {input_dtype}, expected one of {_MODEL_DTYPES}")
    if copies not in (1, 2):
        raise ValueError(f"copies: got {copies}, expected 1 or 2")
    z_next, score_next, terms, model_input = _STEP[choose(impl, z.device)](
        eps_uncond, eps_cond, z, score, index, key, table, guidance, input_dtype, copies
    )
    return StepResult(z_next, score_next, terms, None if input_dtype is None else model_input)


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
    *,
    model_input: Tensor | None = None,
    index_next: Tensor | None = None,
    t_next: Tensor | None = None,
    impl: str = "auto",
) -> None:
    """:func:`step` into given buffers, for loops that keep them at fixed addresses.

    With the optional buffers nothing is left to compute between two calls of a model. An inactive
    row keeps z and score; if z_next is z, neither the row nor its model input is written. (Compiled
    code may pass a copy of z_next to the operation; then the row's model input is z.)

    Args:
        z_next: as z; may be z itself.
        score_next: as score; may be score itself.
        terms: ``[B, 2]`` float32; or ``[B, N, 2]``, a history of which only row ``index`` is
            written, and none for an inactive row.
        model_input: ``[B, ...]`` or ``[2 B, ...]`` float32, bfloat16 or float16: gets z_next, once
            or twice.
        index_next: ``[B]`` int64, may be index itself: gets index + 1, and -1 after the table's
            last row and for an inactive row.
        t_next: ``[B]`` or ``[2 B]`` float32: gets the table's t at index_next, once or twice; left
            as it is where index_next is -1.

    Raises:
        ValueError, RuntimeError: as :func:`step`; also if buffers share memory in any other way.
    """
    _check(eps_uncond, eps_cond, z, score, index, key, table, guidance)
    rows = z.shape[0]
    check_rows("z_next", z_next, (torch.float32,), z)
    check_tensor("score_next", score_next, torch.float32, (rows,), z.device)
    history = (rows, table.shape[0], 2)
    check_tensor(
        "terms", terms, torch.float32, history if terms.dim() == 3 else (rows, 2), z.device
    )
    if model_input is not None:
        check_rows("model_input", model_input, _MODEL_DTYPES, z, copies=(1, 2))
    if index_next is not None:
        check_tensor("index_next", index_next, torch.int64, (rows,), z.device)
    if t_next is not None:
        copies = 2 if t_next.numel() == 2 * rows else 1
        check_tensor("t_next", t_next, torch.float32, (copies * rows,), z.device)
    given = {
        "z_next": z_next,
        "score_next": score_next,
        "terms": terms,
        "model_input": model_input,
        "index_next": index_next,
        "t_next": t_next,
    }
    written = {name: tensor for name, tensor in given.items() if tensor is not None}
    if not torch.compiler.is_compiling():
        read = {"eps_uncond": eps_uncond, "eps_cond": eps_cond, "z": z, "score": score}
        check_overlap(written, read | {"index": index, "key": key, "table": table})
    _STEP_OUT[choose(impl, z.device)](
        eps_uncond,
        eps_cond,
        z,
        score,
        index,
        key,
        table,
        guidance,
        z_next,
        score_next,
        terms,
        model_input,
        index_next,
        t_next,
    )
    if not torch.compiler.is_compiling():
        # Kernels only write memory. Whatever saved such a tensor for a gradient, or has checked it,
        # must see that it changed.
        torch.autograd.graph.increment_version(
            [tensor for tensor in written.values() if not tensor.is_inference()]
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
    check_rows("eps_uncond", eps_uncond, _MODEL_DTYPES, z)
    check_rows("eps_cond", eps_cond, (eps_uncond.dtype,), z)
    check_tensor("score", score, torch.float32, (rows,), z.device)
    check_tensor("index", index, torch.int64, (rows,), z.device)
    check_tensor("key", key, torch.int64, (rows, 4), z.device)
    if table.dim() != 2 or table.shape[0] == 0:
        raise ValueError(f"table: got shape {list(table.shape)}, expected [N, 5] with N > 0")
    check_tensor("table", table, torch.float32, (table.shape[0], 5), z.device)
    if not torch.compiler.is_compiling():
        check_number("guidance", guidance)
        check_finite("table", table)
        check_range("index", index, -1, table.shape[0] - 1)
