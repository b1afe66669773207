"""From the authors' loop to ours, rung by rung, on one model, one list of prompts and one machine.

Every rung makes the same candidates (the noise is theirs), so that what each rung chooses can be
compared with what the exact run in float32 chooses. That run is the rung ``slots``.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import mitune
from mitune.bench import random_model
from mitune.bench.baselines import AuthorsLoop, FairLoop
from mitune.bench.flops import denoiser_flops, peak_flops
from mitune.candidate import Candidate
from mitune.evaluation.agreement import spearman
from mitune.families.prepared import Prepared
from mitune.families.stable_diffusion import StableDiffusion
from mitune.generate import Counts, SamplerConfig, generate, pool
from mitune.generate.audit import Audit, audit, partial_scores, wilson
from mitune.generate.engine import counted_steps
from mitune.generate.policies import (
    Chain,
    DifferenceHalving,
    Finish,
    Halving,
    Policy,
    RandomHalving,
    best,
    fit_threshold,
)
from mitune.provenance import environment
from mitune.schedule import Schedule

PAPER_CANDIDATES = 700 * 50
"""Of the paper's set, which took 24 h on an A100."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all rungs share."""

    model: str = "shapes"
    prompts: Sequence[str]
    candidates: int = 50
    sampler: SamplerConfig = field(
        default_factory=lambda: SamplerConfig(steps=50, guidance=7.5, convention="reference")
    )
    """The authors' own: their baseline scores no other."""
    slots: int = 64
    seed: int = 0
    device: str = "cpu"
    captures: bool = False
    """Whether ticks are held in CUDA graphs, from the rung ``captured`` on."""

    @property
    def total(self) -> int:
        """Candidates in all."""
        return len(self.prompts) * self.candidates


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a rung made, and what it cost."""

    scores: Tensor
    """``[P, M]``; NaN for a pruned candidate."""
    chosen: list[int]
    """Of each prompt, the finished candidate with the highest score."""
    seconds: float
    rows: int
    """That the UNet was given."""
    occupancy: float
    peak_bytes: int | None
    """Of the GPU's memory."""
    terms: Tensor | None = None
    """``[P, M, N, 2]``, where every candidate took every step."""


def load_model(setting: Setting, precision: str) -> StableDiffusion:
    """The setting's model; by its own name also SD-2.1-base with random weights."""
    if setting.model == random_model.NAME:
        return random_model.random_sd21(torch.device(setting.device), precision)
    return mitune.load(setting.model, device=setting.device, precision=precision)


def run_loop(loop: AuthorsLoop, setting: Setting) -> Made:
    """A baseline over all prompts; a short pool before, which compiles."""
    loop(setting.prompts[0], steps=2)
    start = _start(setting)
    pools = [loop(prompt) for prompt in setting.prompts]
    seconds, peak = _stop(setting, start)
    scores = torch.stack([pool.scores for pool in pools])
    return Made(
        scores=scores,
        chosen=[best(row, 1)[0] for row in scores],
        seconds=seconds,
        rows=2 * setting.total * setting.sampler.steps,
        occupancy=1.0,
        peak_bytes=peak,
    )


