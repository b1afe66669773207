"""Find out what a folder holds, and write its page."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from mitune.adapters.run_folder import FORMAT as TRAINING
from mitune.adapters.run_folder import RUN
from mitune.core.errors import UserError
from mitune.core.files import atomic_write, make_folder
from mitune.core.reading import as_written, read_file
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
    runs: Sequence[Path],
    out: Path | None = None,
    *,
    model: LatentModel | None = None,
    categories: Mapping[str, str] | None = None,
) -> Path:
    """Write the page of a run, or of several beside each other.

    Args:
        runs: folders of sets, trainings, comparisons, studies, benchmarks, or of ``mitune align``.
        out: the page's file; None: report.html in the folder of the first run.
        model: decodes the latents that sets hold; None shows no pictures of them.
        categories: of the prompts of sets; None takes those of an embedded model's world.

    Returns:
        ``out``.

    Raises:
        UserError: a folder holds no run or a damaged one, the model is not a set's, or the file
            cannot be written.
    """
    if not runs:
        raise UserError("no run is given: expected the folder of at least one")
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("a run is given twice: expected different folders")
    found = {name: sections_of(run, model, categories) for name, run in _named(runs).items()}
    if len(runs) > 1:
        with _reading(runs[0]):
            sections = [side_by_side(_named(runs))]
        for name, own in found.items():
            sections += [replace(each, title=f"{name}: {each.title}") for each in own]
    else:
        (sections,) = found.values()
    title = " and ".join(found)
    path = out or runs[0] / REPORT
    make_folder(path.parent)
    atomic_write(path, page(title, sections))
    return path


def sections_of(
    run: Path, model: LatentModel | None, categories: Mapping[str, str] | None = None
) -> list[Section]:
    """All that the folder ``run`` shows.

    Raises:
        UserError: as ``write_report``.
    """
    found: list[Section] = []
    with _reading(run):
        if (run / "study.json").is_file():
            found += study_sections(run)
        if (run / "results.json").is_file():
            found += benchmark_sections(run)
        if (run / "eval.json").is_file():
            found += comparison_sections(run)
        if _is(run, SET):
            found += set_sections(run, model, categories=categories)
        if _is(run, TRAINING):
            found += training_sections(run)
        for number, place in _rounds(run):
            if _is(place / "adapter", TRAINING):
                found += training_sections(place / "adapter", f"round {number}: ")
            if _is(place / "set", SET):
                found += set_sections(place / "set", model, f"round {number}: ", categories)
        if found and not (run / "study.json").is_file():
            found += shown_sections(run)
    if not found:
        raise UserError(
            f"{run} holds no run: expected the folder of a set, a training, a comparison, a study, "
            "a benchmark, or of mitune align"
        )
    return found


def model_of(run: Path) -> str | None:
    """The name of the model that made the set in a run's folder, as the set's notes have it; None
    without a set.

    Raises:
        UserError: the set's record cannot be read.
    """
    with _reading(run):
        for folder in (run, *(place / "set" for _, place in _rounds(run))):
            if _is(folder, SET):
                name = SetRecord.load(folder).notes.get("model")
                return None if name is None else str(name)
    return None


def _reading(run: Path) -> AbstractContextManager[None]:
    return as_written(f"the run in {run}", "its files as mitune left them")


def _rounds(run: Path) -> list[tuple[int, Path]]:
    """The rounds of ``mitune align`` in a folder, by number."""
    found = (path for path in run.glob("round-*") if path.name[6:].isdecimal())
    return sorted((int(path.name[6:]), path) for path in found)


def _named(runs: Sequence[Path]) -> dict[str, Path]:
    """Runs by the names of their folders, or by their paths where names are equal."""
    names = [run.resolve().name for run in runs]
    return {
        name if names.count(name) == 1 else str(run): run
        for name, run in zip(names, runs, strict=True)
    }


def _is(folder: Path, form: str) -> bool:
    """Whether the folder's run.json is of a form."""
    path = folder / RUN
    try:
        return dict(json.loads(read_file(path))).get("format") == form
    except (FileNotFoundError, NotADirectoryError):
        return False
