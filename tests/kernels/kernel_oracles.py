"""What the kernels are held against: the definitions, on unbounded integers and in float64."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from mitune_kernels import dispatch, implementations
from mitune_kernels.ops import INTERPRETED
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map_only

Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")
IMPLS = [name for name, missing in implementations().items() if missing is None]
WORD = 0xFFFFFFFF


def device_of(impl: str) -> torch.device:
    """Where an implementation runs in these tests: without a GPU all of them on the CPU."""
    runs_on = {
        "reference": "cuda" if torch.cuda.is_available() else "cpu",  # what auto takes there
        "triton": "cpu" if INTERPRETED else "cuda",
        "cuda": dispatch.CUDA_RUNS_ON,
    }
    return torch.device(runs_on.get(impl, "cpu"))


def on_device(impl: str, *arguments: Any) -> tuple[Any, ...]:
    """The arguments on the implementation's device."""
    device = device_of(impl)
    return tuple(x.to(device) if isinstance(x, Tensor) else x for x in arguments)


def there(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """``function(..., impl=impl)`` on its implementation's device. What it returns, and what it
    wrote into its arguments, comes back to the CPU."""
    device = device_of(str(kwargs["impl"]))
    if device.type == "cpu":
        return function(*args, **kwargs)
    given = {id(x): x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)}
    moved = {i: x.to(device) for i, x in given.items()}
    result = function(
        *(moved.get(id(x), x) for x in args),  # type: ignore[arg-type]
        **{name: moved.get(id(x), x) for name, x in kwargs.items()},  # type: ignore[arg-type]
    )
    for i, x in moved.items():
        given[i].copy_(x)
    return cast(Result, tree_map_only(Tensor, Tensor.cpu, result))


def philox_by_integers(counter: list[int], key: list[int]) -> list[int]:
    """Philox-4x32-10 on Python's unbounded integers, written from the paper's description."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 1 << 32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % (1 << 32), (k[1] + 0xBB67AE85) % (1 << 32)]
    return c


def random_keys(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    key = torch.randint(0, 1 << 32, (rows, 4), generator=generator)
    step = torch.randint(0, 1 << 32, (rows,), generator=generator)
    return key, step


NORMAL_ROUNDINGS = 6
"""A normal is a radius times a cosine or sine: the logarithm has 3 roundings of its magnitude, of
which the root keeps half; the root and the product one each; and cosine and sine err by 2.5 units
of 2^-24. So it is within 6 2^-24 of its radius, which is at most 6.8."""


def box_muller_in_float64(
    words: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The normals' definition on float32 uniforms, with numpy's float64 functions, and the radius
    of each."""
    u = words.astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
    u = u.astype(np.float64).reshape(*words.shape[:-1], -1, 2)
    radius, angle = np.sqrt(-2 * np.log(u[..., 0])), 2 * np.pi * u[..., 1]
    pairs = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=-1)
    return pairs.reshape(words.shape), np.stack((radius, radius), axis=-1).reshape(words.shape)


def step_in_float64(
    eps_uncond: Tensor,
    eps_cond: Tensor,
    z: Tensor,
    score: Tensor,
    index: Tensor,
    key: Tensor,
    table: Tensor,
    guidance: float,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """The step's formulas row by row in float64, and how far float32 arithmetic may be from them.

    The budget is the usual forward bound: a value that k rounded operations lead to is within
    k 2^-24 times the sum of its parts' magnitudes. A sum adds its longest chain of additions to k:
    a chunk of 1024 puts 32 into each of 32 lanes and folds those 5 times, and its chunks fold in
    log2; lanes of 1024 that add block after block (triton, cuda) have their blocks and the 10 folds
    of the lanes. The latent has 7: guidance in float32, its product with a difference, two sums and
    a product before the last two sums. A normal has NORMAL_ROUNDINGS of its radius.
    """
    unit = 2.0**-24
    values, budgets = [], []
    for row in range(z.shape[0]):
        u, c, x = (t[row].double().flatten() for t in (eps_uncond, eps_cond, z))
        shape, count = z.shape[1:], x.numel()
        if index[row] < 0:
            values.append((x.reshape(shape), score[row].double(), torch.zeros(2).double()))
            budgets.append((torch.zeros(shape), torch.tensor(0.0), torch.zeros(2)))
            continue
        a, b, sigma, weight, _ = (float(v) for v in table[index[row]])
        words = []
        seed_lo, seed_hi, candidate, prompt = key[row].tolist()
        for block in range((count + 3) // 4):
            counter = [block, int(index[row]) + 1, candidate, prompt]
            words += philox_by_integers(counter, [seed_lo, seed_hi])
        noise, radius = (
            torch.from_numpy(x)[:count] for x in box_muller_in_float64(np.array(words))
        )
        delta = c - u
        squared, cross = (delta * delta).sum(), (u * delta).sum()
        moved = a * x + b * (u + guidance * delta) + sigma * noise
        chunks = (count + 1023) // 1024
        depth = 4 + max(32 + 5 + (chunks - 1).bit_length(), chunks + 10)
        parts = abs(a) * x.abs() + abs(b) * (u.abs() + abs(guidance) * delta.abs())
        parts += abs(sigma) * noise.abs()
        d_squared, d_cross = depth * unit * squared, depth * unit * (u * delta).abs().sum()
        values.append(
            (moved.reshape(shape), score[row] + weight * squared, torch.stack((squared, cross)))
        )
        budgets.append(
            (
                (7 * unit * parts + NORMAL_ROUNDINGS * unit * abs(sigma) * radius).reshape(shape),
                abs(weight) * d_squared + 2 * unit * (score[row].abs() + abs(weight) * squared),
                torch.stack((d_squared, d_cross)),
            )
        )
    exact = tuple(torch.stack(parts) for parts in zip(*values, strict=True))
    budget = tuple(torch.stack(parts) for parts in zip(*budgets, strict=True))
    return exact, budget  # type: ignore[return-value]
