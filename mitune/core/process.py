"""A process of the command line: streams that may be closed, full or narrow, signals, and the exit.

What a library does not do to its caller's process stands here, apart from ``mitune.cli``.
"""

import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

BROKEN_PIPE, INTERRUPTED = 128 + signal.SIGPIPE, 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM: what holds back an interrupt, and cleans up after one, does so for it too."""


class OutputLost(Exception):
    """What was told could not be written to stdout; ``args[0]`` is the OSError."""


class _Out(io.TextIOWrapper):
    """stdout, whose failures are told from those of a run's files."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise OutputLost(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise OutputLost(error) from None


class _Err(io.TextIOWrapper):
    """stderr: a terminal that went away, or a full disk, is no reason to end a run."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            return


def own(run: Callable[[], None]) -> NoReturn:
    """``run`` as all that this process does; its exit code is that of ``run``'s SystemExit, or:
    0; 1 for a fault, whose traceback is shown, for a file system that fails, and for a stdout that
    cannot be written; 141 where its reader went away."""
    _take_signals()
    _open_streams()
    code = 1
    try:
        code = _code_of(run)
        sys.stdout.flush()
    except OutputLost as lost:
        code = _tell_lost(lost.args[0])
    # Threads that still compile, and processes that do so for us, would be waited for.
    sys.stderr.flush()
    if code in (INTERRUPTED, TERMINATED):
        os._exit(code)
    sys.exit(code)


def _code_of(run: Callable[[], None]) -> int:
    try:
        run()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except OutputLost:
        raise
    except OSError as error:
        if error.errno is None:
            return _tell_fault()
        # A disk that is full, a folder that is gone: of the machine, not of the code.
        place = f": {os.fsdecode(error.filename)}" if error.filename is not None else ""
        reason = " ".join(str(error.strerror).split())
        _tell(f"{reason}{place}; finished work is kept")
        return 1
    except KeyboardInterrupt:  # while another is handled
        _tell("interrupted")
        return INTERRUPTED
    except BaseException as error:
        if not _out_of_memory(error):
            return _tell_fault()
        why = " ".join(str(error).split("\n")[0].split()) or "MemoryError"
        _tell(f"too little memory ({why}); fewer --slots, or a smaller batch, need less")
        return 1
    return 0


def _out_of_memory(error: BaseException) -> bool:
    """torch's errors among them: by name, as torch may not be there."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error))
    )


def _tell(line: str) -> None:
    print(f"mitune: {line}", file=sys.stderr)


def _tell_fault() -> int:
    import traceback

    traceback.print_exc()
    _tell("this is a fault of mitune; please report the lines above and what 'mitune doctor' says")
    return 1


def _tell_lost(error: OSError) -> int:
    """Also leave nothing that the interpreter would try to write once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    _tell(f"standard output cannot be written: {error.strerror}")
    return 1


def _open_streams() -> None:
    """All three standard streams, whatever the process was started with.

    A closed one is opened, or the run's next file would take its number and get what is printed; on
    /dev/null, and stdout so that writing fails, as it does for other programs. Text that the
    terminal's encoding lacks is escaped.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    encodings = [getattr(s, "encoding", None) or "utf-8" for s in (sys.stdout, sys.stderr)]
    sys.stdout = _Out(
        io.BufferedWriter(io.FileIO(1, "wb", closefd=False)),
        encoding=encodings[0],
        errors="backslashreplace",
        line_buffering=os.isatty(1),
    )
    sys.stderr = _Err(
        io.BufferedWriter(io.FileIO(2, "wb", closefd=False)),
        encoding=encodings[1],
        errors="backslashreplace",
        line_buffering=True,
    )


def _take_signals() -> None:
    """The first SIGINT or SIGTERM raises in the main thread; while that unwinds, a second ends the
    process at once. Those that are ignored (nohup, a shell's background jobs) stay so."""
    seen = False

    def take(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            os._exit(128 + number)
        seen = True
        raise (Terminated if number == signal.SIGTERM else KeyboardInterrupt)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, take)
