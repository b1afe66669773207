"""Watching a training from between its steps: MI of held-out prompts, pictures, a tracker's log.

What watches reads the adapter and changes nothing of the training, but where it is asked to: by
``patience``, which ends it, and ``best``, which chooses the step whose adapter is the result.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from mitune.core.errors import UserError
from mitune.core.files import make_folder
from mitune.training.checkpoint import Best, TrainState
from mitune.training.processes import Processes
from mitune.training.trackers import Tracker, check, tracker

SAMPLES = "samples"


class HeldOut(Protocol):
    """What is measured; ``mitune.evaluation.watch.HeldOutMI`` is one."""

    @property
    def prompts(self) -> Sequence[str]:
        """Prompts that are not trained on."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything besides the adapter that decides the measure, as plain JSON."""
        ...

    def mi(self) -> float:
        """Nats: the mean point-wise MI of pictures that the model, adapter and all, now draws; may
        be non-finite. Neither the model nor any random state changes."""
        ...


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is watched, and what follows from it. Every interval counts optimizer steps, and the
    last step of a run is one to look at too.

    Attributes:
        held_out: measured every ``held_out_every`` steps; None measures nothing. The checkpoint of
            the highest MI is kept beside the newest ones.
        patience: end the run after so many measures in a row that were no higher than the best.
        best: the result is the adapter of the best measured step, in place of the last one.
        samples: writes a picture to the given path every ``validation_steps`` steps; None: none.
        log_to: a name of ``mitune.training.trackers.TRACKERS``, which gets every step's numbers, or
            None.

    Raises:
        UserError: a number below 1; patience or best without held_out; a tracker that is not known
            or not installed.
    """

    held_out: HeldOut | None = None
    held_out_every: int = 50
    patience: int | None = None
    best: bool = False
    samples: Callable[[Path], None] | None = None
    validation_steps: int = 50
    log_to: str | None = None

    def __post_init__(self) -> None:
        for name in ("held_out_every", "patience", "validation_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: expected at least 1")
        if self.held_out is None and (self.best or self.patience is not None):
            name = "best" if self.best else "patience"
            raise UserError(
                f"{name} is asked for without held-out prompts, whose MI decides it: give those "
                "too (held_out)"
            )
        if self.log_to is not None:
            check(self.log_to)

    @property
    def measured(self) -> str:
        """SHA-256 of what is measured and how often."""
        assert self.held_out is not None
        content = {**self.held_out.settings, "every": self.held_out_every}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def decides(self) -> dict[str, Any] | None:
        """What changes the run's result, as plain JSON; None where watching changes nothing."""
        if self.held_out is None or not (self.best or self.patience is not None):
            return None
        own = {"every": self.held_out_every, "patience": self.patience, "best": self.best}
        return {**self.held_out.settings, **own}

    def check_prompts(self, trained: Iterable[str]) -> None:
        """Raise UserError when a held-out prompt is one of ``trained``."""
        known = set(trained)
        common = [p for p in self.held_out.prompts if p in known] if self.held_out else []
        if common:
            raise UserError(
                f"{len(common)} held-out prompts are trained on, such as {common[0]!r}: expected "
                "prompts that the set does not have; take these out of one of the two"
            )


class Watcher:
    """Called after every step by all processes; the first of them watches.

    Attributes:
        improved: this step is the best so far, and its checkpoint to be kept.
        stopped: the patience is at its end, in all processes at the same step.
    """

    def __init__(
        self,
        watch: Watch,
        state: TrainState,
        out: Path,
        iterations: int,
        processes: Processes,
        log: Tracker | None,
    ) -> None:
        self._watch, self._state, self._out = watch, state, out
        self._last, self._processes, self._log = iterations, processes, log
        if watch.held_out and state.best and state.best.measured != watch.measured:
            state.best = None  # what is measured may change where it decides nothing
        self.improved = False
        # A killed run may have come to its end, and not to its result.
        self.stopped = self._impatient()

    def looks(self) -> bool:
        """Whether it is time to look at the model, in any process."""
        watch = self._watch
        return (watch.held_out is not None and self._due(watch.held_out_every)) or (
            watch.samples is not None and self._due(watch.validation_steps)
        )

    def step(self, line: Mapping[str, float | None]) -> dict[str, float | None]:
        """Look at the step just done, if it is time.

        Args:
            line: its numbers.

        Returns:
            ``line``, with ``held_out_mi`` in nats where that was measured: None where it is not
            finite, which JSON cannot say.
        """
        full, step = dict(line), self._state.step
        self.improved = False
        first = self._processes.rank == 0
        held_out, samples = self._watch.held_out, self._watch.samples
        if held_out is not None and self._due(self._watch.held_out_every):
            if first:
                full["held_out_mi"] = self._judge(held_out.mi())
            self._agree()
        if not first:
            return full
        if self._log is not None:
            numbers = {k: v for k, v in full.items() if k != "step" and v is not None}
            self._log.numbers(step, numbers)
        if samples is not None and self._due(self._watch.validation_steps):
            picture = self._out / SAMPLES / f"step-{step:06d}.png"
            make_folder(picture.parent)
            samples(picture)
            if self._log is not None:
                self._log.picture(step, picture)
        return full

    def _due(self, every: int) -> bool:
        return self._state.step % every == 0 or self._state.step == self._last

    def _judge(self, mi: float) -> float | None:
        best, step = self._state.best, self._state.step
        self.improved = math.isfinite(mi) and (best is None or mi > best.mi)
        if self.improved:
            self._state.best = Best(measured=self._watch.measured, step=step, mi=mi)
        elif best is not None:
            self._state.best = replace(best, waited=best.waited + 1)
        return mi if math.isfinite(mi) else None

    def _impatient(self) -> bool:
        patience, best = self._watch.patience, self._state.best
        return patience is not None and best is not None and best.waited >= patience

    def _agree(self) -> None:
        """All stop where the first process, which alone has measured, does."""
        if self._watch.patience is None:
            return
        own = self._processes.rank == 0 and self._impatient()
        device = next(iter(self._state.parameters.values())).device
        stops = torch.tensor(float(own), device=device)
        self._processes.sum([stops])
        self.stopped = stops.item() > 0


@contextmanager
def watching(
    watch: Watch | None,
    state: TrainState,
    out: Path,
    iterations: int,
    processes: Processes,
    settings: Mapping[str, Any],
) -> Iterator[Watcher]:
    """A watcher of the run in ``out``, whose tracker is closed at the end, also after an error.

    Args:
        watch: None watches nothing.
        state: as restored: its step is the last one that counts as logged.
        out: the run's folder.
        iterations: the run's last step.
        processes: those that train together.
        settings: of the run, for the tracker to show.
    """
    watch = watch or Watch()
    log = None
    if watch.log_to is not None and processes.rank == 0:
        log = tracker(watch.log_to, out, state.step, settings)
    try:
        yield Watcher(watch, state, out, iterations, processes, log)
    finally:
        if log is not None:
            log.close()
