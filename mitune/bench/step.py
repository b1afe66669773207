"""The fused step against eager torch, torch.compile and a copy of the same bytes, in one run."""

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
from mitune.worlds.shapes.prompts import prompts

Run = Callable[[], object]
GUIDANCE = 7.5


class Case:
    """Random inputs of one size, on fixed buffers, and the ways to take a step on them.

    Args:
        rows, elements: of the latents; float32, as are the predictions.
        noisy: whether the step adds noise.
        device: where.
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
        """One read of both predictions and the latent, one write of the next latent."""

    def fused(self, implementation: str) -> Run:
        """``mitune_kernels.step_out`` by that name."""
        inputs = self.uncond, self.cond, self.z, self.score, self.index, self.key, self.table
        return lambda: mitune_kernels.step_out(*inputs, GUIDANCE, *self.out, impl=implementation)

    def eager(self) -> Run:
        """The same in torch as one would write it, with torch's own generator for the noise."""
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
        """torch.compile of the reference, keyed noise included."""
        step = torch.compile(reference_step.step, fullgraph=True, dynamic=False)
        inputs = self.uncond, self.cond, self.z, self.score, self.index, self.key, self.table
        return lambda: step(*inputs, GUIDANCE)

    def copy(self) -> Run:
        """A copy that moves as many bytes."""
        source = torch.stack((self.uncond, self.cond))
        target = torch.empty_like(source)
        return lambda: target.copy_(source)


def timeable(device: torch.device) -> list[str]:
    """The implementations that run there as they are meant to: not those that a test runs on a CPU
    in a GPU's place."""
    kinds = ("reference", "cpp") if device.type == "cpu" else ("reference", "triton", "cuda")
    missing = mitune_kernels.implementations()
    return [name for name in kinds if missing[name] is None]


def median_seconds(run: Run, at_least: float = 1.0) -> float:
    """Median time of one call, over at least so many seconds of calls, after a warm-up; waits for
    the device."""
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
    """Time every way to take a step; on a GPU also compare every implementation with the reference,
    and write down which ``auto`` may take there from now on (``mitune_kernels.checked``).

    Args:
        rows, elements: of the latents.
        device: where.
        compiled: also torch.compile of the reference.
        file: JSON lines; what is there is not measured again (``mitune.bench.figures``).

    Returns:
        The setting, and for each implementation (and ``eager``, ``compiled``) ``seconds``,
        ``ratio_vs_eager`` (eager's time over its own) and ``bandwidth_fraction`` (its bytes per
        second over the copy's), without noise and, under ``noise``, the same with it; on a GPU
        ``refused``, the fault of each implementation that differs from the reference.
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
    """The fault of an implementation on a GPU, one that does not even run there among them."""
    try:
        return {"fault": fault(name, device)}
    except (RuntimeError, ValueError) as error:
        return {"fault": " ".join(str(error).split())[:300]}


def _timed(
    rows: int, elements: int, noisy: bool, device: torch.device, names: list[str], compiled: bool
) -> dict[str, Any]:
    """Median seconds of each way to take a step, and the bytes that it has to move."""
    case = Case(rows, elements, noisy=noisy, device=device)
    runs = {"eager": case.eager()} | {name: case.fused(name) for name in names}
    if compiled:
        runs["compiled"] = case.compiled()
    runs["copy"] = case.copy()
    # In turns, so that a machine that is slower for a while is so for all of them.
    taken = [{name: median_seconds(run, 0.3) for name, run in runs.items()} for _ in range(5)]
    seconds = {name: median(turn[name] for turn in taken) for name in runs}
    return {"bytes": case.bytes, "seconds": seconds}


def measure_share(slots: int = 100, steps: int = 4) -> dict[str, float]:
    """What part of a tick of the embedded model the step is.

    Returns:
        Seconds of one tick with ``slots`` candidates in flight, of the step in it, and their ratio.
    """
    model = mitune.load("shapes")
    texts = (prompts("test") * slots)[:slots]
    sampler = SamplerConfig(steps=steps)

    def run() -> None:
        made = generate(model, texts, candidates=1, sampler=sampler, slots=slots)
        assert len(list(made)) == slots

    tick = median_seconds(run) / steps
    elements = model.latent_shape[0] * model.latent_shape[1] * model.latent_shape[2]
    case = Case(slots, elements, noisy=True, device=model.device)
    step = median_seconds(case.fused("auto"))
    return {"slots": slots, "tick_seconds": tick, "step_seconds": step, "share": step / tick}
