"""Check that kernels are right on a device, by comparing them with the reference on that device.

The bounds are twice those of ``docs/operations.md``, because both sides round: k rounded operations
err by at most k 2^-24 times the sum of the magnitudes of the parts. Random words and normals have
to be equal bit for bit.
"""

import itertools
import math

import mitune_kernels
import torch
from torch import Tensor

_Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""The inputs of a step, without the guidance scale."""
_UNIT = 2.0**-24
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_SHAPES = ((4, 64, 64), (3, 19, 29))
"""The latent shape of pictures of 512 pixels, and one that no block size divides."""
_ROWS, _STEPS, _GUIDANCE = 7, 5, 7.5


def fault(implementation: str, device: torch.device) -> str | None:
    """Describe the first difference between an implementation and the reference on ``device``; None
    if there is none.

    Raises:
        ValueError, RuntimeError: if the implementation does not run there.
    """
    for shape, dtype, last in itertools.product(_SHAPES, _DTYPES, (False, True)):
        name = f"{list(shape)}, {dtype}, {'channels last' if last else 'contiguous'}"
        made = _inputs(shape, dtype, last, device)
        wrong = _noise(implementation, shape, made) or _step(implementation, made)
        wrong = wrong or _loop(implementation, made)
        if not last:
            wrong = wrong or _renoised(implementation, dtype, made)
        if wrong:
            return f"{wrong} ({name})"
    return None


def _inputs(
    shape: tuple[int, ...], dtype: torch.dtype, last: bool, device: torch.device
) -> _Inputs:
    """Random inputs: rows at several steps of a table, whose step 1 adds no noise; row 2 is
    idle."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3, _ROWS, *shape, generator=generator).to(device)
    form = torch.channels_last if last else torch.contiguous_format
    uncond, cond = (x.to(dtype).contiguous(memory_format=form) for x in latents[:2])
    table = torch.randn(_STEPS, 5, generator=generator)
    table[1, 2] = 0.0
    index = torch.arange(_ROWS) % _STEPS
    index[2] = -1
    score = torch.randn(_ROWS, generator=generator)
    key = torch.randint(0, 1 << 32, (_ROWS, 4), generator=generator)
    score, index, key, table = (x.to(device) for x in (score, index, key, table))
    return uncond, cond, latents[2].clone(), score, index, key, table


def _noise(implementation: str, shape: tuple[int, ...], made: _Inputs) -> str | None:
    _, _, _, _, index, key, _ = made
    step, count = index + 1, math.prod(shape)
    both = (implementation, "reference")
    words = [mitune_kernels.philox(key, step, count, impl=impl) for impl in both]
    if not torch.equal(*words):
        return "other random words"
    values = [mitune_kernels.normal(key, step, shape, impl=impl) for impl in both]
    return None if torch.equal(*values) else "other normals of the same words"


def _step(implementation: str, made: _Inputs) -> str | None:
    uncond, cond, z, score, index, key, table = made
    dtype = uncond.dtype
    got, expected = (
        mitune_kernels.step(*made, _GUIDANCE, input_dtype=dtype, copies=2, impl=impl)
        for impl in (implementation, "reference")
    )
    assert got.model_input is not None
    if not torch.equal(got.model_input, torch.cat([got.z.to(dtype)] * 2)):
        return "a model input that is not the next latents"
    if not torch.equal(got.z[2], z[2]) or float(got.terms[2].abs().sum()) != 0:
        return "an idle row that moves"
    u, c, x = (t.double() for t in (uncond, cond, z))
    a, b, sigma, weight = (table[index.clamp(min=0), k].double() for k in range(4))
    parts = _column(a, x).abs() + _column(b, u.abs() + _GUIDANCE * (c - u).abs()).abs()
    noise = mitune_kernels.normal(key, index + 1, z.shape[1:], impl="reference")
    parts = parts + _column(sigma, noise.double()).abs()
    if _beyond(got.z, expected.z, 14 * _UNIT * parts):
        return "other latents"
    delta = (c - u).flatten(1)
    sums = torch.stack((delta.square().sum(1), (u.flatten(1) * delta).abs().sum(1)), dim=1)
    bound = 2 * _depth(delta.shape[1]) * _UNIT * sums
    if _beyond(got.terms, expected.terms, bound):
        return "other sums"
    moved = weight.abs() * bound[:, 0]
    moved = moved + 4 * _UNIT * (score.abs() + weight.abs() * sums[:, 0])
    return "other scores" if _beyond(got.score, expected.score, moved) else None


