"""Measure the way from the authors' trainer to ours on one model and one set: speed, memory, and
the differences of gradients and losses."""

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
"""Samples of all steps of the paper's run, which took 8 h on an A100."""
RUNGS = ("authors", "fair", "peft", "merged", "compiled", "captured", "ours")
"""``captured`` runs only on a GPU; there ``ours`` uses CUDA graphs too."""


class Trainer(Protocol):
    """The interface of a rung."""

    parameters: dict[str, nn.Parameter]

    def gradient(self, step: int) -> float:
        """Store the batch's gradient in the parameters' ``.grad``; returns the loss."""
        ...

    def update(self) -> None:
        """Take the optimizer step."""
        ...


class OurTrainer:
    """Takes steps as ``mitune.tune`` does."""

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
    """The settings that all rungs share."""

    model: LatentModel
    """In float32, without an adapter. It does not change: each rung has its own denoiser."""
    pairs: Sequence[tuple[str, Tensor]]
    config: TuneConfig
    steps: int
    """Timed optimizer steps. An untimed step before them compiles; its gradient is compared."""
    half: str
    """Precision of the rung ``ours``."""
    exact_samples: int = 2
    """Samples in one pass of the float64 reference. Its attention stores its matrices: 8.4 GiB per
    sample at the size of SD-2.1. 0: no reference, and no gradient is compared."""


def measure_training(
    setting: TrainSetting,
    tell: Callable[[str], None] = lambda line: None,
    only: Collection[str] | None = None,
    file: Path | None = None,
) -> dict[str, Any]:
    """Measure all rungs of RUNGS, or those in ``only`` in its order, on the same samples.

    Args:
        setting: the settings that the rungs share.
        tell: called with a line for each rung.
        only: names of rungs; None: all.
        file: a JSON lines file. Each figure is written as soon as it is known; a figure that the
            file already holds is read and not measured (``mitune.bench.figures``).

    Returns:
        ``device``, the setting, ``rungs`` by name and ``projection`` to the paper's run. A rung has
        ``samples_per_s``, ``peak_bytes`` (of the tensors of model and trainer), ``max_grad_error``
        (the largest relative error of a tensor's gradient at the first step, against peft in
        float64; None without this reference), ``losses`` of the steps, and more.

    Raises:
        UserError: for an unknown name in ``only``, fewer than one step, or a file of another
            setting.
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
            if made is OurTrainer:  # baselines keep the C library's defaults
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
    if config.cuda_graphs:  # record the sizes of which the first step had only one micro-batch
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
    """Floating-point operations of one sample's forward and backward pass through the plain
    denoiser."""
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
    """The first step's gradient through peft in float64, copied to the host; computed with
    ``exact_samples`` samples in a pass. Empty if ``exact_samples`` is 0."""
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
    """The loss of a step; None, which stands for NaN in JSON, becomes NaN again."""
    found = figures["losses"][step]
    return math.nan if found is None else float(found)


def explain(result: dict[str, Any]) -> str:
    """The text below the table: the ratios, the differences of the losses, and the projection."""
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
