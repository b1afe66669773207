"""Check a set part by part: what is missing, what is damaged, and whether the choice follows from
the scores."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mitune.core.errors import UserError, printable
from mitune.core.files import file_lock, held_locks
from mitune.core.reading import listed
from mitune.sets.parts import number_of, part_path, read_part
from mitune.sets.schema import PARTS, SetRecord
from mitune.sets.select import rank


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was found.

    Attributes:
        parts: number of parts of the whole set.
        rows: number of candidates in the parts that are sound.
        missing: numbers of the parts that are not there; the build that began the set makes them.
        faults: for each damaged or foreign file what is wrong, by its path.
    """

    parts: int
    rows: int
    missing: tuple[int, ...]
    faults: dict[Path, str]


def verify(folder: Path | str) -> Verified:
    """Read every part of the set in ``folder`` and check it: checksums, columns, the set that it
    is of, its keys, and that ranks and selection follow from the stored scores.

    Raises:
        UserError: there is no set, its run.json is damaged, or a part may not be read.
    """
    path = Path(folder)
    record = SetRecord.load(path)
    there, faults, rows = set(), {}, 0
    for file in listed(path / PARTS):
        if file.suffix != ".parquet":
            continue
        part = number_of(path, file)
        if part is None or part >= record.parts:
            faults[file] = "is no part of this set"
            continue
        there.add(part)
        try:
            table = read_part(path, record, part)
        except UserError as error:
            if not os.access(file, os.R_OK):
                raise  # it may be sound: nobody should remove it for that
            faults[file] = str(error)
            continue
        if wrong := _wrong(table, record, part):
            faults[file] = wrong
        else:
            rows += table.num_rows
    missing = tuple(part for part in range(record.parts) if part not in there)
    return Verified(parts=record.parts, rows=rows, missing=missing, faults=faults)


def remove_damaged(folder: Path | str, found: Verified) -> list[Path]:
    """Remove the files that ``found`` names as damaged, so that the build that began the set makes
    their parts again, and them alone.

    Returns:
        What was removed.

    Raises:
        UserError: somebody is writing the set, or a file cannot be removed.
    """
    path = Path(folder)
    with file_lock(path):
        if others := held_locks(path):
            raise UserError(
                f"{path} is being written by another run ({len(others)} of them): wait for it"
            )
        for file in found.faults:
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"cannot remove {file} ({error.strerror})") from error
    return list(found.faults)


def _wrong(table: pa.Table, record: SetRecord, part: int) -> str:
    """What is wrong in a part whose file is sound; empty if nothing is."""
    keys = [(p, c) for p in record.prompts_of(part) for c in range(record.pool(p))]
    there = table.select(["prompt_index", "candidate"]).to_pydict().values()
    if list(zip(*there, strict=True)) != keys:
        return "does not hold each candidate of its prompts once, in order"
    names = ("prompt", "prompt_index", "seed", "score", "finite", "pruned", "rank", "selected")
    rows = table.select(names).to_pylist()
    start = 0
    for prompt_index in record.prompts_of(part):
        pool = rows[start : start + record.pool(prompt_index)]
        start += len(pool)
        prompt = record.prompts[prompt_index]
        if any(row["prompt"] != prompt for row in pool):
            return f"has another text for prompt {prompt_index}, {printable(prompt)[:60]!r}"
        usable = [row["score"] if row["finite"] and not row["pruned"] else math.nan for row in pool]
        order = rank(usable, record.rule, pool[0]["seed"], prompt)
        if [row["rank"] for row in pool] != [order.index(i) for i in range(len(pool))]:
            return f"has ranks that do not follow from the scores of prompt {prompt_index}"
        if any(row["selected"] and row["rank"] >= record.keep for row in pool):
            return f"selects more of prompt {prompt_index} than the {record.keep} to keep"
    return ""


def missing_prompts(record: SetRecord, missing: tuple[int, ...]) -> int:
    """Number of prompts in the missing parts."""
    return sum(len(record.prompts_of(part)) for part in missing)


def part_names(folder: Path, parts: tuple[int, ...], most: int = 5) -> str:
    """The first of these parts' files, for a message."""
    shown = ", ".join(part_path(folder, part).name for part in parts[:most])
    return shown if len(parts) <= most else f"{shown} and {len(parts) - most} more"
