"""From the authors' trainer to ours on one model and one set: speed, memory, and how near the
gradients and the losses are."""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mitune.adapters import adapter
from mitune.bench.baselines import AuthorsTrainer, FairTrainer
from mitune.bench.baselines.trainers import Pairs
from mitune.bench.figures import Figures, doing, on
from mitune.bench.flops import peak_flops
from mitune.bench.memory import TensorPeak
from mitune.bench.rungs import with_own_denoiser
from mitune.bench.table import add_ratios
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.core.provenance import environment
from mitune.models.protocol import LatentModel, denoiser_of
from mitune.runtime.malloc import keep_freed_memory
from mitune.runtime.mixed_precision import halves_pay
from mitune.training.batches import Batches
from mitune.training.gradient import PeftGradient, gradient_of
from mitune.training.merged import MergedGradient

PAPER_SAMPLES = 300 * 400
"""Sample-steps of the paper's run, which took 8 h on an A100."""
RUNGS = ("authors", "fair", "peft", "merged", "compiled", "captured", "ours")
"""``captured`` is measured on a GPU alone, and there ``ours`` is captured too."""


class Trainer(Protocol):
    """A rung."""

    parameters: dict[str, nn.Parameter]

    def gradient(self, step: int) -> float:
        """Leave the batch's gradient in the parameters; returns the loss."""
        ...

    def update(self) -> None:
        """Move the parameters."""
        ...


class OurTrainer:
    """A step as ``mitune.tune`` takes it."""

    def __init__(self, model: LatentModel, pairs: Pairs, config: TuneConfig) -> None:
        adapter.attach(model, config)
        self.parameters: dict[str, nn.Parameter] = adapter.parameters(model)
        self._config = config
        self._batches = Batches(model, pairs, config)
        self._gradient = gradient_of(model, config)
        self._optimizer = torch.optim.AdamW(self.parameters.values(), fused=True, **config.adamw)

    def gradient(self, step: int) -> float:
        self._gradient.begin()
        shares = [self._gradient.add(samples) for samples in self._batches.step(step)]
        self._gradient.finish()
        return torch.stack(shares).sum().item()

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self._config.clip)
        self._optimizer.step()


@dataclass(frozen=True, kw_only=True)
class TrainSetting:
    """What all rungs share."""

    model: LatentModel
    """In float32, without an adapter; left as it is, each rung has a UNet of its own."""
    pairs: Sequence[tuple[str, Tensor]]
    config: TuneConfig
    steps: int
    """Timed optimizer steps; one before them compiles and is compared."""
    half: str
    """Precision of the rung ``ours``."""
    exact_samples: int = 2
    """Of one pass of the reference in float64, whose attention keeps its matrices: of SD-2.1's size
    8.4 GiB a sample. 0: no reference, and no gradient is compared."""


