"""Time the fused step against eager torch, torch.compile and a copy of the same number of bytes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import mitune_kernels
import torch
from mitune_kernels import checked, reference_step
from torch import Tensor
from torch.utils.benchmark import Timer

import mitune
from mitune.bench.figures import Figures, doing, on
from mitune.bench.verify import fault
from mitune.config.sampling import SamplerConfig
from mitune.core.provenance import device_name
from mitune.engine.stream import generate
from mitune.runtime.cuda_graphs import capture
from mitune.worlds.shapes.world import SHAPES

Run = Callable[[], object]
GUIDANCE = 7.5
_REPLAYED = 20
"""Steps in one CUDA graph."""


class Case:
    """Random inputs of one size in fixed buffers, and the ways to compute a step on them.

    Args:
        rows, elements: shape of the latents; float32, like the predictions.
        noisy: whether the step adds noise.
        device: the device of the buffers.
    """

    def __init__(self, rows: int, elements: int, *, noisy: bool, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(3, rows, elements, generator=generator).to(device)
        self.uncond, self.cond, self.z = latents
        self.table = torch.tensor([[1.01, -0.2, 0.5 if noisy else 0.0, 0.1, 999.0]], device=device)
        self.index = torch.zeros(rows, dtype=torch.int64, device=device)
        self.key = torch.randint(0, 2**32, (rows, 4), generator=generator).to(device)
        self.score = torch.zeros(rows, device=device)
        self.out = (
            torch.empty_like(self.z),
            torch.empty_like(self.score),
            torch.empty(rows, 2, device=device),
        )
        self.noisy = noisy
        self.bytes = 4 * self.z.numel() * 4
        """Bytes of one read of both predictions and the latent, and one write of the next latent.
        """

    def fused(self, implementation: str) -> Run:
        """``mitune_kernels.step_out`` with that implementation."""
        inputs = self.uncond, self.cond, self.z, self.score, self.index, self.key, self.table
        return lambda: mitune_kernels.step_out(*inputs, GUIDANCE, *self.out, impl=implementation)

    def eager(self) -> Run:
        """The same step in straightforward torch, with noise from torch's own generator."""
        a, b, sigma, weight, _ = self.table[0].tolist()

        def run() -> tuple[Tensor, ...]:
            delta = self.cond - self.uncond
            squared = (delta * delta).sum(1)
            cross = (self.uncond * delta).sum(1)
            z_next = a * self.z + b * (self.uncond + GUIDANCE * delta)
            if self.noisy:
                z_next = z_next + sigma * torch.randn_like(self.z)
            return z_next, self.score + weight * squared, torch.stack((squared, cross), dim=1)

        return run

    def compiled(self) -> Run:
        """torch.compile of the reference, including the keyed noise."""
        step = torch.compile(reference_step.step, fullgraph=True, dynamic=False)
        inputs = self.uncond, self.cond, self.z, self.score, self.index, self.key, self.table
        return lambda: step(*inputs, GUIDANCE)

    def copy(self) -> Run:
        """A copy that moves the same number of bytes."""
        source = torch.stack((self.uncond, self.cond))
        target = torch.empty_like(source)
        return lambda: target.copy_(source)


def timeable(device: torch.device) -> list[str]:
    """The implementations that are meant for the device. Excludes those that run on a CPU only in
    tests, in place of a GPU."""
    kinds = ("reference", "cpp") if device.type == "cpu" else ("reference", "triton", "cuda")
    missing = mitune_kernels.implementations()
    return [name for name in kinds if missing[name] is None]


def median_seconds(run: Run, at_least: float = 1.0) -> float:
    """Median time of one call, after a warm-up, over calls for at least ``at_least`` seconds.
    Synchronizes with the device."""
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=at_least).median)


