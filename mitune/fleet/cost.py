"""What a set and a training will cost: hours, energy, money, storage."""

from collections.abc import Sequence
from dataclasses import dataclass

from mitune.fleet.rates import (
    JOULES,
    MFU,
    PAPER_MODEL,
    TRAINING_MFU,
    Board,
    Denoiser,
    paper_seconds,
)

PAPER = (24.0, 8.0)
"""Hours on one A100 of the paper's set and training, as it states them (appendix)."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be made; the defaults are the paper's.

    Attributes:
        prompts, candidates, keep: of the set.
        steps: of sampling; each takes a conditional and an unconditional pass.
        draws: of re-noising for each candidate, of the estimators that do; each takes both passes.
        passes: share of the passes that pruning leaves.
        iterations, batch: of the training; samples of a step.
        rounds: of set and training.
    """

    prompts: int = 700
    candidates: int = 50
    keep: int = 1
    steps: int = 50
    draws: int = 0
    passes: float = 1.0
    iterations: int = 300
    batch: int = 400
    rounds: int = 1

    @property
    def pool(self) -> int:
        """Candidates of all prompts."""
        return self.prompts * self.candidates

    @property
    def rows(self) -> float:
        """Passes of the denoiser for one row, of the set of one round."""
        return self.pool * (2 * self.steps * self.passes + 2 * self.draws)

    @property
    def samples(self) -> int:
        """Training samples of one round."""
        return self.iterations * self.batch


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one activity over all rounds, on one device.

    Attributes:
        what: for people.
        hours: of one device.
        kilowatt_hours: of the boards alone.
        basis: where the rate is from.
    """

    what: str
    hours: float
    kilowatt_hours: float | None
    basis: str


def stored_bytes(job: Job, denoiser: Denoiser) -> float:
    """Bytes of the sets of all rounds, before compression: two float32 terms for each step and
    candidate, and the kept latents."""
    terms = job.pool * job.steps * 2 * 4
    return float(job.rounds * (terms + job.prompts * job.keep * denoiser.latent * 4))


def set_cost(
    job: Job, denoiser: Denoiser, board: Board | None, rate: float | None, basis: str = ""
) -> Cost:
    """Of building the sets.

    Args:
        job, denoiser: what is made.
        board: by its table; its watts count in any case.
        rate: passes of a row a second; None takes the board's.
        basis: of a given rate.
    """
    rows = job.rows * job.rounds
    if rate is not None:
        seconds = rows / rate
        energy = None if board is None else seconds * board.watts
        return Cost(what="set", hours=seconds / 3600, kilowatt_hours=_kwh(energy), basis=basis)
    assert board is not None
    seconds = rows * denoiser.flops / (board.peak * MFU)
    energy = rows * denoiser.flops * JOULES if board.measured else seconds * board.watts
    told = "measured on one" if board.measured else "assumed, as measured on an H200"
    return Cost(
        what="set",
        hours=seconds / 3600,
        kilowatt_hours=_kwh(energy),
        basis=f"{MFU:.1%} of {board.peak / 1e12:.0f} TFLOP/s, {told}",
    )


def training_cost(job: Job, denoiser: Denoiser, board: Board) -> Cost:
    """Of the trainings: a forward pass and a gradient of twice its operations for each sample."""
    operations = job.samples * job.rounds * 3 * denoiser.flops
    seconds = operations / (board.peak * TRAINING_MFU)
    return Cost(
        what="training",
        hours=seconds / 3600,
        kilowatt_hours=_kwh(seconds * board.watts),
        basis=f"{TRAINING_MFU:.0%} of {board.peak / 1e12:.0f} TFLOP/s, assumed",
    )


def paper_cost(job: Job) -> tuple[float, float]:
    """Hours of the authors' code for the job's set and training on an A100, from what it runs
    (``paper_seconds``). In training, products have a gradient of twice their operations, and
    convolutions, which have no adapter, of once."""
    built = paper_seconds(PAPER_MODEL, job.rows, job.rows)
    trained = paper_seconds(PAPER_MODEL, 3 * job.samples, 2 * job.samples)
    return built * job.rounds / 3600, trained * job.rounds / 3600


def table(
    job: Job, denoiser: Denoiser, costs: Sequence[Cost], *, devices: int, price: float | None
) -> str:
    """The plan, for people."""
    lines = [
        f"{denoiser.name}: {denoiser.flops / 1e9:.3g} GFLOP a pass",
        f"{job.pool} candidates of {job.prompts} prompts in {job.steps} steps, {job.samples} "
        f"training samples, {job.rounds} round{'s' * (job.rounds > 1)}, {devices} "
        f"device{'s' * (devices > 1)}",
        "",
        f"{'':10}{'hours':>9}{'GPU-hours':>11}{'kWh':>8}{'cost':>9}  rate",
    ]
    for cost in costs:
        # A training runs on one device unless torchrun starts it on several; sets divide.
        wall = cost.hours / devices
        energy = "" if cost.kilowatt_hours is None else f"{cost.kilowatt_hours:.1f}"
        money = "" if price is None else f"{cost.hours * price:.0f}"
        lines.append(
            f"{cost.what:10}{wall:9.2f}{cost.hours:11.2f}{energy:>8}{money:>9}  {cost.basis}"
        )
    lines += [
        "",
        f"storage of the sets: {stored_bytes(job, denoiser) / 1e9:.2g} GB before compression",
    ]
    if denoiser is PAPER_MODEL:
        built, trained = paper_cost(job)
        lines.append(
            f"the authors' code on one A100, from float32 products at their peak and TF32 "
            f"convolutions at 60 %: set {built:.1f} h, training {trained:.1f} h"
        )
        if job == Job():
            lines.append(
                f"the paper states {PAPER[0]:.0f} h and {PAPER[1]:.0f} h; the rest of the training "
                "is not explained by what is computed"
            )
    return "\n".join(lines)


def _kwh(joules: float | None) -> float | None:
    return None if joules is None else joules / 3.6e6
