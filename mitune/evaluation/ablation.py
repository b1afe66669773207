"""The paper's ablations of the trained parts and of the training data (Wang et al., appendix D,
Tables 8 and 7), on the embedded world.

    python -m mitune.evaluation.ablation parts --out runs/table8
    python -m mitune.evaluation.ablation real --out runs/table7

For each seed, one set is built by MI, and each variant is tuned on it with all other settings
equal. Then the base model and all variants draw the same held-out prompts from the same noise, and
the oracle judges the pictures. Every stage resumes.
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
"""Shares of real pictures, those of the paper."""
TEXT_LR = 0.05
"""Learning rate of the text encoder divided by that of the denoiser: 5e-6 / 1e-4, as in the
examples of diffusers."""
_BASELINE = "dora"


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One of the paper's ablations on the embedded world, over seeds."""

    what: Positional[Literal["parts", "real"]]
    """parts, Table 8: DoRA, LoRA, and DoRA on denoiser and text encoder together. real, Table 7: a
    share of the set is real pictures, which are here drawn by the world's own renderer."""
    out: Path
    """Output folder; after an interruption, the same command resumes."""
    seeds: int = 3
    """Number of independent repetitions."""
    prompts: int = 40
    """Number of training prompts, out of the world's 60 pairs."""
    candidates: int = 16
    """Pool size."""
    iterations: int | None = None
    """Optimizer steps; None: the preset's."""
    test_prompts: int = 30
    """Number of held-out prompts, out of the world's 30 pairs."""
    images: int = 8
    """Test pictures for each prompt, model and seed."""
    processes: int | None = None
    """Seeds that run at the same time, each on one core; None: one on a GPU, else one per core."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""
    quiet: bool = False
    """No progress bars."""


def run(ablation: Ablation) -> dict[str, Any]:
    """Run the ablation and return its table as plain JSON; also written to ``out/table.json``."""
    start = time.perf_counter()
    count = processes(ablation.processes, ablation.seeds)
    comparisons = each_seed(partial(_repeat, ablation, alone=count == 1), ablation.seeds, count)
    return _tell(ablation, pooled(comparisons), pick_device(None), time.perf_counter() - start)


def _repeat(ablation: Ablation, seed: int, *, alone: bool) -> Comparison:
    """Run one seed. ``alone``: no other seed runs at the same time."""
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
    """The variants to tune, by name; the paper's own choice is the first."""
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
    """Render pictures of the prompts, twice as many as the largest share needs, and build their
    set, which keeps the better half of each prompt's pictures by MI."""
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
    """Run the ablation; with --json, print the result as the last line."""
    result = run(ablation)
    if ablation.json:
        print(as_json(result))


if __name__ == "__main__":
    run_module(Ablation, main)
