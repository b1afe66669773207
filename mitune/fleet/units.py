"""Which unit of a fleet's work is made next, and by whom: bookkeeping without a clock, a network or
a cluster of its own."""

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class _Running:
    unit: int
    since: float


@dataclass
class Units:
    """The units of a job: each is made once, or, if that fails ``tries`` times, put aside with its
    error.

    A unit that takes much longer than others is given to a second worker when no other is left; so
    to make a unit twice must do no harm.

    Args:
        waiting: numbers of the units to make, in order.
        tries: how often a unit may fail.
        straggling: a unit is given out again after so many times the median duration.
    """

    waiting: Iterable[int]
    tries: int = 3
    straggling: float = 3.0
    failures: dict[int, list[str]] = field(default_factory=dict)
    """What was told of each failure, by unit."""
    aside: dict[int, str] = field(default_factory=dict)
    """The last error of each unit that failed too often."""
    done: int = 0
    """Number of units that are made."""
    repeated: int = 0
    """How often a straggling unit was given out again."""

    def __post_init__(self) -> None:
        self._waiting = deque(self.waiting)
        self._left = set(self._waiting)
        self._running: dict[object, _Running] = {}
        self._durations: deque[float] = deque(maxlen=101)

    @property
    def finished(self) -> bool:
        """Whether every unit is made or put aside."""
        return not self._left

    @property
    def left(self) -> int:
        """Number of units that are neither made nor put aside."""
        return len(self._left)

    def take(self, worker: object, now: float) -> int | None:
        """The unit that an idle worker makes next; None if there is none for it now."""
        while self._waiting and self._waiting[0] not in self._left:  # a straggler ended after all
            self._waiting.popleft()
        unit = self._waiting.popleft() if self._waiting else self._straggler(now)
        if unit is not None:
            self._running[worker] = _Running(unit=unit, since=now)
        return unit

    def made(self, worker: object, now: float) -> bool:
        """The worker's unit is made; whether it is the first to say so of that unit."""
        ended = self._running.pop(worker)
        self._durations.append(now - ended.since)
        first = ended.unit in self._left or ended.unit in self.aside
        self._left.discard(ended.unit)
        self.aside.pop(ended.unit, None)
        self.done += first
        return first

    def failed(self, worker: object, error: str) -> int:
        """The worker's unit failed, or the worker was lost. Returns the unit."""
        unit = self._running.pop(worker).unit
        if unit not in self._left:
            return unit  # another worker made it meanwhile
        told = self.failures.setdefault(unit, [])
        told.append(error)
        elsewhere = any(other.unit == unit for other in self._running.values())
        if len(told) >= self.tries:
            self.aside[unit] = error
            self._left.discard(unit)
        elif not elsewhere:
            # Last: a unit that kills workers must not keep the others waiting.
            self._waiting.append(unit)
        return unit

    def _straggler(self, now: float) -> int | None:
        if not self._durations:
            return None
        limit = self.straggling * statistics.median(self._durations)
        running: dict[int, list[float]] = {}
        for each in self._running.values():
            running.setdefault(each.unit, []).append(each.since)
        late = [
            (since[0], unit)
            for unit, since in running.items()
            if len(since) == 1 and unit in self._left and now - since[0] > limit
        ]
        if not late:
            return None
        self.repeated += 1
        return min(late)[1]
