"""The paper's ablations of what is trained, and on what (Wang et al., appendix D, Tables 7 and 8),
on the embedded world.

    python -m mitune.evaluation.ablation parts --out runs/table8
    python -m mitune.evaluation.ablation real --out runs/table7

For each seed one set is built by MI, and each variant is tuned on it, everything else equal; then
base and all of them draw the same held-out prompts from the same noise, and the oracle judges.
Every stage resumes.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from mitune.arguments.fields import Positional
from mitune.arguments.module import run_module
from mitune.config.training import TuneConfig
from mitune.core import progress
from mitune.core.files import atomic_write, make_folder
from mitune.core.provenance import as_json, environment
from mitune.evaluation.compare import Comparison, pooled
from mitune.evaluation.report import compare_models, use_sampler
from mitune.evaluation.seeds import each_seed, processes
from mitune.load import load, pick_device
from mitune.methods.build import build_set
from mitune.methods.real import build_real_set
from mitune.models.protocol import LatentModel
from mitune.sets import FineTuningSet
from mitune.training.loop import tune
from mitune.worlds.shapes.prompts import parse
from mitune.worlds.shapes.prompts import prompts as shapes_prompts
from mitune.worlds.shapes.scene import COLOURS, SHAPES, render, sample_scenes

SHARES = (0.25, 0.5, 0.9)
"""Of real pictures, the paper's."""
TEXT_LR = 0.05
"""The text encoder's learning rate by the UNet's: 5e-6 by 1e-4, as diffusers' examples have it."""
_BASELINE = "dora"


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """An ablation of the paper's on the embedded world, over seeds."""

    what: Positional[Literal["parts", "real"]]
    """parts, Table 8: DoRA, LoRA, and DoRA on UNet and text encoder together. real, Table 7: a
    share of the set is real pictures, which here are the world's own."""
    out: Path
    """Folder; the same command goes on after an interruption."""
    seeds: int = 3
    """Independent repetitions."""
    prompts: int = 40
    """Training prompts, of the world's 60 pairs."""
    candidates: int = 16
    """Pool size."""
    iterations: int | None = None
    """Optimizer steps; None: the preset's."""
    test_prompts: int = 30
    """Held-out prompts, of the world's 30 pairs."""
    images: int = 8
    """Test pictures of each prompt, model and seed."""
    processes: int | None = None
    """Seeds that run at a time, each on one core; None: one on a GPU, else as many as cores."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""
    quiet: bool = False
    """No progress bars."""


def run(ablation: Ablation) -> dict[str, Any]:
    """Run it and return its table as plain JSON; also written to ``out/table.json``."""
    start = time.perf_counter()
    count = processes(ablation.processes, ablation.seeds)
    comparisons = each_seed(partial(_repeat, ablation, alone=count == 1), ablation.seeds, count)
    return _tell(ablation, pooled(comparisons), pick_device(None), time.perf_counter() - start)


def _repeat(ablation: Ablation, seed: int, *, alone: bool) -> Comparison:
    """One seed; ``alone``: no other runs beside it."""
    progress.quiet_libraries()
    model = load("shapes")
    tuning = model.preset.tuning
    if ablation.iterations is not None:
        tuning = replace(tuning, iterations=ablation.iterations)
    train = shapes_prompts("train")[: ablation.prompts]
    test = shapes_prompts("test")[: ablation.test_prompts]
    folder = ablation.out / f"seed-{seed}"
    with progress.shown(ablation.quiet, None if alone else f"seed {seed}") as bars:
        built = build_set(
            model,
            train,
            folder / "set",
            candidates=ablation.candidates,
            seed=seed * 1000,
            progress=partial(bars.candidate, 1),
        )
        tuned = {}
        real = _real(model, train, folder, seed) if ablation.what == "real" else None
        for name, config in variants(ablation.what, replace(tuning, seed=seed)).items():
            tuned[name] = tune(
                model,
                built,
                folder / name,
                config,
                real=real if config.real_share else None,
                progress=partial(bars.step, 1),
            )
    comparison, _ = compare_models(
        model,
        tuned,
        test,
        images=ablation.images,
        seed=1_000_000 + seed,
        sampler=use_sampler(model),
    )
    return comparison


def variants(what: str, tuning: TuneConfig) -> dict[str, TuneConfig]:
    """What is tuned, by name; the paper's own choice first."""
    if what == "real":
        shares = {f"real {share}": replace(tuning, real_share=share) for share in SHARES}
        return {_BASELINE: tuning, **shares}
    return {
        _BASELINE: tuning,
        "lora": replace(tuning, method="lora"),
        "joint": replace(tuning, text_encoder_lr=TEXT_LR * tuning.lr),
        "joint, equal lr": replace(tuning, text_encoder_lr=tuning.lr),
    }


def _real(model: LatentModel, prompts: Sequence[str], folder: Path, seed: int) -> FineTuningSet:
    """Pictures of the prompts as the world draws them, twice as many as the largest share takes,
    and their set: of each prompt the better half by MI."""
    most = max(SHARES)
    each = math.ceil(model.preset.keep * most / (1 - most))
    make_folder(folder / "real")
    for number, prompt in enumerate(prompts):
        objects = torch.tensor(
            [[COLOURS.index(c), SHAPES.index(s)] for c, s in parse(prompt).objects]
        )
        generator = torch.Generator().manual_seed(seed * len(prompts) + number)
        pictures = render(sample_scenes(2 * each, generator, objects=objects, two_objects=1.0))
        for place, picture in enumerate(pictures):
            _write(folder / "real" / f"{number:03}-{place:03}", picture, prompt)
    return build_real_set(model, folder / "real", folder / "real-set", keep=each, seed=seed)


def _write(path: Path, picture: Tensor, caption: str) -> None:
    pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path.with_suffix(".png"))
    path.with_suffix(".txt").write_text(caption)


def _tell(
    ablation: Ablation, comparison: Comparison, device: torch.device, seconds: float
) -> dict[str, Any]:
    print(
        f"\nheld-out prompts: {len(set(comparison.prompts))}, pictures of each: "
        f"{ablation.images}, seeds: {ablation.seeds}; s.e. over prompts and seeds"
    )
    print(comparison)
    against = []
    for name in comparison.values:
        if name in ("base", _BASELINE):
            continue
        for metric in ("graded", "strict"):
            gain = comparison.difference(name, _BASELINE, metric)
            print(f"{metric}: {name} less {_BASELINE} = {gain}")
            against.append(
                {
                    "model": name,
                    "metric": metric,
                    "gain": gain.mean,
                    "standard_error": gain.standard_error,
                }
            )
    result: dict[str, Any] = {
        "ablation": {**asdict(ablation), "out": str(ablation.out)},
        "table": comparison.rows(),
        f"against_{_BASELINE}": against,
        "seconds": seconds,
        "environment": environment(device),
    }
    atomic_write(ablation.out / "table.json", as_json(result, indent=1).encode())
    print(f"{seconds:.0f} s; table: {ablation.out / 'table.json'}")
    return result


def main(ablation: Ablation) -> None:
    """Run, and with --json print the result as the last line."""
    result = run(ablation)
    if ablation.json:
        print(as_json(result))


if __name__ == "__main__":
    run_module(Ablation, main)