def measure(
    rows: int = 128,
    elements: int = 16384,
    *,
    device: torch.device | str = "cpu",
    compiled: bool = True,
    file: Path | None = None,
) -> dict[str, Any]:
    """Time every way to compute a step. On a GPU, also compare every implementation with the
    reference, and record which ones ``auto`` may use on it from now on
    (``mitune_kernels.checked``).

    Args:
        rows, elements: shape of the latents.
        device: the device to measure.
        compiled: also time torch.compile of the reference.
        file: a JSON lines file; figures that it holds are not measured again
            (``mitune.bench.figures``).

    Returns:
        The setting, ``bytes`` and ``copy_gb_per_s``, and for each implementation (and ``eager``,
        ``compiled``) ``seconds``, ``ratio_vs_eager`` (eager's time divided by its own) and
        ``bandwidth_fraction`` (its bytes per second divided by the copy's), without noise and,
        under ``noise``, with it. On a GPU also ``refused``, the fault of each implementation that
        differs from the reference.
    """
    device = torch.device(device)
    setting = {"bench": "step", "rows": rows, "elements": elements, "compiled": compiled}
    figures = Figures(file, {**setting, **on(device)})
    result: dict[str, Any] = {
        "device": device_name(device),
        "rows": rows,
        "elements": elements,
    }
    names = timeable(device)
    refused: dict[str, str] = {}
    if device.type == "cuda":
        for name in names[1:]:
            found = figures.measured(
                f"{name} against the reference", partial(_compared, name, device)
            )
            if found["fault"] is not None:
                refused[name] = found["fault"]
        names = [name for name in names if name not in refused]
        result["refused"] = refused
    for noisy in (False, True):
        kind = "with noise" if noisy else "without noise"
        known = figures.measured(
            kind, partial(_timed, rows, elements, noisy, device, names, compiled)
        )
        seconds = dict(known["seconds"])
        copy = seconds.pop("copy")
        if not noisy:
            result |= {"bytes": known["bytes"], "copy_gb_per_s": known["bytes"] / copy / 1e9}
        for name, own in seconds.items():
            case = {
                "seconds": own,
                "ratio_vs_eager": seconds["eager"] / own,
                "bandwidth_fraction": copy / own,
            }
            if noisy:
                result[name]["noise"] = case
            else:
                result[name] = case
    if device.type == "cuda":
        taken = {n: result[n]["seconds"] + result[n]["noise"]["seconds"] for n in names}
        doing(f"written down for auto: {checked.record(device, taken, refused)}")
    return result


def _compared(name: str, device: torch.device) -> dict[str, Any]:
    """The fault of an implementation on a GPU, including a failure to run there at all."""
    try:
        return {"fault": fault(name, device)}
    except (RuntimeError, ValueError) as error:
        return {"fault": " ".join(str(error).split())[:300]}


def _timed(
    rows: int, elements: int, noisy: bool, device: torch.device, names: list[str], compiled: bool
) -> dict[str, Any]:
    """Median seconds of each way to compute a step, and the bytes that a step has to move."""
    case = Case(rows, elements, noisy=noisy, device=device)
    runs = {"eager": case.eager()} | {name: case.fused(name) for name in names}
    if compiled:
        runs["compiled"] = case.compiled()
    runs["copy"] = case.copy()
    times = 1
    if device.type == "cuda":  # in a graph, as a tick runs it: a launch takes longer than the step
        times = _REPLAYED
        runs = {name: capture(partial(_repeat, run, times), device) for name, run in runs.items()}
    # Take turns, so that a period in which the machine is slower affects all of them.
    taken = [{name: median_seconds(run, 0.3) for name, run in runs.items()} for _ in range(5)]
    seconds = {name: median(turn[name] for turn in taken) / times for name in runs}
    return {"bytes": case.bytes, "seconds": seconds}


def _repeat(run: Run, times: int) -> None:
    for _ in range(times):
        run()


def measure_share(slots: int = 100, steps: int = 4) -> dict[str, float]:
    """Measure the share of the step in a tick of the embedded model.

    Returns:
        ``slots``, the seconds of one tick with this number of candidates in flight, the seconds of
        the step in it, and the ratio of the two.
    """
    model = mitune.load("shapes")
    texts = (SHAPES.prompts("test") * slots)[:slots]
    sampler = SamplerConfig(steps=steps)

    def run() -> None:
        made = generate(model, texts, candidates=1, sampler=sampler, slots=slots)
        assert len(list(made)) == slots

    tick = median_seconds(run) / steps
    elements = model.latent_shape[0] * model.latent_shape[1] * model.latent_shape[2]
    case = Case(slots, elements, noisy=True, device=model.device)
    step = median_seconds(case.fused("auto"))
    return {"slots": slots, "tick_seconds": tick, "step_seconds": step, "share": step / tick}
