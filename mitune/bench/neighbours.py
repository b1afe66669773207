"""Measure how much slower a job is while other programs run on the same cores.

    python -m mitune.bench.neighbours --out neighbours.jsonl

A job with as many threads as cores gets a fair share of the machine if its time grows as
(threads + busy programs) / cores. Threads that spin while they wait for each other get far less.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mitune.adapters import adapter
from mitune.arguments.module import run_module
from mitune.config.choices import TrainingBackend
from mitune.config.sampling import SamplerConfig
from mitune.core import progress
from mitune.core.environment import SETTINGS, missing
from mitune.core.provenance import as_json, environment
from mitune.diffusion.schedule import Schedule
from mitune.engine.stream import generate
from mitune.load import load
from mitune.models.protocol import LatentModel
from mitune.runtime.prepared import Prepared
from mitune.scoring.estimate import pointwise_mi
from mitune.training.batches import Batches
from mitune.training.gradient import gradient_of
from mitune.worlds.shapes.world import SHAPES


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Time generation, training and scoring of the embedded model, alone and while busy programs
    run."""

    out: Path
    """JSON lines file; each figure is written as soon as it is known. A case that the file already
    holds is not measured again."""
    busy: tuple[int, ...] = (0, 1, 2)
    """Numbers of busy programs to measure with."""
    backends: tuple[TrainingBackend, ...] = ("eager", "inductor")
    """Backends to measure: eager, inductor."""
    slots: int = 64
    """Candidates in a tick of generation, samples in a step of training, re-noised copies in a pass
    of scoring."""
    repeats: int = 7
    """Timings of each case; the median counts."""


@contextmanager
def busy(programs: int) -> Iterator[None]:
    """Run this number of programs that never sleep, for the duration of the block."""
    started = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)
    ]
    try:
        time.sleep(1.0 if programs else 0.0)
        yield
    finally:
        for program in started:
            program.kill()
            program.wait()


def jobs(
    model: LatentModel, backend: TrainingBackend, slots: int
) -> dict[str, Callable[[], object]]:
    """One unit of work of each job; the first call of each warms it up."""
    text = SHAPES.prompts("train")[0]
    prepared = Prepared(model, backend)
    sampler = SamplerConfig(steps=1, guidance=3.0)

    def tick() -> object:
        return list(generate(prepared, [text], candidates=slots, sampler=sampler, slots=slots))

    config = replace(
        model.preset.tuning, batch=slots, micro_batch=slots, gradient="merged", backend=backend
    )
    adapter.attach(model, config)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(slots, *model.latent_shape, generator=generator)
    gradient = gradient_of(model, config)
    (samples,) = Batches(model, [(text, latent) for latent in latents], config).step(0)

    def step() -> object:
        gradient.begin()
        loss = gradient.add(samples)
        gradient.finish()
        return loss

    schedule = Schedule.from_diffusers(model.scheduler, kind="ddpm")
    cond = prepared.encode_prompts([text])

    def score() -> object:
        return pointwise_mi(
            prepared,
            latents[:1],
            cond,
            prepared.encode_null(),
            schedule,
            estimator="standard",
            draws=slots,
            batch=slots,
        )

    return {"generation": tick, "training": step, "scoring": score}


def measure(asked: Neighbours) -> list[dict[str, Any]]:
    """Measure every case that is missing; returns all as dicts: ``job``, ``backend``, ``busy``,
    ``seconds``, ``ratio`` (to the time of the same job alone) and ``of_fair_share`` (that ratio
    divided by the fair one), with the environment."""
    made = []
    if asked.out.exists():
        made = [json.loads(line) for line in asked.out.read_text().splitlines()]
    threads = torch.get_num_threads()
    for backend in asked.backends:
        wanted = {(job, n) for job in ("generation", "training", "scoring") for n in asked.busy}
        done = {(row["job"], row["busy"]) for row in made if row["backend"] == backend}
        if wanted <= done:
            continue
        model = load("shapes", device="cpu")
        for job, unit in jobs(model, backend, asked.slots).items():
            print(f"{backend} {job}: warming up", file=sys.stderr, flush=True)
            unit()
            for programs in asked.busy:
                if (job, programs) in done:
                    continue
                with busy(programs):
                    unit()
                    seconds = median(_timed(unit) for _ in range(asked.repeats))
                alone = next(
                    (
                        row["seconds"]
                        for row in made
                        if (row["job"], row["backend"], row["busy"]) == (job, backend, 0)
                    ),
                    seconds if programs == 0 else float("nan"),
                )
                fair = max(1.0, (threads + programs) / threads)
                row = {
                    "job": job,
                    "backend": backend,
                    "busy": programs,
                    "seconds": seconds,
                    "ratio": seconds / alone,
                    "of_fair_share": seconds / alone / fair,
                    "settings": {name: name not in " ".join(missing()) for name in SETTINGS},
                    **environment(torch.device("cpu")),
                }
                made.append(row)
                with asked.out.open("a") as file:
                    file.write(as_json(row) + "\n")
                print(tell(row), flush=True)
    return made


def main(asked: Neighbours) -> None:
    """Measure all cases and print each figure as soon as it is known."""
    progress.quiet_libraries()
    measure(asked)


def tell(row: dict[str, Any]) -> str:
    """One line of the table."""
    return (
        f"{row['job']:<11} {row['backend']:<9} {row['busy']} busy {row['seconds'] * 1e3:8.1f} ms "
        f"{row['ratio']:6.2f} x alone {row['of_fair_share']:6.2f} x fair share"
    )


def _timed(unit: Callable[[], object]) -> float:
    start = time.perf_counter()
    unit()
    return time.perf_counter() - start


if __name__ == "__main__":
    run_module(Neighbours, main)
