"""Read files that users name: whole, without blocking on pipes or devices."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mitune.core.errors import UserError


def read_file(path: Path | str, *, pipes: bool = False) -> bytes:
    """Return the bytes of a file.

    Reading a named pipe without a writer, a socket or a device could block for ever, so these are
    refused at once.

    Args:
        path: of the file.
        pipes: also accept a pipe, such as a shell's ``<(command)``; a pipe without a writer is then
            empty.

    Raises:
        OSError: there is no such file, it may not be read, or it is not a file.
        ValueError: a path with a zero byte.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError("it is a folder")
        if not (stat.S_ISREG(kind) or (pipes and stat.S_ISFIFO(kind))):
            raise OSError("it is a pipe, socket or device")
        os.set_blocking(descriptor, True)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def reason(error: Exception) -> str:
    """Why a file could not be read, in a few words, without its name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def listed(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing if there is no such folder. (``Path.glob`` finds nothing
    in a folder that it may not read, which then looks empty.)

    Raises:
        UserError: it may not be read, or is no folder.
    """
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({reason(error)}): expected a folder; allow reading it"
        ) from error


@contextmanager
def as_written(what: Path | str, expected: str) -> Iterator[None]:
    """For the block that reads what an earlier run left: whatever the content's shape makes fail
    there becomes one line.

    Raises:
        UserError: ``what`` cannot be read, ``expected`` says what should stand there. One that is
            raised in the block passes.
    """
    try:
        yield
    except UserError:
        raise
    except (
        *(OSError, ValueError, TypeError, LookupError, AttributeError),
        *(ArithmeticError, RuntimeError),  # RecursionError too
    ) as error:
        told = f"{type(error).__name__}: {reason(error)}".splitlines()[0]
        raise UserError(f"{what} cannot be read ({told}): expected {expected}") from error
