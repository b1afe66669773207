"""Whether a folder can be begun, or gone on with, as a set."""

from pathlib import Path

from mitune.config.shard import Shard
from mitune.core.errors import UserError
from mitune.core.files import held_locks, is_ours
from mitune.sets.parts import find_parts
from mitune.sets.schema import RUN, SetRecord


def check_alone(path: Path, shard: Shard) -> None:
    """Refuse a folder where others write parts of this writer's share; call it under the folder's
    own lock."""
    for name in held_locks(path):
        if shard.of == 1 or name.rpartition("-")[2] != str(shard.of):
            raise UserError(
                f"{path} is being written by another run, as shard{name.replace('-of-', '/')}; "
                "expected no writer of the same parts: wait for it to end or choose another folder"
            )


def agree(path: Path, asked: SetRecord, alone: bool) -> SetRecord:
    """The record of the set in ``path``, or ``asked`` if there is no set yet; writes nothing.
    Nobody else may be writing the set if ``alone``.

    Raises:
        UserError: if the path is neither absent, nor empty, nor a set that ``asked`` can resume.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; expected a folder for the set: choose another path")
    if (path / RUN).exists():
        record = SetRecord.load(path)
        if difference := record.difference(asked):
            # A set without parts may still change its rounding: a user whose slots did not fit into
            # memory can try again with fewer.
            if alone and record.rounds_otherwise(asked) and not find_parts(path, record):
                return asked
            raise UserError(
                f"{path} holds a set built otherwise: {difference}; expected the same: "
                f"choose another folder, or give what its {RUN} says"
            )
        return record
    others = sorted(p.name for p in path.iterdir() if not is_ours(p.name)) if path.exists() else []
    if others:
        raise UserError(
            f"{path} holds {others[0]!r} but no fine-tuning set; expected a new or empty folder: "
            "choose another path"
        )
    return asked
