"""What a study says in a line for each model: how much it gains, in standard errors."""

import math
from collections.abc import Sequence

from mitune.evaluation.standard_error import Estimate
from mitune.evaluation.studies.compared import ALL, BASE, Row


def verdicts(rows: Sequence[Row]) -> list[str]:
    """For every tuned model and guidance, its gain of strict over the base and over its control,
    and how much of the gap between base and perfect it closes."""
    shown = [row for row in rows if (row.category, row.metric) == (ALL, "strict")]
    base = {row.guidance: row.value.mean for row in shown if row.model == BASE}
    lines = []
    for row in shown:
        if row.gain is None:
            continue
        line = f"guidance {row.guidance:g}, strict: {row.model} less base = {_in_errors(row.gain)}"
        gap = 1 - base[row.guidance]
        if gap > 0:
            line += f", {row.gain.mean / gap:.0%} of the gap between base and perfect"
        if row.over_control is not None:
            line += f"; less its control = {_in_errors(row.over_control)}"
        lines.append(line)
    return lines


def _in_errors(gain: Estimate) -> str:
    error = gain.standard_error
    ratio = gain.mean / error if error > 0 else math.nan
    return f"{gain.mean:+.3f} ± {error:.3f} ({ratio:.1f} s.e.)"
