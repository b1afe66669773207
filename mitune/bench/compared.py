"""The figures of a rung: its rates, and how its choices compare with those of the exact run."""

from dataclasses import asdict
from typing import Any

from mitune.bench.rungs import Made
from mitune.evaluation.correlation import spearman
from mitune.selection.audit import wilson


def figures_of(
    made: Made,
    truth: Made | None,
    whole: Made | None,
    flops: float,
    peak: float | None,
) -> dict[str, Any]:
    """The figures of a rung.

    Args:
        made: the results of the rung.
        truth: the exact run in float32, on all prompts or the first ones.
        whole: the unpruned run in the rung's own precision, if the rung prunes.
        flops: floating-point operations of one row's pass.
        peak: the device's peak, FLOP/s; None if unknown.
    """
    seconds, joules = made.cost.seconds, made.cost.meter.joules
    rate = made.rows * flops / seconds
    return {
        "candidates_per_s": made.total / seconds,
        "seconds": seconds,
        "passes_per_candidate": made.rows / made.total,
        "tflop_per_s": rate / 1e12,
        "mfu": None if peak is None else rate / peak,
        **_choices(made, truth, whole or truth),
        "occupancy": made.occupancy,
        "peak_bytes": made.cost.peak_bytes,
        "joules_per_candidate": None if joules is None else joules / made.total,
        "sm_mhz": made.cost.meter.sm_mhz,
    }


def _choices(made: Made, truth: Made | None, whole: Made | None) -> dict[str, Any]:
    """Compare a rung's choices and scores with those of the exact run, on the prompts that both
    have. ``score_apart`` is the largest relative difference of a score. Without an exact run, the
    figures are None."""
    names = ("top1_agreement", "spearman", "score_apart", "regret_nats")
    found: dict[str, Any] = dict.fromkeys((*names, "recall_top1", "recall_top1_95"))
    if whole is not None:
        prompts = range(min(len(made.scores), len(whole.scores)))
        recalled = sum(made.chosen[p] == whole.chosen[p] for p in prompts)
        found["recall_top1"] = recalled / len(prompts)
        found["recall_top1_95"] = asdict(wilson(recalled, len(prompts)))
    if truth is None:
        return found
    prompts = range(min(len(made.scores), len(truth.scores)))
    agreed = sum(made.chosen[p] == truth.chosen[p] for p in prompts)
    regret = [
        float(truth.scores[p, truth.chosen[p]] - truth.scores[p, made.chosen[p]]) for p in prompts
    ]
    ranks = [
        spearman(made.scores[p], truth.scores[p])
        for p in prompts
        if bool(made.scores[p].isfinite().all())
    ]
    apart = (made.scores[: len(prompts)] / truth.scores[: len(prompts)] - 1).abs()
    apart = apart[apart.isfinite()]
    return found | {
        "top1_agreement": agreed / len(prompts),
        "spearman": sum(ranks) / len(ranks) if len(ranks) == len(prompts) else None,
        "score_apart": float(apart.max()) if len(apart) else None,
        "regret_nats": sum(regret) / len(regret),
    }
