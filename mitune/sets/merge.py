"""Join the shares of one set that several machines built in folders of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mitune.core.errors import UserError
from mitune.core.reading import read_file
from mitune.sets.parts import find_parts, part_path, read_part
from mitune.sets.reader import FineTuningSet
from mitune.sets.schema import SetRecord
from mitune.sets.writer import SetWriter


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What a merge made.

    Attributes:
        joined: the set; not complete if the shares are not.
        copied: number of parts that the merge added.
        otherwise: numbers of parts that several shares have, not with the same bytes, as of two
            kinds of processor: the first share's were taken.
    """

    joined: FineTuningSet
    copied: int
    otherwise: tuple[int, ...]


def merge(out: Path | str, shares: Sequence[Path | str]) -> Merged:
    """Copy the parts of all ``shares`` into the set in ``out``, which is begun if it is not there.

    Every part is checked before it is copied. After an interruption the same call goes on.

    Args:
        out: the set's folder: absent, empty, or a set of the same settings.
        shares: folders of sets with the same model, settings and prompts.

    Raises:
        UserError: no share is given, one is no set or is of other settings (the message names the
            differences), a part is damaged, or ``out`` cannot be written.
    """
    folders = [Path(share) for share in shares]
    if not folders:
        raise UserError("no folders to merge: expected those of sets that mitune build made")
    records = [SetRecord.load(folder) for folder in folders]
    record = records[0]
    for folder, other in zip(folders[1:], records[1:], strict=True):
        if difference := record.difference(other):
            raise UserError(
                f"{folder} is no share of the set in {folders[0]}: {difference}; expected sets "
                "that were built with the same model, settings and prompts"
            )
    there = {folder: find_parts(folder, own) for folder, own in zip(folders, records, strict=True)}
    copied, otherwise = 0, []
    with _writer(Path(out), record) as writer:
        for part in range(record.parts):
            having = [folder for folder in folders if part in there[folder]]
            found = []
            for folder in having:
                read_part(folder, record, part)
                found.append(read_file(part_path(folder, part)))
            if len(set(found)) > 1:
                otherwise.append(part)
            if found and writer.adopt(part, found[0]):
                copied += 1
    return Merged(joined=FineTuningSet.open(out), copied=copied, otherwise=tuple(otherwise))


def _writer(out: Path, record: SetRecord) -> SetWriter:
    return SetWriter(
        out,
        record.settings,
        record.prompts,
        record.candidates,
        record.keep,
        record.rule,
        prompts_per_part=record.prompts_per_part,
        pools=record.pools,
        all_latents=record.all_latents,
        environment=record.environment,
        notes=record.notes,
    )
