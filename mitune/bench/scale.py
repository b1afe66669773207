"""Check that time grows in proportion to the work and memory does not grow."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mitune_kernels.dispatch import choose

from mitune.bench.figures import Figures, doing, on
from mitune.bench.memory import peak, reset_peak
from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.engine.request import EngineStats
from mitune.engine.stream import generate
from mitune.models.protocol import LatentModel
from mitune.runtime.prepared import Prepared

TIMES = 10


def measure_scale(
    model: LatentModel,
    prompts: Sequence[str],
    *,
    candidates: int,
    sampler: SamplerConfig,
    slots: int,
    backend: str,
    implementation: str = "auto",
    file: Path | None = None,
) -> dict[str, Any]:
    """Compare a run with one of ten times the candidates, and with one of ten times the prompts.

    Args:
        model: from ``mitune.load``.
        prompts: ten times as many as the smaller runs use.
        candidates: candidates of each prompt in the smaller runs; a multiple of ``slots`` keeps the
            slots equally full in all runs.
        sampler, slots, backend, implementation: settings of all runs.
        file: a JSON lines file; a run that it holds is not repeated (``mitune.bench.figures``).

    Returns:
        For each of ``candidates`` and ``prompts``: ``seconds`` of the smaller and of the larger
        run, their ``ratio``, ``grown_bytes`` (the larger run's peak memory minus the smaller run's;
        GPU memory on a GPU, else that of the process), and the larger run's ``peak_bytes`` and
        ``occupancy``.

    Raises:
        UserError: if the number of prompts is not a multiple of ten, or the file is of another
            setting.
    """
    if not prompts or len(prompts) % TIMES:
        raise UserError(f"prompts is {len(prompts)}: expected a multiple of {TIMES}")
    few = prompts[: len(prompts) // TIMES]
    setting = {
        "bench": "scale",
        "model": model.name,
        "prompts": list(prompts),
        "candidates": candidates,
        "sampler": asdict(sampler),
        "slots": slots,
        "backend": backend,
        "step": choose(implementation, model.device),
    }
    figures = Figures(file, {**setting, **on(model.device)})
    prepared = Prepared(model, backend)

    def run(texts: Sequence[str], pool: int) -> dict[str, Any]:
        stats = EngineStats()
        reset_peak(model.device)
        start = time.perf_counter()
        made = 0
        for _ in generate(
            prepared,
            texts,
            candidates=pool,
            sampler=sampler,
            slots=slots,
            implementation=implementation,
            stats=stats,
        ):
            made += 1
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        assert made == len(texts) * pool
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "peak": peak(model.device), "occupancy": stats.occupancy}

    doing("compiling and warming up")
    run(few, candidates)  # also lets the allocator reach its final size
    result: dict[str, Any] = {}
    for name, texts, pool in (
        ("candidates", few, TIMES * candidates),
        ("prompts", prompts[: TIMES * len(few)], candidates),
    ):
        # Use the median of three: the smaller run is short, so its noise dominates the ratio.
        smaller = [
            figures.measured(f"{name}, smaller run {i}", partial(run, few, candidates))
            for i in range(3)
        ]
        small = sorted(smaller, key=lambda found: float(found["seconds"]))[1]
        large = figures.measured(f"{name}, larger run", partial(run, texts, pool))
        result[name] = {
            "seconds": [small["seconds"], large["seconds"]],
            "ratio": large["seconds"] / small["seconds"],
            "grown_bytes": large["peak"] - small["peak"],
            "peak_bytes": large["peak"],
            "occupancy": large["occupancy"],
        }
    return result