def _loop(implementation: str, made: _Inputs) -> str | None:
    """Compare a step in place, with every optional buffer, with the functional form."""
    uncond, cond, z, score, index, key, table = made
    expected = mitune_kernels.step(*made, _GUIDANCE, impl=implementation)
    now, scores, at = z.clone(), score.clone(), index.clone()
    history = torch.full((_ROWS, _STEPS, 2), -1.0, device=z.device)
    t = torch.full((2 * _ROWS,), -7.0, device=z.device)
    into = torch.cat([z.to(uncond.dtype)] * 2)
    mitune_kernels.step_out(
        uncond, cond, now, scores, at, key, table, _GUIDANCE, now, scores, history,
        model_input=into, index_next=at, t_next=t, impl=implementation,
    )  # fmt: skip
    ran = index >= 0
    following = torch.where(ran & (index + 1 < _STEPS), index + 1, -1)
    told = torch.where(following >= 0, table[following.clamp(min=0), 4], -7.0)
    terms = torch.full_like(history, -1.0)
    terms[ran, index[ran]] = expected.terms[ran]
    same = (
        (now, expected.z),
        (scores, expected.score),
        (at, following),
        (t, told.repeat(2)),
        (history, terms),
        (into, torch.cat([expected.z.to(uncond.dtype)] * 2)),
    )
    return None if all(torch.equal(*pair) for pair in same) else "another result in place"


def _renoised(implementation: str, dtype: torch.dtype, made: _Inputs) -> str | None:
    uncond, cond, z, _, index, key, _ = made
    row, draw = torch.arange(_ROWS, device=z.device).flip(0), index + 1
    levels = torch.tensor([[0.8, 0.6, 1.0, 0.0], [0.6, 0.8, 0.6, -0.8]], device=z.device)
    levels = levels.repeat(_ROWS, 1)[:_ROWS].contiguous()
    given = (z, row, key, draw, levels)
    got, expected = (
        mitune_kernels.renoise(*given, dtype=torch.float32, copies=2, impl=impl)
        for impl in (implementation, "reference")
    )
    noise = mitune_kernels.normal(key, draw, z.shape[1:], impl="reference").double()
    clean = z[row].double()
    parts = _column(levels[:, 0], clean).abs() + _column(levels[:, 1], noise).abs()
    if _beyond(got, expected, torch.cat([4 * _UNIT * parts] * 2)):
        return "other re-noised latents"
    target = _column(levels[:, 2], noise) + _column(levels[:, 3], clean)
    u, c = uncond.double(), cond.double()
    gap = (target - u).abs() + (target - c).abs()
    pair = torch.stack(((c - u).square(), (c - u).abs() * gap), dim=1).flatten(2).sum(2)
    terms, wanted = (
        mitune_kernels.renoise_score(uncond, cond, *given, impl=impl)
        for impl in (implementation, "reference")
    )
    bound = 2 * (_depth(z[0].numel()) + 6) * _UNIT * pair
    return "other squared errors" if _beyond(terms, wanted, bound) else None


def _depth(count: int) -> int:
    """The longest chain of rounded operations in the sum over a row, in any implementation."""
    chunks = -(-count // 1024)
    return 4 + max(37 + (chunks - 1).bit_length(), chunks + 10)


def _column(factors: Tensor, rows: Tensor) -> Tensor:
    return factors.view(-1, *[1] * (rows.dim() - 1)).double() * rows


def _beyond(got: Tensor, expected: Tensor, bound: Tensor) -> bool:
    return not bool(((got.double() - expected.double()).abs() <= bound).all())
