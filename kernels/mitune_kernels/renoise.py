"""Re-noising of given latents, before and after the model that predicts the noise.

The two operations run before and after a model call. The noise is not stored between them: the
second generates it again from its key, which is cheaper than reading it.
"""

import math

import torch
from torch import Tensor

from mitune_kernels.checks import check_finite, check_range, check_tensor
from mitune_kernels.dispatch import choose
from mitune_kernels.ops import IMPLEMENTATIONS

_RENOISE = {name: getattr(torch.ops.mitune, f"renoise_{name}").default for name in IMPLEMENTATIONS}
_SCORE = {
    name: getattr(torch.ops.mitune, f"renoise_score_{name}").default for name in IMPLEMENTATIONS
}
_MODEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def renoise(
    z0: Tensor,
    row: Tensor,
    key: Tensor,
    draw: Tensor,
    levels: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    copies: int = 2,
    impl: str = "auto",
) -> Tensor:
    """Re-noised latents as a model's input: ``z_t = signal z0[row] + spread normal(key, draw)``.

    Args:
        z0: ``[N, ...]`` float32, contiguous: the given latents.
        row: ``[B]`` int64, the latent from which each re-noised one is made.
        key: ``[B, 4]`` int64, the keys of the noise, as in :func:`mitune_kernels.normal`.
        draw: ``[B]`` int64, the numbers of its draws: the ``step`` of that function.
        levels: ``[B, 4]`` float32, columns signal and spread (sqrt(abar_t) and sqrt(1 - abar_t) for
            diffusion), and the two of :func:`renoise_score`.
        dtype: of the result: float32, bfloat16 or float16.
        copies: 1, or 2 for the unconditional and the conditional pass.
        impl: ``auto`` or a name of :func:`mitune_kernels.implementations`.

    Returns:
        ``[copies B, ...]``, contiguous: the B re-noised latents, once or twice.

    Raises:
        ValueError: an argument of another shape, dtype, layout or device; a tensor that requires
            grad; an unknown ``impl``; outside compiled code and on CPU, also levels that are not
            finite and a row outside z0 (elsewhere they give NaN).
        RuntimeError: the named implementation is not available here.
    """
    _check(z0, row, key, draw, levels)
    if dtype not in _MODEL_DTYPES:
        raise ValueError(f"dtype: got {dtype}, expected one of {_MODEL_DTYPES}")
    if copies not in (1, 2):
        raise ValueError(f"copies: got {copies}, expected 1 or 2")
    result: Tensor = _RENOISE[choose(impl, z0.device)](z0, row, key, draw, levels, dtype, copies)
    return result


def renoise_score(
    eps_uncond: Tensor,
    eps_cond: Tensor,
    z0: Tensor,
    row: Tensor,
    key: Tensor,
    draw: Tensor,
    levels: Tensor,
    *,
    impl: str = "auto",
) -> Tensor:
    """The two terms that the estimators of mutual information weight, in one pass.

    With delta = eps_cond - eps_uncond and the model's target = of_noise normal(key, draw) +
    of_clean z0[row]::

        ||delta||^2                                        (Eq. 2 of Wang et al.)
        ||target - eps_uncond||^2 - ||target - eps_cond||^2        (Kong et al. 2024)

    The difference is summed as <delta, (target - eps_uncond) + (target - eps_cond)>, so that two
    large squares never cancel. Sums are float32 in a fixed order.

    Args:
        eps_uncond, eps_cond: ``[B, ...]`` float32, bfloat16 or float16, contiguous: predictions of
            the noise, of v or of a flow's velocity.
        z0, row, key, draw: as given to :func:`renoise`.
        levels: ``[B, 4]`` float32, of which the last two columns are used: of_noise, of_clean. They
            are 1, 0 for the noise, signal, -spread for v, and 1, -1 for a flow's velocity.
        impl: ``auto`` or a name of :func:`mitune_kernels.implementations`.

    Returns:
        ``[B, 2]`` float32, in squared units of the prediction.

    Raises:
        ValueError, RuntimeError: as :func:`renoise`.
    """
    _check(z0, row, key, draw, levels)
    for name, tensor in (("eps_uncond", eps_uncond), ("eps_cond", eps_cond)):
        dtypes = _MODEL_DTYPES if tensor is eps_uncond else (eps_uncond.dtype,)
        if tensor.dtype not in dtypes:
            expected = " or ".join(str(dtype) for dtype in dtypes)
            raise ValueError(f"{name}: got {tensor.dtype}, expected {expected}")
        check_tensor(name, tensor, tensor.dtype, (row.shape[0], *z0.shape[1:]), z0.device)
    terms: Tensor = _SCORE[choose(impl, z0.device)](
        eps_uncond, eps_cond, z0, row, key, draw, levels
    )
    return terms


def _check(z0: Tensor, row: Tensor, key: Tensor, draw: Tensor, levels: Tensor) -> None:
    if z0.dim() < 2 or math.prod(z0.shape[1:]) == 0:
        raise ValueError(
            f"z0: got shape {list(z0.shape)}, expected [rows, ...] with at least one element in a "
            "row"
        )
    check_tensor("z0", z0, torch.float32, tuple(z0.shape), z0.device)
    rows = row.shape[0] if row.dim() == 1 else math.prod(draw.shape[:1])
    check_tensor("row", row, torch.int64, (rows,), z0.device)
    check_tensor("key", key, torch.int64, (rows, 4), z0.device)
    check_tensor("draw", draw, torch.int64, (rows,), z0.device)
    check_tensor("levels", levels, torch.float32, (rows, 4), z0.device)
    if z0.shape[0] == 0 and rows > 0:
        raise ValueError(f"z0: got no rows, expected those that the {rows} of row name")
    if not torch.compiler.is_compiling():
        if levels.device.type == "cpu":  # they are new each time: elsewhere each check would wait
            check_finite("levels", levels)
        check_range("row", row, 0, z0.shape[0] - 1)
