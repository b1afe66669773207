"""Estimate the point-wise mutual information of given latents and conditionings by re-noising.
Works with any denoiser."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from mitune_kernels import philox, renoise, renoise_score
from torch import Tensor

from mitune.core.errors import UserError
from mitune.diffusion.process import Process, target
from mitune.diffusion.schedule import Schedule
from mitune.models.protocol import concat, take

ESTIMATORS = ("orthogonal", "standard")
"""Re-noising estimators: "orthogonal" is Eq. 2 of Wang et al.; "standard" is Kong et al. 2024. The
order is that of the columns of ``mitune_kernels.renoise_score``."""

_STREAM = (0x4D495F65, 0x4D495F74)
"""Last word of the Philox key for a draw's noise, and for its timestep. Generation puts a prompt's
hash in this place, so the three use different random streams."""


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
    """Estimate I(z0, cond) of each row, in nats, from ``draws`` re-noised copies ``z_t =
    signal z0 + spread eps``. The process is diffusion or rectified flow
    (``mitune.diffusion.process``).

    * orthogonal (Eq. 2): ``mean kappa_t ||f_c - f_u||^2``, where f is the network's prediction. It
      is correct on average over (z0, cond), not for each pair.
    * standard (Kong et al. 2024): ``mean kappa_t (||f - f_u||^2 - ||f - f_c||^2)`` with the true f.
      Its expectation over eps is the point-wise ``log p(z0 | cond) / p(z0)``; a single estimate can
      be negative.

    Timesteps are stratified: draw d takes one from the d-th of ``draws`` equal parts of the range.
    (seed, row, draw) keys noise and timestep, so the result does not depend on ``batch`` beyond the
    denoiser's own rounding.

    Args:
        denoise: ``(z [B, ...], t [B], cond of B rows) -> [B, ...]``; it returns the schedule's
            prediction type. t is int64 for diffusion and float32 for a flow. One call computes both
            passes, with the unconditional rows first. A
            ``mitune.models.protocol.PairDenoiser`` receives each latent only once.
        z0: ``[N, ...]`` float32, of any rank.
        cond: N rows: a tensor, or a mapping of named tensors.
        null: one row, or N rows, in the same form as ``cond``.
        schedule: a :class:`mitune.Schedule`, or a diffusers scheduler or its config.
        estimator: one of ESTIMATORS.
        draws: number of (t, eps) pairs for each row.
        seed: 0 to 2^64 - 1.
        batch: re-noised copies in one call; the denoiser predicts twice as many rows.
        t_min, convention: which timesteps count and with which weight, as in ``Schedule.weights``.
        shared_noise: use row 0's draws for every row (common random numbers). Differences between
            rows are then less noisy, and a row's result does not depend on its position. The mean
            over the rows is noisier.

    Returns:
        ``[N]`` float32 on ``z0``'s device, accumulated in float64.

    Raises:
        UserError: for an unknown estimator or convention, or a number out of range.
        ValueError: if row counts or names do not match, or the prediction has the wrong shape.
    """
    if estimator not in ESTIMATORS:
        raise UserError(
            f"estimator {estimator!r} is not known: choose one of {', '.join(ESTIMATORS)}"
        )
    how = Renoising(
        draws=draws,
        seed=seed,
        batch=batch,
        t_min=t_min,
        convention=convention,
        shared_noise=shared_noise,
    )
    rows = len(z0)
    terms = torch.zeros(rows * draws, dtype=torch.float64, device=z0.device)
    for part in renoised(denoise, z0, cond, null, schedule, how):
        sums = renoise_score(part.uncond, part.cond, part.clean, *part.noise)
        terms[part.items] = part.weight * sums[:, ESTIMATORS.index(estimator)].double()
    # Sum each row's draws at the end, so that the order of addition does not depend on ``batch``.
    return terms.view(rows, draws).mean(dim=1).float()


@dataclass(frozen=True, kw_only=True)
class Renoising:
    """How latents are re-noised; as the arguments of :func:`pointwise_mi`.

    Raises UserError naming the first number that is out of range.
    """

    draws: int = 64
    seed: int = 0
    batch: int = 64
    t_min: float | None = None
    convention: str | None = None
    shared_noise: bool = False

    def __post_init__(self) -> None:
        if self.draws < 1 or self.batch < 1:
            raise UserError(
                f"draws is {self.draws}, batch is {self.batch}: expected at least 1 of each"
            )
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed is {self.seed}: expected 0 to 2^64 - 1")


class Predicted(NamedTuple):
    """Both predictions of a batch of re-noised copies."""

    items: Tensor
    """``[B]`` int64, row times ``draws`` plus draw; a copy may occur twice."""
    weight: Tensor
    """``[B]`` float64, κ of each copy's timestep."""
    uncond: Tensor
    """``[B, elements]``, contiguous."""
    cond: Tensor
    """``[B, elements]``, contiguous."""
    clean: Tensor
    """``[N, elements]`` float32, all latents."""
    noise: tuple[Tensor, Tensor, Tensor, Tensor]
    """Row, key, draw and levels, as ``mitune_kernels.renoise`` takes them."""


