"""Whether cost grows with the work alone, and memory not at all."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from mitune.bench.memory import peak, reset_peak
from mitune.errors import UserError
from mitune.families.prepared import Prepared
from mitune.families.stable_diffusion import StableDiffusion
from mitune.generate import Counts, SamplerConfig, generate

TIMES = 10


def measure_scale(
    model: StableDiffusion,
    prompts: Sequence[str],
    *,
    candidates: int,
    sampler: SamplerConfig,
    slots: int,
    backend: str,
) -> dict[str, Any]:
    """Ten times the candidates, and ten times the prompts, against the work itself.

    Args:
        model: from ``mitune.load``.
        prompts: ten times as many as the smaller runs take.
        candidates: of each prompt in the smaller runs; a whole number of times ``slots`` for each
            prompt keeps the slots equally full in all of them.
        sampler, slots, backend: of all runs.

    Returns:
        For ``candidates`` and ``prompts``: ``seconds`` of the smaller and of the larger run, their
        ``ratio``, and ``grown_bytes``, by how much the larger one's peak of the process's memory
        is above the smaller one's (of the GPU's memory on a GPU).

    Raises:
        UserError: prompts that are no multiple of ten.
    """
    if not prompts or len(prompts) % TIMES:
        raise UserError(f"prompts is {len(prompts)}: expected a multiple of {TIMES}")
    few = prompts[: len(prompts) // TIMES]
    prepared = Prepared(model, backend)

    def run(texts: Sequence[str], pool: int) -> tuple[float, int, Counts]:
        counts = Counts()
        reset_peak(model.device)
        start = time.perf_counter()
        made = 0
        for _ in generate(
            prepared, texts, candidates=pool, sampler=sampler, slots=slots, counts=counts
        ):
            made += 1
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        assert made == len(texts) * pool
        return time.perf_counter() - start, peak(model.device), counts

    run(few, candidates)  # compiles, and lets the allocator find its size
    result: dict[str, Any] = {}
    for name, texts, pool in (
        ("candidates", few, TIMES * candidates),
        ("prompts", prompts[: TIMES * len(few)], candidates),
    ):
        # The median of three: the smaller run is short, and its noise is the ratio's.
        small, before, _ = sorted((run(few, candidates) for _ in range(3)), key=lambda r: r[0])[1]
        large, after, counts = run(texts, pool)
        result[name] = {
            "seconds": [small, large],
            "ratio": large / small,
            "grown_bytes": after - before,
            "peak_bytes": after,
            "occupancy": counts.occupancy,
        }
    return result
