"""The registered torch operations: schemas, shapes for tracing, and the reference implementations.

Python owns the schemas, so that an operation exists, and can be traced, with or without the
compiled extension, which only adds its kernels. Each implementation has its own operation: which
one runs is decided before tracing, and two of them can be compared in one process.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mitune_kernels import reference_noise, reference_renoise, reference_step

_STEP = (
    "Tensor eps_uncond, Tensor eps_cond, Tensor z, Tensor score, Tensor index, Tensor key, "
    "Tensor table, float guidance"
)
_RENOISED = "Tensor z0, Tensor row, Tensor key, Tensor draw, Tensor levels"
_SCHEMAS = {
    "philox": "(Tensor key, Tensor step, int count) -> Tensor",
    "normal": "(Tensor key, Tensor step, int count) -> Tensor",
    "step": f"({_STEP}, ScalarType? input_dtype, int copies) -> (Tensor, Tensor, Tensor, Tensor)",
    "step_out": (
        f"({_STEP}, Tensor(a!) z_next, Tensor(b!) score_next, Tensor(c!) terms, "
        "Tensor(d!)? model_input, Tensor(e!)? index_next, Tensor(f!)? t_next) -> ()"
    ),
    "renoise": f"({_RENOISED}, ScalarType dtype, int copies) -> Tensor",
    "renoise_score": f"(Tensor eps_uncond, Tensor eps_cond, {_RENOISED}) -> Tensor",
}
IMPLEMENTATIONS = ("reference", "cpp", "triton", "cuda")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton's interpreter runs the kernels on the CPU; read once, as Triton does."""


def _fake_philox(key: Tensor, step: Tensor, count: int) -> Tensor:
    return step.new_empty((step.shape[0], count))


def _fake_normal(key: Tensor, step: Tensor, count: int) -> Tensor:
    return step.new_empty((step.shape[0], count), dtype=torch.float32)


def _fake_step(
    eps_uncond: Tensor,
    eps_cond: Tensor,
    z: Tensor,
    score: Tensor,
    index: Tensor,
    key: Tensor,
    table: Tensor,
    guidance: float,
    input_dtype: torch.dtype | None,
    copies: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The step's results, not yet filled. An operation has a fixed number of results: if no model
    input is asked for, that result is empty."""
    if input_dtype is None:
        model_input = z.new_empty(0)
    else:
        shape = (copies * z.shape[0], *z.shape[1:])
        model_input = torch.empty(
            shape, dtype=input_dtype, device=z.device, memory_format=_layout_of(z)
        )
    return (
        torch.empty_like(z),
        torch.empty_like(score),
        score.new_empty((score.shape[0], 2)),
        model_input,
    )


def _fake_renoise(
    z0: Tensor,
    row: Tensor,
    key: Tensor,
    draw: Tensor,
    levels: Tensor,
    dtype: torch.dtype,
    copies: int,
) -> Tensor:
    return z0.new_empty((copies * row.shape[0], *z0.shape[1:]), dtype=dtype)


def _fake_renoise_score(
    eps_uncond: Tensor,
    eps_cond: Tensor,
    z0: Tensor,
    row: Tensor,
    key: Tensor,
    draw: Tensor,
    levels: Tensor,
) -> Tensor:
    return z0.new_empty((row.shape[0], 2))


def _layout_of(z: Tensor) -> torch.memory_format:
    if z.is_contiguous():
        return torch.contiguous_format
    return torch.channels_last if z.dim() == 4 else torch.channels_last_3d


def _step(implementation: str) -> Callable[..., object]:
    """The functional form: calls the out form with new memory."""

    def step(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        results = _fake_step(*arguments)
        model_input = None if arguments[8] is None else results[3]
        into = getattr(torch.ops.mitune, f"step_out_{implementation}").default
        into(*arguments[:8], *results[:3], model_input, None, None)
        return results

    return step


def _nothing(*_: object) -> None:
    """The ``_out`` forms return nothing, so tracing has nothing to shape."""


def _in_triton(name: str) -> Callable[..., Any]:
    """The launcher of that name. Triton is imported at the first use, as it may be absent."""

    def launch(*arguments: object) -> object:
        from mitune_kernels import triton_ops

        return getattr(triton_ops, name)(*arguments)

    return launch


_FAKES: dict[str, Callable[..., object]] = {
    "philox": _fake_philox,
    "normal": _fake_normal,
    "step": _fake_step,
    "step_out": _nothing,
    "renoise": _fake_renoise,
    "renoise_score": _fake_renoise_score,
}
_REFERENCES: dict[str, Callable[..., object]] = {
    "philox": lambda key, step, count: reference_noise.words(key, step, count).contiguous(),
    "normal": lambda key, step, count: reference_noise.normals(key, step, count).contiguous(),
    "step_out": reference_step.step_out,
    "renoise": reference_renoise.renoise,
    "renoise_score": reference_renoise.renoise_score,
}

_library = torch.library.Library("mitune", "DEF")
for _op, _schema in _SCHEMAS.items():
    for _implementation in IMPLEMENTATIONS:
        _name = f"{_op}_{_implementation}"
        _library.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.register_fake(f"mitune::{_name}", _FAKES[_op], lib=_library)
for _op, _reference in _REFERENCES.items():
    _library.impl(f"{_op}_reference", _reference, "CompositeExplicitAutograd")
    _library.impl(f"{_op}_triton", _in_triton(_op), "CPU" if INTERPRETED else "CUDA")
for _implementation in IMPLEMENTATIONS:
    _library.impl(f"step_{_implementation}", _step(_implementation), "CompositeExplicitAutograd")
