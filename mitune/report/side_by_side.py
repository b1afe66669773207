"""Runs beside each other: their figures in one table."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from mitune.core.reading import read_file
from mitune.report.comparison_sections import plus_minus
from mitune.report.page import Section, render


def side_by_side(runs: Mapping[str, Path]) -> Section:
    """A table with a column for each run, by name, and a row for each figure that one of them
    has."""
    found = [dict(_figures(run)) for run in runs.values()]
    names = dict.fromkeys(name for each in found for name in each)
    rows = [[name, *(each.get(name, "") for each in found)] for name in names]
    heads = ["figure", *runs]
    caption = "mean ± standard error; each run's own, so on equal noise only where seeds are equal"
    return Section(
        title="Side by side", body=render("table.html", caption=caption, heads=heads, rows=rows)
    )


def _figures(run: Path) -> Iterator[tuple[str, str]]:
    """The figures of a run, by a name that other runs' equal figures have too."""
    if (path := run / "study.json").is_file():
        for row in json.loads(read_file(path))["rows"]:
            if row.get("category") == "all" and "metric" in row:
                name = f"{row['metric']}, {row['model']}, guidance {row['guidance']:g}"
                yield name, plus_minus(row["value"], row["value_se"])
    if (path := run / "eval.json").is_file():
        for row in json.loads(read_file(path))["table"]:
            name = f"{row['metric']}, {row['model']}"
            yield name, plus_minus(row["mean"], row["standard_error"])
    if (path := run / "results.json").is_file():
        for row in json.loads(read_file(path))["rows"]:
            value = row["value"]
            name = f"{row['category']}, {row['metric']}"
            yield name, plus_minus(value["mean"], value["standard_error"])
    for path in sorted([run / "metrics.jsonl", *run.glob("round-*/adapter/metrics.jsonl")]):
        if path.is_file() and (lines := path.read_text(encoding="utf-8").splitlines()):
            yield f"steps of {path.relative_to(run).parent}", str(len(lines))
