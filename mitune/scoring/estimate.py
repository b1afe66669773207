"""Point-wise mutual information of given latents and conditionings, by re-noising, for any
denoiser."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from mitune_kernels import philox, renoise, renoise_score
from torch import Tensor

from mitune.core.errors import UserError
from mitune.diffusion.process import Process, target
from mitune.diffusion.schedule import Schedule
from mitune.models.protocol import concat, take

ESTIMATORS = ("orthogonal", "standard")
"""Re-noising estimators: "orthogonal" is Eq. 2 of Wang et al.; "standard" is Kong et al. 2024. In
the order of the columns of ``mitune_kernels.renoise_score``."""

_STREAM = (0x4D495F65, 0x4D495F74)
"""Last words of the noise keys of the draws' noise and timesteps, where generation has a prompt's
hash: other streams."""


def pointwise_mi(
    denoise: Callable[[Tensor, Tensor, Any], Tensor],
    z0: Tensor,
    cond: Tensor | Mapping[str, Tensor],
    null: Tensor | Mapping[str, Tensor],
    schedule: Any,
    *,
    estimator: str = "orthogonal",
    draws: int = 64,
    seed: int = 0,
    batch: int = 64,
    t_min: float | None = None,
    convention: str | None = None,
    shared_noise: bool = False,
) -> Tensor:
    """Estimate I(z0, cond) of each row, in nats, with ``draws`` re-noised copies ``z_t =
    signal z0 + spread eps``: of diffusion, or of rectified flow (``mitune.diffusion.process``).

    * orthogonal (Eq. 2): ``mean kappa_t ||f_c - f_u||^2``, f the network's prediction: right on
      average over (z0, cond), not per pair;
    * standard (Kong et al. 2024): ``mean kappa_t (||f - f_u||^2 - ||f - f_c||^2)`` with the true f:
      its expectation over eps is the point-wise ``log p(z0 | cond) / p(z0)``; single estimates can
      be negative.

    Timesteps are stratified: draw d takes one from the d-th of ``draws`` equal parts of the range.
    Noise and timesteps are keyed by (seed, row, draw), so the result does not depend on ``batch``
    beyond the denoiser's own rounding.

    Args:
        denoise: ``(z [B, ...], t [B], cond of B rows) -> [B, ...]``, the schedule's prediction
            type; t is int64 for diffusion, float32 for a flow. It is called once for both passes,
            the unconditional rows first; one that takes pairs
            (``mitune.models.protocol.PairDenoiser``) is given the latents once.
        z0: ``[N, ...]`` float32, of any rank.
        cond: N rows: a tensor, or a record of them.
        null: one row, or N rows, of the same kind.
        schedule: a :class:`mitune.Schedule`, or a diffusers scheduler or its config.
        estimator: one of ESTIMATORS.
        draws: (t, eps) pairs for each row.
        seed: 0 to 2^64 - 1.
        batch: re-noised copies in one call; the denoiser sees twice as many rows.
        t_min, convention: which steps count and how much, as ``Schedule.weights``.
        shared_noise: every row gets row 0's draws. Rows then compare with less noise (common random
            numbers), and a row's result does not depend on its position; their mean has more.

    Returns:
        ``[N]`` float32 on ``z0``'s device, accumulated in float64.

    Raises:
        UserError: an unknown estimator or convention, or a number out of range.
        ValueError: rows or names that do not match, or a prediction of another shape.
    """
    if estimator not in ESTIMATORS:
        raise UserError(
            f"estimator {estimator!r} is not known: choose one of {', '.join(ESTIMATORS)}"
        )
    if draws < 1 or batch < 1:
        raise UserError(f"draws is {draws}, batch is {batch}: expected at least 1 of each")
    if not 0 <= seed < 2**64:
        raise UserError(f"seed is {seed}: expected 0 to 2^64 - 1")
    if not isinstance(schedule, Schedule):
        schedule = Schedule.levels(schedule)
    rows = len(z0)
    given, empty = _record(cond), _record(null)
    _check_rows(given, empty, rows)
    device, process = z0.device, schedule.process.to(z0.device)
    convention = convention or next(iter(process.conventions))
    least = process.least_t(convention, t_min)
    # Flat rows, which every operation and any rank of latent has in common.
    clean = z0.detach().float().reshape(rows, -1).contiguous()
    terms = torch.zeros(rows * draws, dtype=torch.float64, device=device)
    pairs = getattr(denoise, "pairs", None)
    copies = 2 if pairs is None else 1
    for items in torch.arange(rows * draws, device=device).split(batch):
        if getattr(denoise, "fixed_shapes", False):  # another shape would be compiled anew
            items = torch.cat([items, items[-1:].expand(batch - len(items))])
        row, draw = items // draws, items % draws
        source = torch.zeros_like(row) if shared_noise else row
        t = process.draw_t(_places(seed, source, draw, draws), least)
        noise = row, _keys(seed, source, _STREAM[0]), draw, _noise_levels(process, t)
        first = row if _count(empty) == rows else torch.zeros_like(row)
        both = concat([take(empty, first), take(given, row)])
        with torch.no_grad():
            predicted = (pairs or denoise)(
                renoise(clean, *noise, copies=copies).view(-1, *z0.shape[1:]),
                torch.cat([process.model_t(t)] * copies),
                both[""] if isinstance(cond, Tensor) else both,
            )
        if predicted.shape != (2 * len(items), *z0.shape[1:]):
            raise ValueError(
                f"denoise must return {[2 * len(items), *z0.shape[1:]]}, got {[*predicted.shape]}"
            )
        if predicted.dtype == torch.float64:
            predicted = predicted.float()
        uncond, conditional = predicted.reshape(2 * len(items), -1).contiguous().chunk(2)
        sums = renoise_score(uncond, conditional, clean, *noise)
        weight = process.mi_weight(t, convention)
        terms[items] = weight * sums[:, ESTIMATORS.index(estimator)].double()
    # One sum per row over all its draws: the same order however the draws were batched.
    return terms.view(rows, draws).mean(dim=1).float()


def _noise_levels(process: Process, t: Tensor) -> Tensor:
    """``[B, 4]`` float32 for ``mitune_kernels.renoise``: of z_t, and of what the model predicts."""
    signal, spread = process.levels(t)
    return torch.stack((signal, spread, *target(process.prediction, signal, spread)), dim=1).float()


def _places(seed: int, row: Tensor, draw: Tensor, draws: int) -> Tensor:
    """Stratified over [0, 1), float64: one uniform draw from the draw's part."""
    word = philox(_keys(seed, row, _STREAM[1]), draw, 1)[:, 0]
    return (draw.double() + word.double() / 2**32) / draws