def run_engine(
    prepared: Prepared,
    setting: Setting,
    policy: Callable[[int], Policy] | None = None,
    implementation: str = "auto",
) -> Made:
    """The engine over all prompts; a few steps of full slots before, which compiles."""

    def run(sampler: SamplerConfig, **given: Any) -> list[Candidate]:
        return list(
            generate(
                prepared,
                setting.prompts,
                candidates=setting.candidates,
                sampler=sampler,
                seed=setting.seed,
                slots=setting.slots,
                captured=setting.captures,
                implementation=implementation,
                **given,
            )
        )

    run(
        replace(setting.sampler, steps=2),
        work=pool(setting.prompts, setting.candidates)[: setting.slots],
    )
    counts = Counts()
    start = _start(setting)
    made = run(setting.sampler, policy=policy, counts=counts)
    seconds, peak = _stop(setting, start)
    made.sort(key=lambda c: (c.prompt_index, c.index))
    shape = len(setting.prompts), setting.candidates
    score = torch.tensor([c.score for c in made]).view(shape)
    pruned = torch.tensor([c.pruned for c in made]).view(shape)
    finished = torch.tensor([c.finished for c in made]).view(shape)
    only = torch.where(finished, score, torch.nan)
    return Made(
        scores=torch.where(pruned, torch.nan, score),
        chosen=[best(row, 1)[0] for row in only],
        seconds=seconds,
        rows=counts.rows,
        occupancy=counts.occupancy,
        peak_bytes=peak,
        terms=torch.stack([c.terms for c in made]).view(*shape, setting.sampler.steps, 2),
    )


