"""What a comparison of a base model with its tuned one shows, a study, and a benchmark."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mitune.core.reading import read_file
from mitune.evaluation.report import MODELS, SHOWN
from mitune.evaluation.standard_error import Estimate
from mitune.evaluation.studies.compared import ALL
from mitune.report.page import Section, number, render
from mitune.report.sheets import address_of_file
from mitune.report.source import source

_ERRORS = "_se"
"""End of the name of a standard error, in a study's rows."""
_PAIR, _WHOLE = 384, 2400
"""The longest side in pixels of a single picture, and of a sheet of many."""
_PICTURES = {
    "base_and_tuned.png": "Pairs of rows: base above tuned, each column from the same noise.",
    "ranking.png": "The candidates that the score ranks first, then those that it ranks last.",
    "plot.png": "What the study compares, with standard errors.",
    "maps.png": "A picture of each prompt, and where in it each phrase adds information.",
}


def comparison_sections(folder: Path) -> list[Section]:
    """Sections of ``eval.json`` in ``folder``."""
    found = json.loads(read_file(folder / "eval.json"))
    rows = [
        [
            row["model"],
            row["metric"],
            plus_minus(row["mean"], row["standard_error"]),
            "" if row["model"] == "base" else gained(row["gain"], row["gain_standard_error"]),
        ]
        for row in found["table"]
    ]
    caption = (
        f"{found['prompts']} prompts x {found['images']} pictures x {len(found['seeds'])} seeds, "
        f"guidance {found['sampler']['guidance']:g}; mean ± standard error"
    )
    table = render(
        "table.html",
        caption=caption,
        heads=["model", "metric", "mean", "gain over base"],
        rows=rows,
    )
    return [
        Section(title="Base and tuned", body=table),
        *_pairs(folder, found),
        Section(
            title="Comparison: source",
            aside=True,
            body=source(folder, found["environment"], {"adapter": found["adapter"]}),
        ),
    ]


def _pairs(folder: Path, found: Mapping[str, Any]) -> list[Section]:
    """Both models' pictures of the first prompts; none if the run left none."""
    each, groups = int(found["images"]), []
    for number_of, prompt in enumerate(found.get("shown", ())):
        pictures = []
        for i in range(each):
            name = f"{number_of * each + i:03d}.png"
            pair = [folder / SHOWN / model / name for model in MODELS]
            if not all(path.is_file() for path in pair):
                break
            pictures.append([address_of_file(path, _PAIR) for path in pair])
        if pictures:
            groups.append((prompt, pictures))
    return [Section(title="Pictures", body=render("pairs.html", groups=groups))] if groups else []


def study_sections(folder: Path) -> list[Section]:
    """Sections of ``study.json`` in ``folder``."""
    found = json.loads(read_file(folder / "study.json"))
    every = found["rows"]
    whole = [row for row in every if row.get("category", ALL) == ALL] or every
    heads, rows = paired(whole)
    table = render("table.html", caption=f"study {found['study']}", heads=heads, rows=rows)
    if len(whole) < len(every):
        heads, rows = paired([row for row in every if row.get("category", ALL) != ALL])
        by_category = render("table.html", caption="by category", heads=heads, rows=rows)
        table += Markup("<details><summary>By category</summary>{}</details>").format(by_category)
    return [
        Section(title=f"Study: {found['study']}", body=table),
        *_shown(folder),
        Section(
            title="Study: source",
            aside=True,
            body=source(
                folder, {**found["environment"], "seconds": found["seconds"]}, found["plan"]
            ),
        ),
    ]


def benchmark_sections(folder: Path) -> list[Section]:
    """Sections of a benchmark's ``results.json`` in ``folder``."""
    found = json.loads(read_file(folder / "results.json"))
    rows = [
        [
            row["category"],
            row["metric"],
            plus_minus(row["value"]["mean"], row["value"]["standard_error"]),
        ]
        for row in found["rows"]
    ]
    caption = f"{found['benchmark']}, {found['images']} pictures of each prompt"
    table = render(
        "table.html", caption=caption, heads=["category", "metric", "mean ± s.e."], rows=rows
    )
    settings = {k: v for k, v in found.items() if k not in ("rows", "prompts", "environment")}
    return [
        Section(title="Benchmark", body=table),
        Section(
            title="Benchmark: source",
            body=source(folder, found["environment"], settings),
            aside=True,
        ),
    ]


def shown_sections(folder: Path) -> list[Section]:
    """The pictures that a run left to be looked at."""
    return _shown(folder)


def _shown(folder: Path) -> list[Section]:
    found = []
    for name, caption in _PICTURES.items():
        if (folder / name).is_file():
            content = render(
                "picture.html",
                address=address_of_file(folder / name, _WHOLE),
                alt=f"{caption} ({name})",
            )
            found.append(render("figure.html", content=content, caption=caption))
    return [Section(title="To look at", body=Markup("").join(found))] if found else []


def plus_minus(mean: float | None, error: float | None) -> str:
    """``0.516 ± 0.026``; nothing without a mean."""
    if mean is None:
        return ""
    return number(mean) if error is None else str(Estimate(mean, error))


def gained(gain: float | None, error: float | None) -> str:
    """A difference with its sign, and how many of its standard errors it is."""
    if gain is None:
        return ""
    told = f"{gain:+.3f}" if error is None else f"{gain:+.3f} ± {error:.3f}"
    return f"{told} ({gain / error:.1f} s.e.)" if error else told


def paired(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """A study's rows with each value and its standard error in one cell: heads and rows."""
    names = [name for name in (rows[0] if rows else {}) if not name.endswith(_ERRORS)]
    lines = []
    for row in rows:
        cells: list[Any] = []
        for name in names:
            value, error = row[name], row.get(name + _ERRORS)
            both = isinstance(value, float) and name + _ERRORS in row
            cells.append(plus_minus(value, error) if both else "" if value is None else value)
        lines.append(cells)
    return [name.replace("_", " ") for name in names], lines