def _keys(seed: int, row: Tensor, stream: int) -> Tensor:
    words = [row.new_full(row.shape, w) for w in (seed & 0xFFFFFFFF, seed >> 32)]
    return torch.stack([*words, row, row.new_full(row.shape, stream)], dim=1)


def _record(cond: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A tensor as a record of one."""
    return {"": cond} if isinstance(cond, Tensor) else cond


def _count(cond: Mapping[str, Tensor]) -> int:
    return len(next(iter(cond.values())))


def _check_rows(cond: Mapping[str, Tensor], null: Mapping[str, Tensor], rows: int) -> None:
    if cond.keys() != null.keys():
        raise ValueError(f"null must be {_kind(cond)}, as cond is; got {_kind(null)}")
    for name, record, allowed in (("cond", cond, (rows,)), ("null", null, (1, rows))):
        counts = {len(tensor) for tensor in record.values()}
        if len(counts) != 1 or not counts <= set(allowed):
            expected = " or ".join(map(str, dict.fromkeys(allowed)))
            raise ValueError(
                f"{name} must have {expected} rows for {rows} latents, got {sorted(counts)}"
            )


def _kind(cond: Mapping[str, Tensor]) -> str:
    return "a tensor" if cond.keys() == {""} else f"a record of {sorted(cond)}"
