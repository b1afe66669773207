"""Find out what a folder holds, and write its page."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mitune.adapters.run_folder import FORMAT as TRAINING
from mitune.adapters.run_folder import RUN
from mitune.core.errors import UserError
from mitune.core.files import atomic_write, make_folder
from mitune.models.protocol import LatentModel
from mitune.report.comparison_sections import (
    benchmark_sections,
    comparison_sections,
    shown_sections,
    study_sections,
)
from mitune.report.page import Section, page
from mitune.report.set_sections import set_sections
from mitune.report.side_by_side import side_by_side
from mitune.report.training_sections import training_sections
from mitune.sets.schema import FORMAT as SET
from mitune.sets.schema import SetRecord

REPORT = "report.html"


def write_report(
    runs: Sequence[Path], out: Path | None = None, *, model: LatentModel | None = None
) -> Path:
    """Write the page of a run, or of several beside each other.

    Args:
        runs: folders of sets, trainings, comparisons, studies, benchmarks, or of ``mitune align``.
        out: the page's file; None: report.html in the folder of the first run.
        model: decodes the latents that sets hold; None shows no pictures of them.

    Returns:
        ``out``.

    Raises:
        UserError: a folder holds no run or a damaged one, the model is not a set's, or the file
            cannot be written.
    """
    if not runs:
        raise UserError("no run is given: expected the folder of at least one")
    found = {run: sections_of(run, model) for run in runs}
    if len(found) < len(runs):
        raise UserError("a run is given twice: expected different folders")
    first, *others = found
    if others:
        title = " and ".join(run.resolve().name for run in runs)
        sections = [side_by_side(runs)]
        for run, own in found.items():
            name = run.resolve().name
            sections += [replace(each, title=f"{name}: {each.title}") for each in own]
    else:
        title, sections = first.resolve().name, found[first]
    path = out or first / REPORT
    make_folder(path.parent)
    atomic_write(path, page(title, sections))
    return path


def sections_of(run: Path, model: LatentModel | None) -> list[Section]:
    """All that the folder ``run`` shows.

    Raises:
        UserError: as ``write_report``.
    """
    found: list[Section] = []
    try:
        if (run / "study.json").is_file():
            found += study_sections(run)
        if (run / "results.json").is_file():
            found += benchmark_sections(run)
        if (run / "eval.json").is_file():
            found += comparison_sections(run)
        if _is(run, SET):
            found += set_sections(run, model)
        if _is(run, TRAINING):
            found += training_sections(run)
        for number in range(1, len(list(run.glob("round-*"))) + 1):
            place = run / f"round-{number}"
            if _is(place / "adapter", TRAINING):
                found += training_sections(place / "adapter", f"round {number}: ")
            if _is(place / "set", SET):
                found += set_sections(place / "set", model, f"round {number}: ")
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(
            f"{run} holds a run that cannot be read ({type(error).__name__}: {error}): expected "
            "its files as mitune left them"
        ) from error
    if not found:
        raise UserError(
            f"{run} holds no run: expected the folder of a set, a training, a comparison, a study, "
            "a benchmark, or of mitune align"
        )
    if not (run / "study.json").is_file():
        found += shown_sections(run)
    return found


def model_of(run: Path) -> str | None:
    """The name of the model that made the set in a run's folder, as the set's notes have it; None
    without a set."""
    for folder in (run, run / "round-1" / "set"):
        if _is(folder, SET):
            name = SetRecord.load(folder).notes.get("model")
            return None if name is None else str(name)
    return None


def _is(folder: Path, form: str) -> bool:
    """Whether the folder's run.json is of a form."""
    path = folder / RUN
    try:
        return dict(json.loads(path.read_bytes())).get("format") == form
    except (FileNotFoundError, NotADirectoryError):
        return False
