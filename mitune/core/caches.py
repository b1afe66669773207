"""The folder that keeps compiled code between runs."""

import functools
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mitune.core import progress


@functools.cache
def cache_folder() -> Path:
    """Return ``mitune`` in the user's cache folder.

    If no such folder is writable (no home, or a read-only one), warn and return a temporary folder
    that belongs to this user.
    """
    for folder in _usual():
        if writable(folder):
            return folder
    folder = _temporary()
    progress.warn(
        f"no cache folder can be written: what is compiled is kept in {folder}; set "
        "XDG_CACHE_HOME to a folder that stays"
    )
    return folder


def writable(folder: Path) -> bool:
    """Whether files can be created in ``folder``; creates the folder if it is absent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _usual() -> Iterator[Path]:
    if given := os.environ.get("XDG_CACHE_HOME"):
        yield Path(given) / "mitune"
        return
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and a user without an entry in passwd
        return
    if home.is_absolute():
        yield home / ".cache" / "mitune"


def _temporary() -> Path:
    """A folder that only this user can write, because code is loaded from it.

    Another user may have created a folder of the predictable name before. It is used only if we own
    it and others have no access.
    """
    known = Path(tempfile.gettempdir()) / f"mitune-{os.getuid()}"
    try:
        known.mkdir(mode=0o700, exist_ok=True)
        found = known.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="mitune-"))
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if ours and not found.st_mode & 0o077 and writable(known):
        return known
    return Path(tempfile.mkdtemp(prefix="mitune-"))
