"""Progress bars and warnings, on stderr."""

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm


def quiet_libraries() -> None:
    """Hide other libraries' advice to developers, and their loading bars, from our users."""
    import diffusers
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning)
    for library in (diffusers, transformers):
        library.logging.set_verbosity_error()
        library.logging.disable_progress_bar()


def warn(message: str) -> None:
    """Print one line to stderr without breaking a progress bar."""
    tqdm.write(f"warning: {message}", file=sys.stderr)


def warn_unrecorded(folder: Path | str, settings: Sequence[str]) -> None:
    """Warn that a folder of an earlier version does not record ``settings``, if there are any."""
    if settings:
        warn(
            f"{folder} was begun by an earlier version, which did not record "
            f"{', '.join(settings)}: what is added to it is right only if they are the same"
        )


class Bars:
    """One progress bar at a time: candidates of a round, then steps of its training, each with its
    rate and the time left."""

    def __init__(self, quiet: bool, started: Callable[[], None] | None = None) -> None:
        self._quiet = quiet
        self._started = started
        self._bar: tqdm[None] | None = None
        self._title = ""

    def candidate(self, number: int, done: int, total: int) -> None:
        """Candidate ``done`` of ``total`` of round ``number`` is done."""
        self._show(f"round {number}: candidates", "candidate", done, total)

    def step(self, number: int, step: int, total: int, loss: float) -> None:
        """Training step ``step`` of ``total`` of round ``number`` is done."""
        bar = self._show(f"round {number}: tuning", "step", step, total)
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)

    def work(self, title: str, done: int, total: int) -> None:
        """So much of something else is done."""
        self._show(title, "it", done, total)

    def _show(self, title: str, unit: str, done: int, total: int) -> "tqdm[None]":
        if self._started is not None:
            self._started()
            self._started = None
        if self._bar is None or title != self._title:
            self.close()
            self._title = title
            # The rate must not include what an earlier run finished.
            self._bar = tqdm(
                total=total,
                initial=done - 1,
                desc=title,
                unit=unit,
                disable=self._quiet,
                file=sys.stderr,
            )
            self._bar.n = done - 1
        self._bar.update(done - self._bar.n)
        return self._bar

    def close(self) -> None:
        """Close the last bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Lines:
    """Progress of one of several processes: one line whenever ``Bars`` would show a full bar."""

    def __init__(self, quiet: bool, whose: str) -> None:
        self._quiet = quiet
        self._whose = whose
        self._start = time.perf_counter()

    def candidate(self, number: int, done: int, total: int) -> None:
        """Candidate ``done`` of ``total`` of round ``number`` is done."""
        if done == total:
            self._tell(f"round {number}: {total} candidates")

    def step(self, number: int, step: int, total: int, loss: float) -> None:
        """Training step ``step`` of ``total`` of round ``number`` is done."""
        if step == total:
            self._tell(f"round {number}: tuned, {total} steps")

    def work(self, title: str, done: int, total: int) -> None:
        """So much of something else is done."""
        if done == total:
            self._tell(f"{title}, {total}")

    def _tell(self, what: str) -> None:
        if not self._quiet:
            seconds = time.perf_counter() - self._start
            print(f"{self._whose}: {what} after {seconds:.0f} s", file=sys.stderr, flush=True)


@contextmanager
def bars(quiet: bool, started: Callable[[], None] | None = None) -> Iterator[Bars]:
    """Bars that are closed at the end, also after an error.

    Args:
        quiet: show nothing.
        started: called once, when the first candidate or step is done.
    """
    made = Bars(quiet, started)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def shown(quiet: bool, whose: str | None) -> Iterator[Bars | Lines]:
    """Bars; or lines that begin with ``whose``, where several processes share the screen."""
    if whose is not None:
        yield Lines(quiet, whose)
        return
    with bars(quiet) as made:
        yield made
