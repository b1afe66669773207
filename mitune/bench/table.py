"""Print the ladder as text."""

import math
from typing import Any


def describe(name: str, figures: dict[str, Any]) -> str:
    """One line of the table."""

    def known(figure: str, form: str) -> str:
        return "" if figures[figure] is None else format(figures[figure], form)

    return (
        f"{name:<16} {figures['candidates_per_s']:9.2f} {figures['passes_per_candidate']:8.1f} "
        f"{figures['tflop_per_s']:8.2f} {known('mfu', '.0%'):>5} "
        f"{known('top1_agreement', '.2f'):>7} {known('spearman', '.4f'):>8} "
        f"{known('recall_top1', '.2f'):>7} {known('regret_nats', '.3f'):>8} "
        f"{known('score_apart', '.1e'):>8} {figures['occupancy']:7.1%}"
    )


def add_ratios(rungs: dict[str, dict[str, Any]], rate: str) -> None:
    """Add ``ratio_vs_authors`` and ``ratio_vs_fair`` of the figure ``rate`` to each rung, in place;
    None if that baseline was not run."""
    for figures in rungs.values():
        for base in ("authors", "fair"):
            there = rungs.get(base)
            figures[f"ratio_vs_{base}"] = there and figures[rate] / there[rate]


def explain(result: dict[str, Any]) -> str:
    """The text below the table: the ratios, the projection, and the policies that were replayed."""
    lines = ["", f"{'rung':<16} {'x authors':>9} {'x fair':>7} {'hours for 700 x 50':>19}"]
    for name, figures in result["rungs"].items():
        ratios = [figures[f"ratio_vs_{base}"] or math.nan for base in ("authors", "fair")]
        lines.append(
            f"{name:<16} {ratios[0]:9.2f} {ratios[1]:7.2f} "
            f"{result['projection']['hours'][name]:19.2f}"
        )
    lines += [f"(projected: {result['projection']['what']})", ""]
    if result["curve"]:
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
    f"{'rung':<16} {'cand./s':>9} {'passes':>8} {'TFLOP/s':>8} {'MFU':>5} {'top-1':>7} "
    f"{'Spearman':>8} {'recall':>7} {'regret':>8} {'apart':>8} {'full':>7}"
)
