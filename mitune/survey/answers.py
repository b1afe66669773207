"""Answers as the paper's authors keep them: a CSV file for each finished survey, named by when it
was finished, with a line for each round."""

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from mitune.core.files import atomic_write, make_folder
from mitune.survey.store import Survey

_STAMP = "answer_%Y%m%d_%H%M%S_%f.csv"


def export(surveys: Sequence[Survey], out: Path) -> list[Path]:
    """Write ``OUT/KIND_comparison/POOL/PEOPLE/answer_DATE_TIME.csv``: category (not in a comparison
    of metrics), the prompt as Python's ``repr`` has it, and True or False for each of what is
    compared.

    Raises:
        UserError: the folder cannot be written.
    """
    written = []
    for survey in surveys:
        if survey.finished is None:
            continue
        folder = out / f"{survey.kind}_comparison" / survey.pool / survey.people
        make_folder(folder)
        path = folder / datetime.fromisoformat(survey.finished).strftime(_STAMP)
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        head = ["category", "prompt"] if survey.kind == "methods" else ["prompt"]
        lines.writerow([*head, *survey.options])
        for number, asked in enumerate(survey.rounds):
            start = [asked.category] if survey.kind == "methods" else []
            chosen = survey.answers[number]
            lines.writerow([*start, repr(asked.prompt), *(o in chosen for o in survey.options)])
        atomic_write(path, text.getvalue().encode())
        written.append(path)
    return written
