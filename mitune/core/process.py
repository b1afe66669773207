"""The process of a command line: standard streams that may be closed, full or limited in their
encoding, signals, and the exit code.

A library must not do this to its caller's process, so it is kept apart from ``mitune.cli``.
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
    """SIGTERM. Code that delays an interrupt, or cleans up after one, handles SIGTERM too."""


class OutputLost(Exception):
    """stdout could not be written; ``args[0]`` is the OSError."""


class _Out(io.TextIOWrapper):
    """stdout whose write errors differ in type from errors of a run's files."""

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
    """stderr that ignores write errors: a closed terminal or a full disk must not end a run."""

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
    """Run ``run`` as the whole work of this process, and exit.

    The exit code is that of ``run``'s SystemExit. Without one it is 0 on success; 1 for a bug,
    whose traceback is shown, for too little memory, for a file system that fails, and for a stdout
    that cannot be written; 130 for an interrupt that ``run`` did not handle; 141 if the reader of
    stdout has gone away.
    """
    _take_signals()
    _open_streams()
    code = 1
    try:
        code = _code_of(run)
        sys.stdout.flush()
    except OutputLost as lost:
        code = _tell_lost(lost.args[0])
    # sys.exit would wait for threads that still compile, and for processes that compile for us.
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
        # A full disk or a missing folder: a fault of the machine, not of the code.
        place = f": {os.fsdecode(error.filename)}" if error.filename is not None else ""
        reason = " ".join(str(error.strerror).split())
        _tell(f"{reason}{place}; finished work is kept")
        return 1
    except KeyboardInterrupt:  # raised while another exception is handled
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
    """Whether it is out of memory; torch's error is matched by name, as torch may be absent."""
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
    """Report the error, and redirect stdout so that the interpreter does not try to write the rest
    of its buffer at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    _tell(f"standard output cannot be written: {error.strerror}")
    return 1


def _open_streams() -> None:
    """Provide all three standard streams, whatever the process was started with.

    A closed stream is opened on /dev/null. Otherwise the run's next file would take its descriptor
    and receive what is printed. A closed stdout is opened such that writing fails, as it does for
    other programs. Characters that the terminal's encoding lacks are escaped.
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
    """Let the first SIGINT or SIGTERM raise in the main thread; a second one, while the first
    unwinds, ends the process at once. Ignored signals (nohup, a shell's background jobs) stay
    ignored."""
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
