"""Whether cost grows with the work alone, and memory not at all."""

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
    """Ten times the candidates, and ten times the prompts, against the work itself.

    Args:
        model: from ``mitune.load``.
        prompts: ten times as many as the smaller runs take.
        candidates: of each prompt in the smaller runs; a whole number of times ``slots`` for each
            prompt keeps the slots equally full in all of them.
        sampler, slots, backend, implementation: of all runs.
        file: JSON lines; a run that is there is not made again (``mitune.bench.figures``).

    Returns:
        For ``candidates`` and ``prompts``: ``seconds`` of the smaller and of the larger run, their
        ``ratio``, and ``grown_bytes``, by how much the larger one's peak of the process's memory
        is above the smaller one's (of the GPU's memory on a GPU).

    Raises:
        UserError: prompts that are no multiple of ten, or a file of another setting.
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
    run(few, candidates)  # lets the allocator find its size, too
    result: dict[str, Any] = {}
    for name, texts, pool in (
        ("candidates", few, TIMES * candidates),
        ("prompts", prompts[: TIMES * len(few)], candidates),
    ):
        # The median of three: the smaller run is short, and its noise is the ratio's.
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
