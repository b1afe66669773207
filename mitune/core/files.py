"""Files that are either whole or absent, and a lock that gives a folder one writer at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mitune.core.errors import UserError

_LOCK = ".lock"

SYSTEM = (
    *("__MACOSX", ".DS_Store", ".AppleDouble", ".Spotlight-V100", ".Trashes", ".fseventsd"),
    *("Thumbs.db", "desktop.ini", "@eaDir", "lost+found"),
)
"""Names that desktops, file servers and file systems create in folders."""


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a run after a crash, finds all of it or nothing.

    The bytes go to a hidden temporary file in the same folder (os.replace is atomic only within a
    file system) and are flushed to the disk before the file takes its name. Syncing the folder
    makes the name survive a power cut.

    Raises:
        UserError: the disk is full or the folder cannot be written; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def make_folder(folder: Path) -> None:
    """Create a folder and its parents if absent. Raises UserError if that is impossible."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)
    except OSError as error:
        raise _unwritable(folder, error) from error


def remove_leftovers(folder: Path, names: str) -> None:
    """Remove the temporary files that a killed ``atomic_write`` left in ``folder`` for files
    matching the glob ``names``.

    Hold the folder's lock while calling this: otherwise a temporary file may be another writer's.

    Raises:
        UserError: a temporary file cannot be removed.
    """
    for temporary in folder.glob(f".{names}.tmp"):
        try:
            temporary.unlink()
        except OSError as error:
            raise _unwritable(temporary, error) from error


def is_ours(name: str) -> bool:
    """Whether a file of this name may be in a folder that still counts as unused.

    These are the leftovers of a writer that was killed before its first file, and the files that
    systems create.
    """
    return (
        name.startswith(_LOCK)
        or (name.startswith(".") and name.endswith(".tmp"))
        or is_system(name)
    )


def is_system(name: str) -> bool:
    """Whether this is the name of a file or folder that a desktop, a file server or a file system
    creates."""
    return name in SYSTEM or name.startswith("._")


@contextmanager
def file_lock(folder: Path, name: str = "", wait: float = 0) -> Iterator[None]:
    """Lock the folder against a second writer, in this process or another on the same machine.

    The kernel drops the lock when its holder dies, so a killed run never blocks the next one; an
    empty lock file may stay.

    Args:
        folder: that is written.
        name: of a lock of its own, for writers that do not disturb those of other names.
        wait: seconds to wait for another writer.

    Raises:
        UserError: another writer holds the folder, or the lock file cannot be made.
    """
    path = folder / f"{_LOCK}{name}"
    lock = FileLock(path, timeout=wait, mode=0o666)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{folder} is being written by another run; expected one writer at a time: "
            "wait for it to end or choose another folder"
        ) from error
    except NotImplementedError as error:
        raise UserError(
            f"cannot lock {path} ({error}); expected a file system with file locks: "
            "choose another folder"
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path} ({error.strerror}); expected a writable folder with free space: "
        "mend that and run the same command again, finished parts are kept"
    )
