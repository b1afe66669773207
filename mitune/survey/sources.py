"""Where the pictures of a survey come from: runs of ``mitune eval --bench`` or ``mitune generate``,
or the folders of the paper's authors."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mitune.core.errors import UserError
from mitune.core.reading import as_written, read_file
from mitune.survey.pool import Kind

Found = dict[tuple[str, str], dict[str, list[Path]]]
"""For each (category, prompt) the files of each of what is compared."""
_ENDS = (".png", ".jpg", ".jpeg", ".webp")
_SAMPLES = "samples"


def of_runs(runs: Mapping[str, Path]) -> Found:
    """Pictures of runs by the name of what drew them: ``FOLDER/CATEGORY/samples/PROMPT_NUMBER.png``
    of a benchmark, or ``FOLDER/samples/PROMPT_NUMBER.png``, which has no category.

    Raises:
        UserError: a folder holds no such pictures.
    """
    found: Found = {}
    for name, folder in runs.items():
        places = sorted(p for p in folder.glob(f"*/{_SAMPLES}") if p.is_dir())
        categories = {place.parent.name: place for place in places}
        if (folder / _SAMPLES).is_dir():
            categories = {"": folder / _SAMPLES}
        count = 0
        for category, place in categories.items():
            for prompt, path in _pictures(place):
                found.setdefault((category, prompt), {}).setdefault(name, []).append(path)
                count += 1
        if not count:
            raise UserError(
                f"{folder} has no pictures: expected CATEGORY/samples/PROMPT_000000.png of mitune "
                "eval --bench, or samples/ of mitune generate"
            )
    return found


def scores_of(runs: Mapping[str, Path]) -> dict[str, dict[Path, float]]:
    """What the metrics of benchmark runs say of their pictures, by metric and file: of
    ``FOLDER/CATEGORY/scores/METRIC.json``, whose values are in the order of the files' numbers.

    Raises:
        UserError: a file of scores cannot be read, or is not of the pictures beside it.
    """
    found: dict[str, dict[Path, float]] = {}
    for folder in runs.values():
        for path in sorted(folder.glob("*/scores/*.json")):
            files = [file for _, file in _pictures(path.parent.parent / _SAMPLES)]
            files.sort(key=lambda file: int(file.stem.rpartition("_")[2]))
            with as_written(path, "the scores of the pictures beside it; run mitune eval --bench"):
                values = json.loads(read_file(path))["scores"]
                told = {
                    file: float(value)
                    for file, value in zip(files, values, strict=True)
                    if value is not None  # what was not finite
                }
                finite = {file: value for file, value in told.items() if math.isfinite(value)}
                found.setdefault(path.stem, {}).update(finite)
    return found


def of_authors(folder: Path, kind: Kind) -> Found:
    """The authors' folders: ``FOLDER/METRIC/PROMPT_NUMBER.png`` of a comparison of metrics,
    ``FOLDER/CATEGORY/METHOD/PROMPT_NUMBER.png`` of one of methods.

    Raises:
        UserError: the folder holds no such pictures.
    """
    found: Found = {}
    categories = [folder] if kind == "metrics" else _folders(folder)
    for category in categories:
        for option in _folders(category):
            for prompt, path in _pictures(option):
                key = ("" if kind == "metrics" else category.name, prompt)
                found.setdefault(key, {}).setdefault(option.name, []).append(path)
    if not found:
        shape = "METRIC" if kind == "metrics" else "CATEGORY/METHOD"
        raise UserError(f"{folder} has no pictures: expected {shape}/PROMPT_NUMBER.png below it")
    return found


def named(given: Sequence[str]) -> dict[str, Path]:
    """``NAME=FOLDER`` by name.

    Raises:
        UserError: one that is not so, or a name twice.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not name or not equals or not folder:
            raise UserError(f"--images is {text}: expected NAME=FOLDER, such as base=runs/base")
        if name in found:
            raise UserError(f"--images has {name} twice: expected different names")
        if not Path(folder).is_dir():
            raise UserError(f"{folder} is no folder: expected the folder of a run with pictures")
        found[name] = Path(folder)
    return found


def _pictures(folder: Path) -> Iterator[tuple[str, Path]]:
    """(prompt, file) of ``PROMPT_NUMBER.png``, in the order of the numbers.

    Raises:
        UserError: the folder cannot be read, or a picture's name is not so.
    """
    found = []
    for path in _inside(folder):
        if not path.is_file() or path.suffix.lower() not in _ENDS:
            continue
        prompt, _, number = path.stem.rpartition("_")
        if not prompt or not number.isascii() or not number.isdecimal():
            raise UserError(f"picture {path} has no number: expected PROMPT_NUMBER.png")
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"the name of picture {os.fsencode(path)!r} is not UTF-8: rename the file"
            ) from None
        found.append((prompt, int(number), path))
    yield from ((prompt, path) for prompt, _, path in sorted(found))


def _folders(folder: Path) -> list[Path]:
    return [path for path in _inside(folder) if path.is_dir()]


def _inside(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without what is hidden."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): expected a folder") from error