def measure_training(
    setting: TrainSetting,
    tell: Callable[[str], None] = lambda line: None,
    only: Collection[str] | None = None,
    file: Path | None = None,
) -> dict[str, Any]:
    """All rungs of RUNGS, or those in ``only`` in its order, on the same samples.

    Args:
        setting: what they share.
        tell: called with a line for each rung.
        only: names of rungs; None: all.
        file: JSON lines. Every figure is there as soon as it is known, and one that is there
            already is read, not measured (``mitune.bench.figures``).

    Returns:
        ``device``, the setting, ``rungs`` by name (``samples_per_s``, ``peak_bytes`` of tensors,
        the model's and the trainer's, ``max_grad_error``: the largest relative error of a tensor's
        gradient at the first step, against peft in float64 and None where that does not fit,
        ``losses`` of the steps) and ``projection`` to the paper's run.

    Raises:
        UserError: an unknown name in ``only``, no step, or a file of another setting.
    """
    for name in only or ():
        if name not in RUNGS:
            raise UserError(f"rung {name!r} is not known: choose from {', '.join(RUNGS)}")
    config = setting.config
    if setting.steps < 1:
        raise UserError(f"iterations is {setting.steps}: expected at least 1")
    model = setting.model
    shared = {
        "bench": "train",
        "model": model.name,
        "pairs": len(setting.pairs),
        "config": asdict(config),
        "steps": setting.steps,
        "half": setting.half,
    }
    figures = Figures(file, {**shared, **on(model.device)})
    flops = figures.measured("model", lambda: {"flops": _flops(setting)})["flops"]
    merged = replace(config, gradient="merged")
    compiled = replace(merged, backend="inductor")
    on_gpu = model.device.type == "cuda"
    captured = replace(compiled, cuda_graphs=on_gpu)
    plans: dict[str, tuple[str, Any, TuneConfig]] = {
        "authors": ("float32", AuthorsTrainer, config),
        "fair": ("bfloat16" if halves_pay(model.device) else "float32", FairTrainer, config),
        "peft": ("float32", OurTrainer, replace(config, gradient="peft")),
        "merged": ("float32", OurTrainer, merged),
        "compiled": ("float32", OurTrainer, compiled),
        "captured": ("float32", OurTrainer, captured),
        "ours": (setting.half, OurTrainer, captured),
    }
    exact: dict[str, Tensor] | None = None
    for name in RUNGS if only is None else only:
        if name == "captured" and not on_gpu:
            continue
        known = figures.get(name)
        if known is None:
            if exact is None:
                exact = _reference(setting)
            precision, made, its = plans[name]
            if made is OurTrainer:  # a baseline has what the C library does by itself
                keep_freed_memory()
            doing(f"rung {name}: building, and compiling what compiles, for a first step")
            own = with_own_denoiser(model, precision)
            known = figures.put(name, **_measure(made, own, setting, its, exact, flops))
        tell(describe(name, known))
    rungs = {name: dict(known) for name in RUNGS if (known := figures.get(name)) is not None}
    add_ratios(rungs, "samples_per_s")
    return {
        **environment(model.device),
        "model": model.name,
        "pairs": len(setting.pairs),
        "batch": config.batch,
        "micro_batch": config.micro_batch,
        "precision": setting.half,
        "tflop_per_sample": flops / 1e12,
        "rungs": rungs,
        "projection": {
            "what": "hours for the paper's 300 x 400 sample-steps at this rate on this device with "
            "this model; the paper: 8 h on an A100 with SD-2.1-base",
            "hours": {n: PAPER_SAMPLES / f["samples_per_s"] / 3600 for n, f in rungs.items()},
        },
    }


def _measure(
    made: Callable[[LatentModel, Pairs, TuneConfig], Trainer],
    model: LatentModel,
    setting: TrainSetting,
    config: TuneConfig,
    exact: dict[str, Tensor],
    flops: float,
) -> dict[str, Any]:
    on_gpu = model.device.type == "cuda"
    begin = time.perf_counter()
    trainer = made(model, setting.pairs, config)
    losses = [trainer.gradient(0)]
    errors = [
        float((p.grad.double().cpu() - exact[name]).norm() / exact[name].norm())
        for name, p in trainer.parameters.items()
        if p.grad is not None and name in exact and float(exact[name].norm()) > 0
    ]
    trainer.update()
    if config.cuda_graphs:  # a size's second micro-batch is recorded, if the first step had one
        trainer.gradient(0)
    if on_gpu:
        torch.cuda.synchronize(model.device)
    first = time.perf_counter() - begin
    doing(f"measuring, after {first:.1f} s")
    memory = TensorPeak(model.device)
    start = time.perf_counter()
    for step in range(1, setting.steps + 1):
        losses.append(trainer.gradient(step))
        trainer.update()
    if on_gpu:
        torch.cuda.synchronize(model.device)
    seconds = time.perf_counter() - start
    rate = setting.steps * config.batch / seconds
    peak = peak_flops(model.device)
    return {
        "samples_per_s": rate,
        "seconds": seconds,
        "first_step_s": first,
        "tflop_per_s": rate * flops / 1e12,
        "mfu": None if peak is None else rate * flops / peak,
        "peak_bytes": memory.bytes(),
        "max_grad_error": max(errors, default=None),
        "losses": losses,
    }