def ladder(setting: Setting, tell: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """All rungs, from the bottom.

    Args:
        setting: what they share.
        tell: called with a line for each rung that is done.

    Returns:
        ``device``, the setting, ``rungs`` by name, ``curve`` (every policy repeated on the pools of
        the exact run, the baselines among them) and ``projection`` to the paper's set.
    """
    eager = replace(setting, captures=False)
    full, half = (load_model(setting, precision) for precision in ("float32", "bfloat16"))
    schedule = Schedule.from_diffusers(
        full.scheduler, steps=setting.sampler.steps, kind=setting.sampler.scheduler
    )
    weights = schedule.weights(setting.sampler.convention, setting.sampler.t_min)
    finish = Finish(step=counted_steps(weights), keep=1)
    loop: dict[str, Any] = {
        "candidates": setting.candidates,
        "steps": setting.sampler.steps,
        "guidance": setting.sampler.guidance,
        "seed": setting.seed,
    }
    rungs: dict[str, dict[str, Any]] = {}
    flops = _flops(full)
    peak = peak_flops(half.device, half.dtype)
    truth: Made | None = None

    def add(name: str, made: Made, against: Made | None = None) -> Made:
        nonlocal truth
        rungs[name] = _figures(made, truth or made, against, setting, flops, peak)
        tell(describe(name, rungs[name]))
        return made

    # The exact run in float32 first: the others are compared with it.
    truth = add("slots", run_engine(Prepared(full), eager, implementation="reference"))
    add("authors", run_loop(AuthorsLoop(full, **loop), setting))
    add("fair", run_loop(FairLoop(half, **loop), setting))
    add("bf16", run_engine(Prepared(half), eager, implementation="reference"))
    compiled = Prepared(half, "inductor")
    add("compiled", run_engine(compiled, eager, implementation="reference"))
    if setting.captures:
        add("captured", run_engine(compiled, setting, implementation="reference"))
    fused = add("fused", run_engine(compiled, setting))
    add("exact", run_engine(compiled, setting, lambda p: finish))
    for name, policy in pruning(fused, setting, weights, finish).items():
        add(name, run_engine(compiled, setting, policy), fused)
    full_compiled = Prepared(full, "inductor")
    add("exact float32", run_engine(full_compiled, setting, lambda p: finish))
    for figures in rungs.values():
        for base in ("authors", "fair"):
            ratio = figures["candidates_per_s"] / rungs[base]["candidates_per_s"]
            figures[f"ratio_vs_{base}"] = ratio
    return {
        **environment(full.device),
        "model": setting.model,
        "prompts": len(setting.prompts),
        "candidates": setting.candidates,
        "sampler": asdict(setting.sampler),
        "slots": setting.slots,
        "seed": setting.seed,
        "tflop_per_row": flops / 1e12,
        "rungs": {name: rungs[name] for name in ("authors", "fair", *rungs)},
        "curve": curve(truth, setting, weights, finish),
        "projection": {
            "what": "hours for the paper's 700 x 50 candidates at this rate on this device with "
            "this model; the paper: 24 h on an A100 with SD-2.1-base",
            "hours": {
                name: PAPER_CANDIDATES / figures["candidates_per_s"] / 3600
                for name, figures in rungs.items()
            },
        },
    }


def halvings(setting: Setting) -> dict[str, tuple[tuple[int, int], ...]]:
    """Rungs for a pool of any size and any number of steps: shares of both, by when they
    begin."""
    shares = {
        "late": ((0.5, 0.4), (0.7, 0.2), (0.8, 0.1)),
        "early": ((0.3, 0.5), (0.5, 0.24), (0.7, 0.12), (0.8, 0.06)),
        "earlier": ((0.2, 0.5), (0.4, 0.24), (0.6, 0.12), (0.8, 0.06)),
        "earliest": ((0.1, 0.5), (0.2, 0.24), (0.4, 0.12), (0.6, 0.06)),
    }
    steps, pool_size = setting.sampler.steps, setting.candidates
    found = {}
    for name, at in shares.items():
        rungs: dict[int, int] = {}
        for when, left in at:
            keep = max(1, round(left * pool_size))
            if keep < min(rungs.values(), default=pool_size):
                rungs[max(1, round(when * steps))] = keep
        found[name] = tuple(rungs.items())
    return {name: rungs for name, rungs in found.items() if rungs}


def pruning(
    whole: Made, setting: Setting, weights: Tensor, finish: Finish
) -> dict[str, Callable[[int], Policy]]:
    """The policies that are run, by name. The threshold is fitted on the first fifth of the
    prompts, which it leaves unpruned."""
    named = halvings(setting)
    run: dict[str, Callable[[int], Policy]] = {}
    for name in ("late", "early"):
        if name in named:
            policy = Chain(policies=(Halving(at=named[name]), finish))
            run[f"halving {name}"] = lambda p, policy=policy: policy  # type: ignore[misc]
    first = max(1, len(setting.prompts) // 5)
    if whole.terms is not None and len(setting.prompts) > first:
        partial = list(partial_scores(whole.terms[:first], weights))
        fitted = fit_threshold(partial, threshold_rungs(setting), keep=1, confidence=0.999)
        threshold = Chain(policies=(fitted, finish))
        run["threshold"] = lambda p: finish if p < first else threshold
    return run


def threshold_rungs(setting: Setting) -> list[int]:
    """A look every tenth of the way."""
    return sorted({max(1, round(k * setting.sampler.steps / 10)) for k in range(1, 10)})


def curve(whole: Made, setting: Setting, weights: Tensor, finish: Finish) -> list[dict[str, Any]]:
    """Recall, regret and cost of many policies, repeated on pools that nobody pruned."""
    if whole.terms is None:
        return []
    pools = list(whole.terms)
    found = [{"policy": "exact", **_plain(audit(finish, pools, weights, 1))}]
    for kind in (Halving, DifferenceHalving, RandomHalving):
        for name, at in halvings(setting).items():
            policy = Chain(policies=(kind(at=at), finish))
            found.append(
                {"policy": f"{kind.__name__} {name}", **_plain(audit(policy, pools, weights, 1))}
            )
    first = max(1, len(pools) // 5)
    if len(pools) > first:
        partial = list(partial_scores(whole.terms[:first], weights))
        for confidence in (0.9, 0.99, 0.999):
            fitted = fit_threshold(partial, threshold_rungs(setting), keep=1, confidence=confidence)
            judged = audit(Chain(policies=(fitted, finish)), pools[first:], weights, 1)
            found.append({"policy": f"Threshold {confidence}", **_plain(judged)})
    return found


def _plain(result: Audit) -> dict[str, Any]:
    return asdict(result)


def _figures(
    made: Made, truth: Made, whole: Made | None, setting: Setting, flops: float, peak: float | None
) -> dict[str, Any]:
    """A rung in numbers. ``truth`` is the exact run in float32; ``whole`` the unpruned run in the
    rung's own precision, where the rung prunes."""
    prompts = range(len(setting.prompts))
    agreed = sum(made.chosen[p] == truth.chosen[p] for p in prompts)
    recalled = sum(made.chosen[p] == (whole or truth).chosen[p] for p in prompts)
    regret = [
        float(truth.scores[p, truth.chosen[p]] - truth.scores[p, made.chosen[p]]) for p in prompts
    ]
    ranks = [
        spearman(made.scores[p], truth.scores[p])
        for p in prompts
        if bool(made.scores[p].isfinite().all())
    ]
    rate = made.rows * flops / made.seconds
    return {
        "candidates_per_s": setting.total / made.seconds,
        "seconds": made.seconds,
        "passes_per_candidate": made.rows / setting.total,
        "tflop_per_s": rate / 1e12,
        "mfu": None if peak is None else rate / peak,
        "top1_agreement": agreed / len(prompts),
        "spearman": sum(ranks) / len(ranks) if len(ranks) == len(prompts) else None,
        "recall_top1": recalled / len(prompts),
        "recall_top1_95": asdict(wilson(recalled, len(prompts))),
        "regret_nats": sum(regret) / len(regret),
        "occupancy": made.occupancy,
        "peak_bytes": made.peak_bytes,
    }


def describe(name: str, figures: dict[str, Any]) -> str:
    """One line of the table."""
    ranks = figures["spearman"]
    mfu = figures["mfu"]
    return (
        f"{name:<14} {figures['candidates_per_s']:9.2f} {figures['passes_per_candidate']:8.1f} "
        f"{figures['tflop_per_s']:8.2f} {'' if mfu is None else format(mfu, '.0%'):>5} "
        f"{figures['top1_agreement']:7.2f} {'' if ranks is None else format(ranks, '.4f'):>8} "
        f"{figures['recall_top1']:7.2f} {figures['regret_nats']:8.3f} {figures['occupancy']:7.1%}"
    )


def explain(result: dict[str, Any]) -> str:
    """What the table leaves open: the ratios, the policies that were repeated, the projection."""
    lines = ["", f"{'rung':<14} {'x authors':>9} {'x fair':>7} {'hours for 700 x 50':>19}"]
    for name, figures in result["rungs"].items():
        lines.append(
            f"{name:<14} {figures['ratio_vs_authors']:9.2f} {figures['ratio_vs_fair']:7.2f} "
            f"{result['projection']['hours'][name]:19.2f}"
        )
    lines += [f"(projected: {result['projection']['what']})", ""]
    lines.append("repeated on the pools that nobody pruned (95 % intervals):")
    for entry in result["curve"]:
        recall, regret = entry["recall_top1"], entry["regret_nats"]
        lines.append(
            f"{entry['policy']:<28} passes {entry['passes']:.3f}  recall {recall['mean']:.3f} "
            f"[{recall['low']:.2f}, {recall['high']:.2f}]  regret {regret['mean']:.3f} "
            f"[{regret['low']:.2f}, {regret['high']:.2f}] nats"
        )
    return "\n".join(lines)


HEADER = (
    f"{'rung':<14} {'cand./s':>9} {'passes':>8} {'TFLOP/s':>8} {'MFU':>5} {'top-1':>7} "
    f"{'Spearman':>8} {'recall':>7} {'regret':>8} {'full':>7}"
)


def _flops(model: StableDiffusion) -> float:
    length = model.tokenizer.model_max_length
    width = model.unet.config.cross_attention_dim
    return denoiser_flops(model.unet, model.latent_shape, (length, width))


def _start(setting: Setting) -> float:
    if setting.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    return time.perf_counter()


def _stop(setting: Setting, start: float) -> tuple[float, int | None]:
    if setting.device == "cpu":
        return time.perf_counter() - start, None
    torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated()
