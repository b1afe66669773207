"""A folder that appears whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from mitune.core.errors import UserError
from mitune.core.files import make_folder


def check_new(out: Path) -> None:
    """Raise UserError unless ``out`` is absent or an empty folder."""
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file: expected a new or empty folder; choose another")
    held = min((path.name for path in out.iterdir()), default=None)
    if held is not None:
        raise UserError(
            f"{out} is not empty (it holds {held}): expected a new or empty folder; choose "
            "another, or remove it"
        )


@contextmanager
def new_folder(out: Path | str) -> Iterator[Path]:
    """Yield a hidden folder next to ``out``, to be filled.

    After the block, its files are flushed to the disk and it is renamed to ``out``. A killed run
    leaves the hidden folder, which the next run removes.

    Raises:
        UserError: ``out`` is there and not empty, or cannot be written.
    """
    place = Path(os.path.abspath(out))
    check_new(place)
    make_folder(place.parent)
    temporary = place.with_name(f".{place.name}.tmp")
    try:
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir()
        try:
            yield temporary
            for path in (*temporary.rglob("*"), temporary):
                _sync(path)
            os.rename(temporary, place)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync(place.parent)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot write {place} ({reason}): expected a writable folder with free space; mend "
            "that and run the same command again"
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
