"""The driver of a fleet: one worker, a Ray actor, for each GPU or group of cores.

Ray places, starts and watches the workers. The driver gives out numbers of units and nothing else:
what a unit makes goes from its worker straight to the store. So a driver that dies loses nothing:
the same command finds what is made and goes on.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mitune.core.errors import UserError
from mitune.core.progress import warn
from mitune.fleet.events import Events
from mitune.fleet.units import Units
from mitune.fleet.work import Work

Staff = tuple[int, dict[str, int]]
"""How many workers, and the resources of each, as Ray names them."""

_POLL = 1.0
"""Seconds after which the driver looks for new machines and stragglers."""
_SICK = 3
"""Failures in a row after which a GPU counts as broken, if others work."""
_PATIENCE = 300.0
"""Seconds after which it says that no worker is ready."""


@dataclass
class _Worker:
    """A worker, and what it was asked last: to open the work, or to make a unit."""

    name: str
    actor: Any
    asked: Any
    opened: bool = False
    """Whether the work is open there."""
    busy: bool = True
    unit: int | None = None
    """That it makes."""
    place: str = ""
    """The GPU that it has, or without GPUs its process."""
    retired: bool = False
    """Whether it gets no more units; it keeps its GPU, so that no other worker gets that one."""


class _Remote:
    """What runs in a worker's process."""

    def __init__(self) -> None:
        self._work: Work | None = None

    def open(self, job: Callable[[], Work]) -> tuple[str, int, list[int]]:
        """Open the work; returns the worker's place, the number of units and those that are
        missing."""
        import ray

        here = ray.get_runtime_context()
        gpus = here.get_accelerator_ids().get("GPU", [])
        own = f"GPU {', '.join(gpus)}" if gpus else f"process {os.getpid()}"
        self._work = job()
        return f"{own} of {here.get_node_id()}", self._work.units, self._work.pending()

    def make(self, unit: int) -> float:
        """Make a unit; returns the seconds it took."""
        assert self._work is not None
        start = time.perf_counter()
        self._work.make(unit)
        return time.perf_counter() - start


