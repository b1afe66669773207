"""Files that are either whole or absent, and a lock that gives a folder one writer at a time."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mitune.core.errors import UserError

_LOCK = ".lock"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links answer, such as exFAT and some network shares."""

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
            _flush(temporary, content)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def put(path: Path, content: bytes) -> bool:
    """Write a file as ``atomic_write`` does, unless there is one of its name, which then stays: of
    several writers of the same file, on several machines too, the first one succeeds.

    Returns:
        Whether this call wrote it.

    Raises:
        UserError: as ``atomic_write``.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        try:
            _flush(temporary, content)
            first = _named(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    return first


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
    matching the glob ``names``, and those of ``put``.

    Hold the folder's lock while calling this: otherwise a temporary file may be another writer's.

    Raises:
        UserError: a temporary file cannot be removed.
    """
    left = [*folder.glob(f".{names}.tmp"), *folder.glob(f".{names}.{'[0-9a-f]' * 32}.tmp")]
    for temporary in left:
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


def held_locks(folder: Path) -> list[str]:
    """Names of the folder's locks that somebody holds, without its own one, the lock of no name.

    Each is taken for a moment: hold the folder's own lock while calling this, so that nobody is
    kept from theirs.
    """
    held = []
    for path in sorted(folder.glob(f"{_LOCK}?*")):
        try:
            with FileLock(path, timeout=0, mode=0o666):
                pass
        except Timeout:
            held.append(path.name.removeprefix(_LOCK))
    return held


def _flush(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _named(temporary: Path, path: Path) -> bool:
    """Give a file its name; False if there is one of that name."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Between these two another writer may come, whose file has the same content.
        if path.exists():
            return False
        os.replace(temporary, path)
    return True


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