def renoised(
    denoise: Callable[[Tensor, Tensor, Any], Tensor],
    z0: Tensor,
    cond: Tensor | Mapping[str, Tensor],
    null: Tensor | Mapping[str, Tensor],
    schedule: Any,
    how: Renoising,
) -> Iterator[Predicted]:
    """Re-noise every latent ``how.draws`` times and predict under both conditionings; arguments and
    errors as of :func:`pointwise_mi`."""
    draws, seed, batch = how.draws, how.seed, how.batch
    if not isinstance(schedule, Schedule):
        schedule = Schedule.levels(schedule)
    rows = len(z0)
    given, empty = _record(cond), _record(null)
    _check_rows(given, empty, rows)
    device, process = z0.device, schedule.process.to(z0.device)
    convention = how.convention or next(iter(process.conventions))
    least = process.least_t(convention, how.t_min)
    # Flatten each row, so that every operation below works for latents of any rank.
    clean = z0.detach().float().reshape(rows, -1).contiguous()
    pairs = getattr(denoise, "pairs", None)
    copies = 2 if pairs is None else 1
    for items in torch.arange(rows * draws, device=device).split(batch):
        if getattr(denoise, "fixed_shapes", False):  # a smaller last batch would recompile
            items = torch.cat([items, items[-1:].expand(batch - len(items))])
        row, draw = items // draws, items % draws
        source = torch.zeros_like(row) if how.shared_noise else row
        t = process.draw_t(_places(seed, source, draw, draws), least)
        noise = row, noise_keys(seed, source), draw, _noise_levels(process, t)
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
        weight = process.mi_weight(t, convention)
        yield Predicted(items, weight, uncond, conditional, clean, noise)


def _noise_levels(process: Process, t: Tensor) -> Tensor:
    """``[B, 4]`` float32 for ``mitune_kernels.renoise``: signal and spread of z_t, then the
    coefficients of noise and clean latent in the prediction target."""
    signal, spread = process.levels(t)
    return torch.stack((signal, spread, *target(process.prediction, signal, spread)), dim=1).float()


def _places(seed: int, row: Tensor, draw: Tensor, draws: int) -> Tensor:
    """Stratified positions in [0, 1), float64: draw d is uniform in the d-th of ``draws`` parts."""
    word = philox(_keys(seed, row, _STREAM[1]), draw, 1)[:, 0]
    return (draw.double() + word.double() / 2**32) / draws


def noise_keys(seed: int, row: Tensor) -> Tensor:
    """``[B, 4]`` int64: the keys of the noise of rows ``[B]``, as ``mitune_kernels.normal`` takes
    them."""
    return _keys(seed, row, _STREAM[0])


def _keys(seed: int, row: Tensor, stream: int) -> Tensor:
    words = [row.new_full(row.shape, w) for w in (seed & 0xFFFFFFFF, seed >> 32)]
    return torch.stack([*words, row, row.new_full(row.shape, stream)], dim=1)


def _record(cond: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Wrap a plain tensor as a mapping with one entry."""
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
