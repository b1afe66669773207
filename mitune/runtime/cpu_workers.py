"""Worker threads, one for each core; each runs a part of a batch from beginning to end.

So no core waits for another after every operation; small operations otherwise spend much of their
time waiting.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

_Part = TypeVar("_Part")
_Made = TypeVar("_Made")


@contextmanager
def undisturbed() -> Iterator[None]:
    """For calls of :class:`Cores` and the small operations between them: this thread uses no other
    core. Other torch threads would busy-wait for more work, for milliseconds, on the cores that the
    workers need next (docs/log.md)."""
    with threads(1):
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Set how many torch threads this thread's operations use."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Cores:
    """A pool of ``workers`` threads in which torch uses one thread each."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._seen: set[Hashable] = set()
        before = torch.get_num_threads()
        started = threading.Barrier(workers + 1)

        def begin() -> None:
            # A thread copies the process-wide number when it first asks for it; only then can it
            # set its own.
            torch.get_num_threads()
            torch.set_num_threads(1)
            started.wait()

        self._pool = ThreadPoolExecutor(workers, "mitune-worker", begin)
        for _ in range(workers):
            self._pool.submit(int)
        started.wait()
        torch.set_num_threads(before)  # for this thread and for later ones

    def parts(self, rows: int) -> int:
        """The largest number of equal parts of ``rows``, at most the number of workers."""
        return next(n for n in range(self.workers, 0, -1) if rows % n == 0)

    def map(
        self, run: Callable[[_Part], _Made], parts: Sequence[_Part], shape: Hashable = None
    ) -> list[_Made]:
        """Call ``run`` on each part; returns the results in order.

        Args:
            run: grad mode inside is the worker thread's own, not the caller's.
            parts: at most as many as there are workers, to be worth it.
            shape: what ``run`` compiles for. The first time, parts run one after the other, so that
                it is compiled once. None: ``run`` compiles nothing.
        """
        if shape is None or shape in self._seen:
            return list(self._pool.map(run, parts))
        self._seen.add(shape)
        return [self._pool.submit(run, part).result() for part in parts]
