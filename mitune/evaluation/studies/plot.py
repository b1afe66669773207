"""The picture of a study: each model's strict score, with its standard error."""

from collections.abc import Sequence
from pathlib import Path

from mitune.evaluation.studies.compared import ALL, BASE, Row


def plot(rows: Sequence[Row], title: str, path: Path) -> bool:
    """Write a picture of the rows (PNG); False, and no picture, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    shown = [row for row in rows if (row.category, row.metric) == (ALL, "strict")]
    models = list(dict.fromkeys(row.model for row in shown if row.model != BASE))
    guidances = list(dict.fromkeys(row.guidance for row in shown))
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(models)), layout="constrained")
    axes = figure.subplots()
    for number, guidance in enumerate(guidances):
        here = {row.model: row.value for row in shown if row.guidance == guidance}
        colour, base = f"C{number}", here[BASE]
        low, high = base.mean - base.standard_error, base.mean + base.standard_error
        axes.axvline(base.mean, color=colour, linestyle="--", linewidth=1)
        axes.axvspan(low, high, color=colour, alpha=0.12)
        offset = 0.12 * (number - (len(guidances) - 1) / 2)
        axes.errorbar(
            [here[model].mean for model in models],
            [place + offset for place in range(len(models))],
            xerr=[here[model].standard_error for model in models],
            fmt="o",
            color=colour,
            label=f"guidance {guidance:g} (dashed: base)",
        )
    axes.set_yticks(range(len(models)), models)
    axes.invert_yaxis()
    axes.set_xlabel("strict, mean ± s.e.")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    return True
