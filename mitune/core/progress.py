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
    """Progress as plain lines, for a log or for one of several processes on a screen: one when
    something is done, and every half minute in between one with how far it is, the rate and the
    time left.

    Args:
        quiet: show nothing.
        whose: in front of each line.
        started: called once, when the first candidate or step is done.
        clock: seconds.
    """

    def __init__(
        self,
        quiet: bool,
        whose: str = "",
        started: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._quiet = quiet
        self._whose = f"{whose}: " if whose else ""
        self._started = started
        self._clock = clock
        self._start = self._told = clock()
        self._title = ""
        self._first = (0, 0.0)

    def candidate(self, number: int, done: int, total: int) -> None:
        """Candidate ``done`` of ``total`` of round ``number`` is done."""
        self._show(f"round {number}: candidates", done, total)

    def step(self, number: int, step: int, total: int, loss: float) -> None:
        """Training step ``step`` of ``total`` of round ``number`` is done."""
        self._show(f"round {number}: tuning", step, total, f", loss {loss:.4f}")

    def work(self, title: str, done: int, total: int) -> None:
        """So much of something else is done."""
        self._show(title, done, total)

    def close(self) -> None:
        """Nothing stays open."""

    def _show(self, title: str, done: int, total: int, more: str = "") -> None:
        if self._started is not None:
            self._started()
            self._started = None
        now = self._clock()
        if title != self._title:
            # The rate must not include what an earlier run finished.
            self._title, self._first, self._told = title, (done, now), now
        if done == total:
            self._print(f"{title}: {total} done after {now - self._start:.0f} s{more}")
        elif now - self._told >= _EVERY and done > self._first[0]:
            rate = (done - self._first[0]) / (now - self._first[1])
            left = _clock_of((total - done) / rate)
            self._print(f"{title}: {done} of {total}, {rate:.3g} a second, {left} left{more}")
            self._told = now

    def _print(self, line: str) -> None:
        if not self._quiet:
            print(f"{self._whose}{line}", file=sys.stderr, flush=True)


_EVERY = 30.0
"""Seconds between two lines about the same thing."""


def _clock_of(seconds: float) -> str:
    """``75`` seconds as 1:15, an hour as 1:00:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def bars(quiet: bool, started: Callable[[], None] | None = None) -> Iterator[Bars | Lines]:
    """Bars on a terminal, which are closed at the end, also after an error; lines in a log.

    Args:
        quiet: show nothing.
        started: called once, when the first candidate or step is done.
    """
    terminal = sys.stderr.isatty()
    made = Bars(quiet, started) if terminal else Lines(quiet, started=started)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def shown(
    quiet: bool, whose: str | None, started: Callable[[], None] | None = None
) -> Iterator[Bars | Lines]:
    """Bars; or lines that begin with ``whose``, where several processes share the screen.
    ``started`` as in ``bars``."""
    if whose is not None:
        yield Lines(quiet, whose, started)
        return
    with bars(quiet, started) as made:
        yield made
