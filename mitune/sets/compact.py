"""Write a set again with other parts."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mitune.core.errors import UserError
from mitune.core.files import atomic_write, make_folder
from mitune.sets.data_card import card
from mitune.sets.parts import encode_table, part_path, read_part
from mitune.sets.reader import FineTuningSet
from mitune.sets.schema import AUDIT, CARD, PARTS, RUN, SetRecord


def compact(
    folder: Path | str, out: Path | str, prompts_per_part: int, *, kept_alone: bool = False
) -> FineTuningSet:
    """Write the complete set in ``folder`` again as ``out``, with parts of ``prompts_per_part``
    prompts: fewer and larger files for object stores and readers, the same rows.

    One new part at a time is in memory.

    Args:
        folder: of the set.
        out: a new or empty folder.
        prompts_per_part: at least 1.
        kept_alone: store the latents of the kept candidates alone, if the set has all.

    Raises:
        UserError: the set is damaged or not complete, ``out`` is not empty, or cannot be written.
    """
    path, target = Path(folder), Path(out)
    if prompts_per_part < 1:
        raise UserError(f"prompts_per_part is {prompts_per_part}: expected at least 1")
    if not FineTuningSet.open(path).complete:
        raise UserError(f"set {path} is not complete: run the command that began it again")
    record = SetRecord.load(path)
    all_latents = record.all_latents and not kept_alone
    new = replace(record, prompts_per_part=prompts_per_part, all_latents=all_latents)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is not empty: expected a new folder")
    # All or nothing: what a killed call left goes.
    half = target.with_name(f".{target.name}.tmp")
    try:
        shutil.rmtree(half, ignore_errors=True)
        make_folder(half / PARTS)
        for part, table in enumerate(_gathered(path, record, new)):
            if record.all_latents and kept_alone:
                table = _without_others(table)
            atomic_write(part_path(half, part), encode_table(new, part, table))
        if (path / AUDIT).exists():
            atomic_write(half / AUDIT, (path / AUDIT).read_bytes())
        atomic_write(half / CARD, card(new))
        atomic_write(half / RUN, new.dumps())
        os.replace(half, target)
    except OSError as error:
        raise UserError(
            f"cannot write {target} ({error.strerror}): expected a writable folder with free space"
        ) from error
    return FineTuningSet.open(target)


def _gathered(path: Path, record: SetRecord, new: SetRecord) -> Iterator[pa.Table]:
    """The rows of each new part; reads an old part when the first of its rows is needed."""
    waiting: list[pa.Table] = []
    old = iter(range(record.parts))
    for part in range(new.parts):
        rows = new.rows_of(part)
        while sum(table.num_rows for table in waiting) < rows:
            waiting.append(read_part(path, record, next(old)))
        whole = pa.concat_tables(waiting)
        yield whole.slice(0, rows).combine_chunks()
        waiting = [whole.slice(rows)]


def _without_others(table: pa.Table) -> pa.Table:
    """The rows, with the latents of those that are not selected left out."""
    for name in ("latent", "latent_shape"):
        place = table.schema.get_field_index(name)
        own = table[name]
        left = pc.if_else(table["selected"], own, pa.nulls(len(own), own.type))
        table = table.set_column(place, table.schema.field(name), left)
    return table
