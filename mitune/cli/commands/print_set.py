"""The line that several verbs print about a set."""

from typing import Any


def print_set(summary: dict[str, Any], prefix: str = "") -> None:
    means = [summary["score_mean_kept"], summary["score_mean_all"]]
    kept, everyone = ("none" if m is None else f"{m:.2f}" for m in means)
    unit = summary["unit"]
    print(
        f"{prefix}set {summary['path']}: {summary['candidates']} candidates of "
        f"{summary['finished_prompts']} prompts, "
        f"{summary['kept']} kept; mean score {kept} {unit} kept, {everyone} all; "
        f"{summary['pruned']} pruned, {summary['non_finite']} non-finite"
    )