def _flops(setting: TrainSetting) -> float:
    """The arithmetic of a sample's pass, forward and backward, through the plain UNet; on one
    sample."""
    doing("counting the arithmetic of a sample")
    model = with_own_denoiser(setting.model, "float32")
    one = replace(setting.config, batch=1, micro_batch=1)
    adapter.attach(model, one)
    with FlopCounterMode(display=False) as counter:
        made = MergedGradient(model, one)
        made.begin()
        for samples in Batches(model, setting.pairs, one).step(0):
            made.add(samples)
    return float(counter.get_total_flops())


def _reference(setting: TrainSetting) -> dict[str, Tensor]:
    """The first step's gradient through peft in float64, on the host; ``exact_samples`` of a pass
    at a time. Empty where no pass is asked for."""
    if setting.exact_samples == 0:
        return {}
    config = setting.config
    total = -(-config.batch // setting.exact_samples)
    model = with_own_denoiser(setting.model, "float32")
    adapter.attach(model, config)
    denoiser_of(model).double()
    model.dtype = torch.float64
    exact = PeftGradient(model, config)
    exact.begin()
    begin = time.perf_counter()
    for number, samples in enumerate(
        Batches(model, setting.pairs, config).step(0, setting.exact_samples)
    ):
        if number in (0, 1) or number % 20 == 0:
            doing(f"reference gradient in float64: pass {number + 1} of {total}")
        exact.add(samples)
    doing(f"reference gradient took {time.perf_counter() - begin:.1f} s")
    grads = {n: p.grad for n, p in adapter.parameters(model).items()}
    return {n: grad.cpu() for n, grad in grads.items() if grad is not None}


def describe(name: str, figures: dict[str, Any]) -> str:
    """One line of the table."""
    memory, mfu, error = (figures[name] for name in ("peak_bytes", "mfu", "max_grad_error"))
    return (
        f"{name:<10} {figures['samples_per_s']:10.1f} {figures['tflop_per_s']:8.3f} "
        f"{'' if mfu is None else format(mfu, '.0%'):>5} "
        f"{'' if memory is None else format(memory / 2**20, '.0f'):>9} "
        f"{'' if error is None else format(error, '.1e'):>11} {_loss(figures):10.6f}"
    )


def _loss(figures: dict[str, Any], step: int = -1) -> float:
    """NaN, which JSON has not, is None there."""
    found = figures["losses"][step]
    return math.nan if found is None else float(found)


def explain(result: dict[str, Any]) -> str:
    """The ratios, how far the losses part, and the projection."""
    rungs = result["rungs"]
    first = next(iter(rungs.values()))
    lines = ["", f"{'rung':<10} {'x authors':>9} {'x fair':>7} {'loss apart':>11} {'hours':>7}"]
    for name, figures in rungs.items():
        ratios = [figures[f"ratio_vs_{base}"] or math.nan for base in ("authors", "fair")]
        steps = range(len(figures["losses"]))
        apart = max(abs(_loss(figures, i) / _loss(first, i) - 1) for i in steps)
        hours = result["projection"]["hours"][name]
        lines.append(f"{name:<10} {ratios[0]:9.2f} {ratios[1]:7.2f} {apart:11.1e} {hours:7.2f}")
    return "\n".join([*lines, f"(projected: {result['projection']['what']})"])


HEADER = (
    f"{'rung':<10} {'samples/s':>10} {'TFLOP/s':>8} {'MFU':>5} {'peak MiB':>9} "
    f"{'grad. error':>11} {'last loss':>10}"
)
