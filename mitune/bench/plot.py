"""Plot the ladder."""

import importlib.util
import math
from pathlib import Path
from typing import Any

from mitune.core.errors import UserError


def check_plot(path: Path) -> None:
    """Raise UserError unless a plot can be written to ``path``. Call it before the long run."""
    if path.suffix not in (".png", ".svg"):
        raise UserError(f"plot {path}: expected a name that ends in .png or .svg")
    if not path.parent.is_dir():
        raise UserError(f"plot {path}: its folder does not exist; make it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("plot needs matplotlib: pip install matplotlib, or leave --plot out")


def plot_ladder(result: dict[str, Any], path: Path) -> None:
    """Plot the candidates per second of each rung as bars, labelled with the ratio to the authors'
    loop."""
    from matplotlib.figure import Figure

    rungs = result["rungs"]
    names = list(rungs)
    rates = [rungs[name]["candidates_per_s"] for name in names]
    figure = Figure(figsize=(8, 0.45 * len(names) + 1.2), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, rates, color="#4c72b0")
    labels = [
        f"{rungs[name]['ratio_vs_authors'] or math.nan:.1f} x, "
        f"top-1 {rungs[name]['top1_agreement']:.0%}"
        for name in names
    ]
    axes.bar_label(bars, labels, padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max(rates) * 1.3)
    axes.set_xlabel("candidates per second")
    axes.set_title(
        f"{result['model']}, {result['prompts']} prompts x {result['candidates']}, "
        f"{result['device']}",
        fontsize=9,
    )
    figure.savefig(path, dpi=150)
