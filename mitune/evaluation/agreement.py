"""Does the score agree with the oracle? The gate of the embedded world, for every estimator.

    python -m mitune.evaluation.agreement --help

Each prompt's pool is generated once and scored by every estimator, exactly as ``build_set`` scores:
once with all timesteps and once with the preset's t_min. Agreement is measured within prompts,
because selection works within prompts. The measures are Spearman's rank correlation of score and
oracle, averaged over prompts in which both vary, and the oracle's value of the top-1 choice against
the pool's mean. Two kinds of error are also measured separately:

* neglect: an object is missing. Pool: every candidate. Value: share of the requested colours that
  any object has.
* binding: all requested colours are present, but on the wrong shapes. Pool: the candidates that
  show all colours. Value: share of the requested objects.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from scipy import stats
from torch import Tensor

from mitune.arguments.module import run_module
from mitune.config.sampling import SamplerConfig
from mitune.core import progress
from mitune.core.files import atomic_write, make_folder
from mitune.core.provenance import as_json, environment
from mitune.evaluation.drawing import draw_candidates
from mitune.evaluation.standard_error import Estimate, over
from mitune.load import pick_device
from mitune.models.protocol import LatentModel
from mitune.scoring.estimate import ESTIMATORS
from mitune.scoring.score import score
from mitune.worlds.shapes import oracle
from mitune.worlds.shapes.prompts import prompts as shapes_prompts
from mitune.worlds.shapes.world import SHAPES


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two ``[N]`` tensors; NaN if one of them does not vary."""
    if min(len(a.unique()), len(b.unique())) < 2:  # avoids a warning of scipy
        return math.nan
    return float(stats.spearmanr(a.numpy(), b.numpy()).statistic)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of one estimator with the oracle, over the prompts in which the oracle's value
    varies.

    Attributes:
        estimator: its name.
        t_min: only timesteps above it count.
        errors: "all", "neglect" or "binding".
        prompts: number of prompts that count.
        spearman: rank correlation within prompts, mean ± s.e. over prompts.
        mean: the mean of the oracle's value over the pool.
        top1: the oracle's value of the candidate with the highest score.
        bottom1: the oracle's value of the candidate with the lowest score.
        gain: top1 minus mean.
    """

    estimator: str
    t_min: float
    errors: str
    prompts: int
    spearman: Estimate
    mean: Estimate
    top1: Estimate
    bottom1: Estimate
    gain: Estimate


def agree(
    estimator: str,
    t_min: float,
    errors: str,
    scores: Sequence[Tensor],
    values: Sequence[Tensor],
    least: int = 4,
) -> Agreement:
    """Compute the agreement over pools. ``scores[p]`` and ``values[p]`` are ``[n_p]``; pools with
    fewer than ``least`` candidates are left out."""
    pools = [
        (s, v)
        for s, v in zip(scores, values, strict=True)
        if len(v) >= least and float(v.max()) > float(v.min())
    ]
    top = [float(v[s.argmax()]) for s, v in pools]
    means = [float(v.mean()) for _, v in pools]
    return Agreement(
        estimator=estimator,
        t_min=t_min,
        errors=errors,
        prompts=len(pools),
        spearman=over([spearman(s, v) for s, v in pools]),
        mean=over(means),
        top1=over(top),
        bottom1=over([float(v[s.argmin()]) for s, v in pools]),
        gain=over([t - m for t, m in zip(top, means, strict=True)]),
    )


def gate(
    model: LatentModel,
    prompts: Sequence[str],
    *,
    candidates: int,
    sampler: SamplerConfig,
    seed: int,
    draws: int,
    t_mins: Sequence[float],
    say: Callable[[str], None] = print,
) -> list[Agreement]:
    """Generate the pools, score them with every estimator at every ``t_min``, and compare the
    scores with the oracle."""
    made = draw_candidates(model, prompts, images=candidates, sampler=sampler, seed=seed)
    latents = torch.stack([c.latent for c in made])
    texts = [c.prompt for c in made]
    schedule = model.schedule(sampler)
    terms = torch.stack([c.terms[:, 0] for c in made]).double()
    scores: dict[tuple[str, float], Tensor] = {}
    for t_min in t_mins:
        scores["trajectory", t_min] = terms @ schedule.weights(sampler.convention, t_min)
        for estimator in ESTIMATORS:
            scores[estimator, t_min] = score(
                model,
                texts,
                latents,
                estimator=estimator,
                draws=draws,
                seed=seed,
                convention=sampler.convention,
                t_min=t_min,
                shared_noise=True,
            )
    verdicts = oracle.score(texts, model.decode(latents))
    graded = torch.tensor([v.graded for v in verdicts])
    strict = torch.tensor([float(v.strict) for v in verdicts])
    colours = torch.tensor([v.colours for v in verdicts])
    bound = torch.tensor([v.bound for v in verdicts])
    all_colours = colours == 1.0
    say(
        f"{len(prompts)} prompts x {candidates} candidates, guidance {sampler.guidance}: graded "
        f"{float(graded.mean()):.3f}, "
        f"strict {float(strict.mean()):.3f}, colours {float(colours.mean()):.3f}, "
        f"strict where all colours are there {float(strict[all_colours].mean()):.3f}"
    )
    table = []
    for (name, t_min), values in scores.items():
        pools = values.view(len(prompts), -1)
        by_prompt = {
            "all": (list(pools), list(graded.view_as(pools))),
            "neglect": (list(pools), list(colours.view_as(pools))),
            "binding": _masked(pools, bound.view_as(pools), all_colours.view_as(pools)),
        }
        for errors, (s, v) in by_prompt.items():
            row = agree(name, t_min, errors, s, v)
            table.append(row)
            say(
                f"{name:<11} t>{t_min:<4d}{errors:<8} {row.prompts:3d} prompts  spearman "
                f"{row.spearman}  mean {row.mean.mean:.3f}  top-1 {row.top1.mean:.3f}  "
                f"bottom-1 {row.bottom1.mean:.3f}  gain {row.gain}"
            )
    return table


def _masked(scores: Tensor, values: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    rows = range(len(scores))
    return [scores[i][mask[i]] for i in rows], [values[i][mask[i]] for i in rows]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The gate of the embedded world: agreement of every estimator with the oracle."""

    model: Path | None = None
    """Folder of another training of the embedded model. None: the shipped one."""
    prompts: int = 50
    """Number of training prompts, from the start of the world's list."""
    kind: Literal["pair", "spatial"] = "pair"
    """Prompt list of the world."""
    candidates: int = 32
    """Pool size."""
    guidance: list[float] | None = None
    """Guidance scales to try; None: the preset's."""
    draws: int | None = None
    """Draws for each picture, for the estimators that re-noise; None: the preset's."""
    seed: int = 7
    """Keys all noise."""
    out: Path | None = None
    """Folder in which to write gate.json."""


def main(options: Options) -> None:
    """Run the gate and print its table."""
    progress.quiet_libraries()
    model = SHAPES.load(device=pick_device(None), precision="float32", folder=options.model)
    record = []
    for guidance in options.guidance or [model.preset.sampler.guidance]:
        sampler = replace(model.preset.sampler, guidance=guidance)
        texts = shapes_prompts("train", options.kind)[: options.prompts]
        table = gate(
            model,
            texts,
            candidates=options.candidates,
            sampler=sampler,
            seed=options.seed,
            draws=options.draws or model.preset.draws,
            t_mins=[-1] if sampler.t_min is None else [-1, sampler.t_min],
        )
        record.append({"sampler": asdict(sampler), "table": [asdict(row) for row in table]})
    if options.out:
        make_folder(options.out)
        given = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(options).items()}
        body = {"options": given, "results": record, "environment": environment(model.device)}
        atomic_write(options.out / "gate.json", as_json(body, indent=1).encode())


if __name__ == "__main__":
    run_module(Options, main)