class Driver:
    """Gives units to idle workers, and takes on workers as the cluster grows.

    Args:
        ray: the module, connected to a cluster.
        job, tries, events, progress: as of ``mitune.fleet.on_ray.run``.
        staff: how many workers the cluster has room for now, and what each takes of it.
    """

    def __init__(
        self,
        ray: Any,
        job: Callable[[], Work],
        staff: Callable[[], Staff],
        *,
        tries: int,
        events: Events,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._ray, self._staff, self._tries = ray, staff, tries
        self._events, self._progress = events, progress
        self._job = job
        self._workers: dict[str, _Worker] = {}
        self._hired = 0
        self._units: Units | None = None
        self._total = 0
        self._in_a_row = 0
        self._failing: dict[str, int] = {}  # failures in a row, by place
        self._good: set[str] = set()  # places where a unit was made
        self._start = self._look = time.monotonic()
        self._warned = False

    def run(self) -> Units:
        """Until every unit is made or put aside."""
        try:
            while self._units is None or not self._units.finished:
                self._hire()
                self._give()
                self._hear()
        finally:
            for worker in self._workers.values():
                self._ray.kill(worker.actor)
        return self._units

    def _hire(self) -> None:
        """Start workers where the cluster has room. The first one opens the work alone, and begins
        what the others then find."""
        now = time.monotonic()
        if now < self._look:
            return
        self._look = now + _POLL
        if not self._warned and self._units is None and now > self._start + _PATIENCE:
            self._warned = True
            has = self._ray.cluster_resources()
            told = ", ".join(f"{name} {has[name]:g}" for name in ("GPU", "CPU") if name in has)
            warn(
                "no worker is ready yet: it still loads the model, or the cluster has no room (it "
                f"has {told or 'no GPUs and no cores'})"
            )
        wanted, share = self._staff()
        wanted = 1 if self._units is None else min(wanted, self._units.left)
        while sum(not worker.retired for worker in self._workers.values()) < wanted:
            self._hired += 1
            name = f"worker {self._hired}"
            actor = self._ray.remote(_Remote).options(max_restarts=0, **share).remote()
            asked = actor.open.remote(self._job)
            self._workers[name] = _Worker(name=name, actor=actor, asked=asked)

    def _give(self) -> None:
        if self._units is None:
            return
        for worker in self._workers.values():
            if worker.busy or worker.retired or self._waits(worker):
                continue
            unit = self._units.take(worker.name, time.monotonic())
            if unit is not None:
                worker.asked, worker.busy = worker.actor.make.remote(unit), True
                worker.unit = unit
                self._events.tell("given", worker=worker.name, unit=unit)

    def _waits(self, worker: _Worker) -> bool:
        """Whether a worker that fails and fails stands by until it is known whether others fare
        better; those that are still starting count."""
        if self._failing.get(worker.place, 0) < _SICK:
            return False
        others = (w for w in self._workers.values() if w is not worker and not w.retired)
        return any(self._failing.get(other.place, 0) < _SICK for other in others)

    def _hear(self) -> None:
        """Wait for answers, or a little."""
        asked = {worker.asked: worker for worker in self._workers.values() if worker.busy}
        if not asked:
            time.sleep(_POLL)
            return
        waiting = list(asked)
        answers, rest = self._ray.wait(waiting, num_returns=1, timeout=_POLL)
        if answers and rest:  # and all others that have come meanwhile
            more, _ = self._ray.wait(rest, num_returns=len(rest), timeout=0)
            answers += more
        for answer in answers:
            worker = asked[answer]
            try:
                result = self._ray.get(answer)
            except self._ray.exceptions.RayTaskError as error:
                self._failed(worker, error.cause, lost=False)
            except self._ray.exceptions.RayError as error:
                self._failed(worker, error, lost=True)
            else:
                self._answered(worker, result)

    def _answered(self, worker: _Worker, result: Any) -> None:
        worker.busy = False
        self._in_a_row = 0
        if not worker.opened:
            worker.opened = True
            worker.place, total, pending = result
            self._events.tell("joined", worker=worker.name, place=worker.place)
            if self._units is None:
                self._total = total
                self._units = Units(pending, tries=self._tries)
                self._events.begin()
                self._look = 0.0
            self._retire_if_sick(worker)
            return
        assert self._units is not None
        self._good.add(worker.place)
        self._failing.pop(worker.place, None)
        for other in self._workers.values():
            self._retire_if_sick(other)
        if self._units.made(worker.name, time.monotonic()):
            self._tell()
        seconds = round(result, 3)
        self._events.tell("made", worker=worker.name, unit=worker.unit, seconds=seconds)

    def _failed(self, worker: _Worker, error: BaseException, *, lost: bool) -> None:
        """A worker could not do what it was asked, or is no more."""
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000]
        if self._units is None and not lost:  # the first to open the work
            if isinstance(error, UserError):
                raise error
            raise UserError(f"a worker cannot open the work: {told}") from error
        self._in_a_row += 1
        if lost or not worker.opened:
            del self._workers[worker.name]
            self._look = 0.0
            self._ray.kill(worker.actor)
        worker.busy = False
        self._events.tell(
            "lost" if lost else "failed", worker=worker.name, unit=worker.unit, error=told
        )
        if worker.opened and self._units is not None:
            self._failing[worker.place] = self._failing.get(worker.place, 0) + 1
            if not lost:
                self._retire_if_sick(worker)
            unit = self._units.failed(worker.name, told)
            if unit in self._units.aside:
                self._events.tell("aside", unit=unit, error=told)
                self._tell()
        if self._in_a_row >= self._tries * (len(self._workers) + 4):
            raise UserError(
                f"workers failed {self._in_a_row} times in a row and made nothing, last: {told}; "
                "mend that and run the same command again, what is made is kept"
            )

    def _retire_if_sick(self, worker: _Worker) -> None:
        """Give a worker no more units if its GPU failed again and again while others did not."""
        failed = self._failing.get(worker.place, 0)
        if not worker.retired and failed >= _SICK and self._good - {worker.place}:
            worker.retired = True
            self._events.tell("retired", worker=worker.name, place=worker.place, failures=failed)

    def _tell(self) -> None:
        assert self._units is not None
        if self._progress:
            self._progress(self._total - self._units.left, self._total)
