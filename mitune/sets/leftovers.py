"""What killed writers leave in a set's folder."""

from pathlib import Path

from mitune.core.errors import UserError
from mitune.core.files import file_lock, held_locks, is_ours
from mitune.core.reading import listed
from mitune.sets.schema import PARTS, SetRecord


def remove_all_leftovers(folder: Path | str) -> list[Path]:
    """Remove temporary files and lock files of writers that are gone from the set in ``folder``.

    Returns:
        What was removed.

    Raises:
        UserError: there is no set, somebody is writing it, or a file cannot be removed.
    """
    path = Path(folder)
    SetRecord.load(path)
    with file_lock(path):
        if others := held_locks(path):
            raise UserError(
                f"{path} is being written by another run ({len(others)} of them): wait for it"
            )
        here = [*listed(path), *(listed(path / PARTS) if (path / PARTS).is_dir() else [])]
        # The folder's own lock is held by this call, and empty.
        found = [p for p in here if p.is_file() and p.name.startswith(".") and is_ours(p.name)]
        found = [p for p in found if p.name != ".lock"]
        for file in found:
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"cannot remove {file} ({error.strerror})") from error
    return found
