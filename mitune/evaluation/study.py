"""Test the main claim against its control: a model tuned on the best candidates by MI is compared
with the base model and with one tuned on random candidates.

    python -m mitune.evaluation.study --help

For each seed, the whole of Algorithm 1 runs twice from scratch, once with selection by MI and once
with random selection, and all other settings equal. Then the base model and both results draw the
same held-out prompts from the same noise, and the oracle, which neither run has used, judges the
pictures. ``make demo`` runs a small study, ``make results`` the full one. Every stage resumes.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from mitune.adapters import adapter
from mitune.arguments.module import run_module
from mitune.core import progress
from mitune.core.files import atomic_write, make_folder
from mitune.core.provenance import as_json, environment
from mitune.evaluation.compare import Comparison, pooled
from mitune.evaluation.pictures import base_and_tuned, best_and_worst
from mitune.evaluation.report import compare_models, use_sampler
from mitune.evaluation.seeds import each_seed, processes
from mitune.load import load, pick_device
from mitune.methods.align import align
from mitune.worlds.shapes.prompts import prompts as shapes_prompts


@dataclass(frozen=True, kw_only=True)
class Study:
    """Compare selection by MI with random selection and the base model on the embedded world, over
    seeds."""

    out: Path
    """Folder of the study; after an interruption, the same command resumes."""
    seeds: int = 3
    """Number of independent repetitions; pools, adapters and test pictures all differ."""
    rounds: int = 1
    """Rounds R of Algorithm 1."""
    prompts: int = 60
    """Number of training prompts; the world has 60 pairs and 240 spatial ones."""
    candidates: int | None = None
    """Pool size; None: the preset's."""
    keep: int | None = None
    """Candidates to keep from each pool; None: the preset's."""
    estimator: str | None = None
    """Estimator that ranks a pool; None: the preset's."""
    guidance: float | None = None
    """Guidance scale for the pools; None: the preset's."""
    use_guidance: float | None = None
    """Guidance scale at which all models are compared; None: the preset's."""
    iterations: int | None = None
    """Optimizer steps of each round; None: the preset's."""
    lr: float | None = None
    """Learning rate; None: the preset's."""
    kind: Literal["pair", "spatial"] = "pair"
    """Prompt list of the world."""
    test_prompts: int = 30
    """Number of held-out prompts; the world has 30 pairs and 120 spatial ones."""
    images: int = 8
    """Test pictures for each prompt, model and seed."""
    controls: tuple[str, ...] = ("random",)
    """Selection rules that mi is compared with."""
    processes: int | None = None
    """Seeds that run at the same time, each on one core; None: one on a GPU, else one per core."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""
    quiet: bool = False
    """No progress bars."""


def run(study: Study) -> dict[str, Any]:
    """Run the study and return its table as plain JSON. Also writes it to ``out/study.json``, and
    two pictures to ``out``."""
    start = time.perf_counter()
    count = processes(study.processes, study.seeds)
    comparisons = each_seed(partial(_repeat, study, alone=count == 1), study.seeds, count)
    return _tell(study, pooled(comparisons), pick_device(None), time.perf_counter() - start)


def _repeat(study: Study, seed: int, *, alone: bool) -> Comparison:
    """Run one seed; the first one also writes the pictures. ``alone``: no other seed runs at the
    same time."""
    progress.quiet_libraries()
    model = load("shapes")
    preset = model.preset
    sampler = preset.sampler
    if study.guidance is not None:
        sampler = replace(sampler, guidance=study.guidance)
    given: dict[str, Any] = {"iterations": study.iterations, "lr": study.lr}
    tuning = replace(preset.tuning, **{k: v for k, v in given.items() if v is not None})
    keep = study.keep or preset.keep
    train = shapes_prompts("train", study.kind)[: study.prompts]
    test = shapes_prompts("test", study.kind)[: study.test_prompts]
    tuned: dict[str, Path] = {}
    for select in ("mi", *study.controls):
        with progress.shown(study.quiet, None if alone else f"seed {seed}, {select}") as bars:
            done = align(
                model,
                train,
                study.out / f"seed-{seed}" / select,
                rounds=study.rounds,
                # Picking ``keep`` candidates at random from a larger pool gives the distribution of
                # a pool of ``keep``, so the control does not generate the others.
                candidates=keep if select == "random" else study.candidates,
                keep=keep,
                select=select,
                estimator=study.estimator,
                sampler=sampler,
                tuning=tuning,
                # Far apart, so that no round of one seed repeats the noise of another seed.
                seed=seed * 1000,
                on_candidate=bars.candidate,
                on_step=bars.step,
            )
        adapter.detach(model)
        tuned |= {f"{select} R={r}": each.adapter for r, each in enumerate(done, 1)}
        if seed == 0 and select == "mi":
            best_and_worst(model, done[0].set, sampler, study.out / "ranking.png")
    comparison, drawn = compare_models(
        model,
        tuned,
        test,
        images=study.images,
        seed=1_000_000 + seed,
        sampler=use_sampler(model, guidance=study.use_guidance),
    )
    if seed == 0:
        shown = 8 * study.images
        pictures = [
            model.decode(drawn[n].latents[:shown]) for n in ("base", f"mi R={study.rounds}")
        ]
        base_and_tuned(test[:8], pictures[0], pictures[1], study.out / "base_and_tuned.png")
    return comparison


def _tell(
    study: Study, comparison: Comparison, device: torch.device, seconds: float
) -> dict[str, Any]:
    print(
        f"\nheld-out prompts: {len(set(comparison.prompts))}, pictures of each: {study.images}, "
        f"seeds: {study.seeds}; "
        "s.e. over prompts and seeds"
    )
    print(comparison)
    verdicts = _verdicts(comparison, study.rounds, study.controls)
    for verdict in verdicts:
        print(verdict["text"])
    result: dict[str, Any] = {
        "study": {**asdict(study), "out": str(study.out)},
        "table": comparison.rows(),
        "verdicts": verdicts,
        "seconds": seconds,
        "environment": environment(device),
    }
    make_folder(study.out)
    atomic_write(study.out / "study.json", as_json(result, indent=1).encode())
    print(f"{seconds:.0f} s; table: {study.out / 'study.json'}; pictures: {study.out}/*.png")
    return result


def _verdicts(comparison: Comparison, rounds: int, controls: Sequence[str]) -> list[dict[str, Any]]:
    """The differences that the claim is about, in standard errors: after each round, against the
    base model and against each control."""
    rows = []
    for number, metric in product(range(1, rounds + 1), ("graded", "strict")):
        mine = f"mi R={number}"
        base = comparison.mean("base", metric).mean
        closed = (comparison.mean(mine, metric).mean - base) / (1 - base)
        for other in ("base", *(f"{c} R={number}" for c in controls)):
            gain = comparison.difference(mine, other, metric)
            error = gain.standard_error
            ratio = gain.mean / error if error > 0 else math.nan
            text = f"{metric}: {mine} less {other} = {gain} = {ratio:.1f} s.e."
            if other == "base":
                text += f"; {closed:.0%} of the gap between base and perfect closed"
            rows.append(
                {
                    "round": number,
                    "metric": metric,
                    "against": other,
                    "gain": gain.mean,
                    "standard_error": error,
                    "standard_errors": ratio,
                    "gap_closed": closed,
                    "text": text,
                }
            )
    return rows


def main(study: Study) -> None:
    """Run the study; with --json, print the result as the last line."""
    result = run(study)
    if study.json:
        print(as_json(result))


if __name__ == "__main__":
    run_module(Study, main)
