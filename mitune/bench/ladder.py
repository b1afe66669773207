"""From the authors' loop to ours, rung by rung, on one model, one list of prompts and one machine.

Every rung makes the same candidates (the noise is theirs), so that what each rung chooses can be
compared with what the exact run in float32 chooses. That run is the rung ``slots``.
"""

from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from mitune.allocator import keep_freed_memory
from mitune.bench.baselines import AuthorsLoop, FairLoop
from mitune.bench.flops import denoiser_flops, peak_flops
from mitune.bench.pruned import curve, pruning
from mitune.bench.rungs import (
    Made,
    Setting,
    load_model,
    run_draft,
    run_engine,
    run_loop,
    run_settled,
)
from mitune.bench.table import add_ratios, describe
from mitune.errors import UserError
from mitune.evaluation.agreement import spearman
from mitune.families.prepared import Prepared
from mitune.families.stable_diffusion import StableDiffusion
from mitune.generate.audit import wilson
from mitune.generate.engine import counted_steps
from mitune.generate.policies import Finish
from mitune.provenance import environment
from mitune.schedule import Schedule

PAPER_CANDIDATES = 700 * 50
"""Of the paper's set, which took 24 h on an A100 with 50 steps."""
RUNGS = (
    "slots",
    "authors",
    "fair",
    "fair kept",
    "half",
    "compiled",
    "captured",
    "fused",
    "exact",
    "settled",
    "halving late",
    "halving early",
    "threshold",
    "exact float32",
)
"""And one more, ``draft`` with the number of candidates that are made once more."""
SETTLE_REACH = 0.4
"""Of the rung ``settled``: see ``mitune.generate.settle``."""
DRAFT_VERIFIES = 5
"""Candidates of each pool that the rung ``draft`` makes once more in float32."""


def ladder(
    setting: Setting,
    tell: Callable[[str], None] = lambda line: None,
    only: Collection[str] | None = None,
) -> dict[str, Any]:
    """All rungs, from the bottom.

    Args:
        setting: what they share.
        tell: called with a line for each rung that is done.
        only: names of rungs to run, and those that they need; None: all. Without ``slots``,
            ``exact float32`` is what the others are compared with, and always run.

    Returns:
        ``device``, the setting, ``rungs`` by name, ``curve`` (every policy repeated on the pools of
        the exact run, the baselines among them) and ``projection`` to the paper's set.

    Raises:
        UserError: an unknown name in ``only``.
    """
    verify = min(DRAFT_VERIFIES, setting.candidates)
    known = (*RUNGS, f"draft {verify}")
    for name in only or ():
        if name not in known:
            raise UserError(f"rung {name!r} is not known: choose from {', '.join(known)}")
    if only is not None and {"halving late", "halving early", "threshold"} & set(only):
        only = {*only, "fused"}  # the unpruned run that they are compared with
    eager = replace(setting, captures=False)
    full = load_model(setting, "float32")
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
    sampler_steps = setting.sampler.steps
    rungs: dict[str, dict[str, Any]] = {}
    flops = _flops(full)
    peak = peak_flops(full.device)
    truth: Made | None = None

    def add(name: str, run: Callable[[], Made], against: Made | None = None) -> Made | None:
        nonlocal truth
        if name in rungs or (only is not None and name not in only and name != first):
            return None
        made = run()
        truth = truth or made
        rungs[name] = _figures(made, truth, against, setting, flops, peak)
        tell(describe(name, rungs[name]))
        return made

    float32 = Prepared(full, "inductor")
    half = Prepared(full, precision=setting.precision)
    compiled = Prepared(full, "inductor", precision=setting.precision)

    def exactly() -> Made:
        return run_engine(float32, setting, lambda p: finish)

    # The baselines as a program of anybody's runs them: what the C library does with freed memory
    # is changed afterwards, for ours, and lent to the fair one in a rung of its own.
    full_loop = partial(AuthorsLoop, full, **loop)
    fair_loop = partial(FairLoop, load_model(setting, "bfloat16"), **loop)
    baselines = {
        name: run_loop(made(), setting)
        for name, made in (("authors", full_loop), ("fair", fair_loop))
        if only is None or name in only
    }
    kept = keep_freed_memory() and full.device.type == "cpu"
    # The exact run in float32 is what the others are compared with.
    first = "slots" if only is None or "slots" in only else "exact float32"
    add("slots", lambda: run_engine(Prepared(full), eager, implementation="reference"))
    if first == "exact float32":
        add(first, exactly)
    for name, done in baselines.items():
        add(name, partial(_same, done))
    if kept:
        add("fair kept", lambda: run_loop(fair_loop(), setting))
    add("half", lambda: run_engine(half, eager, implementation="reference"))
    add("compiled", lambda: run_engine(compiled, eager, implementation="reference"))
    if setting.captures:
        add("captured", lambda: run_engine(compiled, setting, implementation="reference"))
    fused = add("fused", lambda: run_engine(compiled, setting))
    add("exact", lambda: run_engine(compiled, setting, lambda p: finish))
    add("settled", lambda: run_settled(compiled, float32, setting, finish, SETTLE_REACH))
    for name, policy in (pruning(fused, setting, weights, finish) if fused else {}).items():
        add(name, partial(run_engine, compiled, setting, policy), fused)
    add(f"draft {verify}", lambda: run_draft(compiled, float32, setting, finish, verify))
    add("exact float32", exactly)
    assert truth is not None
    add_ratios(rungs, "candidates_per_s")
    return {
        **environment(full.device),
        "model": setting.model,
        "prompts": len(setting.prompts),
        "candidates": setting.candidates,
        "sampler": asdict(setting.sampler),
        "precision": setting.precision,
        "slots": setting.slots,
        "seed": setting.seed,
        "tflop_per_row": flops / 1e12,
        "rungs": {name: rungs[name] for name in ("authors", "fair", *rungs) if name in rungs},
        "curve": curve(truth, setting, weights, finish),
        "projection": {
            "what": "hours for the paper's 700 x 50 candidates of 50 steps at this rate on this "
            "device with this model; the paper: 24 h on an A100 with SD-2.1-base",
            "hours": {
                name: PAPER_CANDIDATES / figures["candidates_per_s"] / 3600 * 50 / sampler_steps
                for name, figures in rungs.items()
            },
        },
    }


def _same(made: Made) -> Made:
    return made


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
    seconds, joules = made.cost.seconds, made.cost.meter.joules
    rate = made.rows * flops / seconds
    return {
        "candidates_per_s": setting.total / seconds,
        "seconds": seconds,
        "passes_per_candidate": made.rows / setting.total,
        "tflop_per_s": rate / 1e12,
        "mfu": None if peak is None else rate / peak,
        "top1_agreement": agreed / len(prompts),
        "spearman": sum(ranks) / len(ranks) if len(ranks) == len(prompts) else None,
        "recall_top1": recalled / len(prompts),
        "recall_top1_95": asdict(wilson(recalled, len(prompts))),
        "regret_nats": sum(regret) / len(regret),
        "occupancy": made.occupancy,
        "peak_bytes": made.cost.peak_bytes,
        "joules_per_candidate": None if joules is None else joules / setting.total,
        "sm_mhz": made.cost.meter.sm_mhz,
    }


def _flops(model: StableDiffusion) -> float:
    length = model.tokenizer.model_max_length
    width = model.unet.config.cross_attention_dim
    return denoiser_flops(model.unet, model.latent_shape, (length, width))
