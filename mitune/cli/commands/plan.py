"""The verb that estimates what a run will cost: plan."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mitune.arguments.fields import stands_for
from mitune.cli.options.model import Output
from mitune.config.choices import Backend, Precision
from mitune.core.errors import UserError

if TYPE_CHECKING:
    from mitune.fleet.cost import Cost, Job
    from mitune.fleet.rates import Denoiser


@dataclass(frozen=True, kw_only=True)
class Plan(Output):
    """Say what a set and a training will cost: hours, energy, money, storage. Says which rates were
    measured and which are assumed."""

    model: Annotated[str | None, stands_for("the paper's, which is not loaded")] = None
    """A model to load, whose operations are counted."""
    gpu: Annotated[str | None, stands_for("H200, or with --measure this machine")] = None
    """The kind of GPU: A100, L40S, H100, H200 or B200."""
    gpus: int = 1
    """How many."""
    prompts: str = "700"
    """Number of prompts, or their file."""
    candidates: int = 50
    """Of each prompt."""
    keep: int = 1
    """Kept of each prompt."""
    steps: int = 50
    """Of sampling."""
    draws: int = 0
    """Re-noised draws of each candidate, of the estimators that score by them."""
    passes: float = 1.0
    """Share of the passes that pruning leaves."""
    iterations: int = 300
    """Optimizer steps of the training."""
    batch: int = 400
    """Samples of an optimizer step."""
    rounds: int = 1
    """Of set and training."""
    price: Annotated[float | None, stands_for("no cost is told")] = None
    """Of a GPU-hour."""
    rate: Annotated[float | None, stands_for("that of the kind of GPU")] = None
    """Candidates a second of one of your devices, as mitune bench generate or a set's progress told
    it for these steps."""
    measure: bool = False
    """Measure generation on this machine, for a minute."""
    backend: Backend = "eager"
    """With --measure: what runs the denoiser."""
    precision: Precision = "float32"
    """With --measure: of the denoiser."""

    def run(self) -> dict[str, Any]:
        from mitune.fleet.cost import paper_cost, set_cost, stored_bytes, table, training_cost
        from mitune.fleet.rates import find_board

        job = self._job()
        here = self.measure or self.rate is not None
        board = None if here and self.gpu is None else find_board(self.gpu or "H200")
        denoiser, rate, basis = self._denoiser(job)
        costs = [set_cost(job, denoiser, board, rate, basis)]
        if board is not None:
            costs.append(training_cost(job, denoiser, board))
        print(table(job, denoiser, costs, devices=self.gpus, price=self.price))
        if board is None:
            print("training: its rate is not known here; mitune bench train measures it")
        return {
            "job": asdict(job),
            "flop_per_pass": denoiser.flops,
            "costs": [self._told(cost) for cost in costs],
            "stored_bytes": stored_bytes(job, denoiser),
            "authors_hours": dict(zip(("set", "training"), paper_cost(job), strict=True)),
        }

    def _job(self) -> "Job":
        from mitune.core.prompts import read_prompts
        from mitune.fleet.cost import Job

        whole = {
            name: getattr(self, name)
            for name in ("candidates", "keep", "steps", "iterations", "batch", "rounds", "gpus")
        }
        number = self.prompts.isascii() and self.prompts.isdigit()
        prompts = int(self.prompts) if number else len(read_prompts(Path(self.prompts)))
        for name, value in {"prompts": prompts, **whole}.items():
            if value < 1:
                raise UserError(f"{name} is {value}: expected at least 1")
        if self.draws < 0 or not 0 < self.passes <= 1:
            raise UserError(
                f"draws is {self.draws}, passes is {self.passes}: expected no negative number of "
                "draws and a share above 0, at most 1"
            )
        for name in ("rate", "price"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UserError(f"{name} is {value}: expected a positive number")
        del whole["gpus"]
        return Job(prompts=prompts, draws=self.draws, passes=self.passes, **whole)

    def _denoiser(self, job: "Job") -> "tuple[Denoiser, float | None, str]":
        """What a pass costs, the passes a second if they are known, and where from."""
        from mitune.fleet.rates import PAPER_MODEL

        if self.rate is not None and self.measure:
            raise UserError("--rate and --measure are given: expected one of them")
        if self.measure and self.model is None:
            raise UserError("--measure is given without --model: expected a model to measure")
        denoiser, rate, basis = PAPER_MODEL, None, ""
        if self.model is not None:
            from mitune.config.runtime import Runtime
            from mitune.core.progress import quiet_libraries
            from mitune.fleet.measure import denoiser_of, measured_rate
            from mitune.load import load

            quiet_libraries()
            model = load(self.model, precision=self.precision)
            denoiser = denoiser_of(model, self.model)
            if self.measure:
                rate = measured_rate(model, Runtime(backend=self.backend))
                basis = f"measured here, {rate:.3g} passes a second"
        if self.rate is not None:
            rate = self.rate * job.rows / job.pool
            basis = f"given, {self.rate:g} candidates a second"
        return denoiser, rate, basis

    def _told(self, cost: "Cost") -> dict[str, Any]:
        money = None if self.price is None else cost.hours * self.price
        return {**asdict(cost), "wall_hours": cost.hours / self.gpus, "cost": money}
