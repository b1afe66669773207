"""One part of a set: encode a block of whole prompts as a Parquet file, and read it back with
checks."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mitune.core.errors import UserError
from mitune.core.reading import listed
from mitune.engine.candidate import Candidate
from mitune.sets.schema import COLUMNS, PARTS, SetRecord
from mitune.sets.select import rank

_NAME = re.compile(r"part-(\d{5,})\.parquet")
_MEND = "remove it and run the same build again, which makes what is missing"


def part_path(folder: Path, part: int) -> Path:
    """The path of a part of the set in ``folder``."""
    return folder / PARTS / f"part-{part:05d}.parquet"


def number_of(folder: Path, path: Path) -> int | None:
    """The number of the part that a file of the set in ``folder`` is by its name; None for any
    other file."""
    match = _NAME.fullmatch(path.name)
    if match is None or part_path(folder, int(match[1])) != path:
        return None
    return int(match[1])


def encode(record: SetRecord, part: int, candidates: Mapping[tuple[int, int], Candidate]) -> bytes:
    """Rank and select the candidates of a part and encode them as a Parquet file, with rows sorted
    by (prompt, candidate).

    The bytes depend only on the candidates and on the version of pyarrow, not on the order in
    which the candidates arrived. Page checksums are on, so that readers detect damage inside the
    file and do not train on it.

    Args:
        record: the set's record.
        part: number of the part.
        candidates: all of the part's candidates, by (prompt_index, index).

    Raises:
        ValueError: if the candidates of a prompt were made with different seeds.
        KeyError: if a candidate is missing.
    """
    rows: list[Candidate] = []
    ranks: list[int] = []
    scores: list[float] = []
    eligible: list[bool] = []
    for prompt_index in record.prompts_of(part):
        pool = [candidates[prompt_index, index] for index in range(record.pool(prompt_index))]
        if len(seeds := {candidate.seed for candidate in pool}) > 1:
            raise ValueError(f"got seeds {sorted(seeds)} for prompt {prompt_index}; expected one")
        # Rank by the stored float32 scores, so that the selection can be redone from the table.
        known = torch.tensor([candidate.score for candidate in pool], dtype=torch.float32).tolist()
        usable = [
            score if candidate.finite and not candidate.pruned else math.nan
            for score, candidate in zip(known, pool, strict=True)
        ]
        order = rank(usable, record.rule, pool[0].seed, record.prompts[prompt_index])
        rows += pool
        scores += known
        eligible += [
            math.isfinite(score) and candidate.finished
            for score, candidate in zip(usable, pool, strict=True)
        ]
        ranks += [order.index(index) for index in range(len(pool))]
    selected = [ok and place < record.keep for ok, place in zip(eligible, ranks, strict=True)]
    stored = [
        ok or (record.all_latents and row.finished) for ok, row in zip(selected, rows, strict=True)
    ]
    latents = [row.latent if here else None for here, row in zip(stored, rows, strict=True)]
    columns = {
        "prompt": [row.prompt for row in rows],
        "prompt_index": [row.prompt_index for row in rows],
        "prompt_id": [row.prompt_id for row in rows],
        "candidate": [row.index for row in rows],
        "seed": [row.seed for row in rows],
        "score": scores,
        "terms": [row.terms[: row.steps, 0].numpy() for row in rows],
        "cross_terms": [row.terms[: row.steps, 1].numpy() for row in rows],
        "finite": [
            math.isfinite(score) and row.finite for score, row in zip(scores, rows, strict=True)
        ],
        "pruned": [row.pruned for row in rows],
        "rank": ranks,
        "selected": selected,
        "latent": [z if z is None else z.flatten().numpy() for z in latents],
        "latent_shape": [z if z is None else list(z.shape) for z in latents],
    }
    arrays = [pa.array(columns[column.name], column.type) for column in COLUMNS]
    return encode_table(record, part, pa.Table.from_arrays(arrays, schema=COLUMNS))


def encode_table(record: SetRecord, part: int, table: pa.Table) -> bytes:
    """Encode the rows of a part, which ``encode`` ranked, as its Parquet file."""
    table = table.replace_schema_metadata(_stamp(record, part))
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, compression="zstd", use_dictionary=["prompt"], write_page_checksum=True
    )
    return bytes(sink.getvalue())


def read_part(
    folder: Path, record: SetRecord, part: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read one part and check that it is complete, has this format's columns and belongs to this
    record.

    Returns:
        The named columns (all when None), one row per candidate.

    Raises:
        UserError: if the file is truncated, damaged or from another set. The message names the
            file and the fix.
    """
    path = part_path(folder, part)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            stamp, known = schema.metadata or {}, schema.equals(COLUMNS)
            table = file.read(columns=columns)
    except PermissionError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}); expected a readable file"
        ) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is truncated or damaged ({reason}); expected a whole part: {_MEND}"
        ) from error
    if not known or not stamp.items() >= _stamp(record, part).items():
        raise UserError(
            f"{path} is a foreign file, not written as part {part} of this set: {_MEND}"
        )
    if rows != record.rows_of(part):
        raise UserError(f"{path} has {rows} rows, not those of its prompts: {_MEND}")
    return table.replace_schema_metadata(None)


def find_parts(folder: Path, record: SetRecord) -> list[int]:
    """Numbers of the parts in the folder, ascending; does not open the files.

    Raises:
        UserError: if the parts' folder cannot be read, or holds any other Parquet file. Every
            reader of ``parts/*.parquet`` would take that file's rows as part of the set.
    """
    found = []
    for path in listed(folder / PARTS):
        if path.suffix != ".parquet":
            continue
        part = number_of(folder, path)
        if part is None or part >= record.parts:
            raise UserError(
                f"{path} is a foreign file; expected only this set's parts, "
                f"0 to {record.parts - 1}: remove it"
            )
        found.append(part)
    return sorted(found)


def _stamp(record: SetRecord, part: int) -> dict[bytes, bytes]:
    return {b"mitune.set": record.fingerprint.encode(), b"mitune.part": str(part).encode()}
