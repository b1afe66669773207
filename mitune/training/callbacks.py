"""Watch a training run between its steps: MI of held-out prompts, sample pictures, a tracker.

Watching reads the adapter and does not change the training, with two exceptions: ``patience`` ends
the run early, and ``best`` chooses the step whose adapter is the result.
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
    """A measure of held-out prompts, such as ``mitune.evaluation.held_out.HeldOutMI``."""

    @property
    def prompts(self) -> Sequence[str]:
        """Prompts that are not trained on."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything except the adapter that determines the measure, as plain JSON."""
        ...

    def mi(self) -> float:
        """The mean point-wise MI, in nats, of pictures that the model draws with its current
        adapter; may be non-finite. Changes neither the model nor any random state."""
        ...


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What to watch, and what to do with the result. Intervals count optimizer steps; the last step
    of a run is always watched.

    Attributes:
        held_out: measured every ``held_out_every`` steps; None measures nothing. The checkpoint
            with the highest MI is kept in addition to the newest ones.
        patience: end the run after this number of consecutive measures that are not higher than the
            best.
        best: use the adapter of the best measured step as the result, not that of the last step.
        samples: writes a picture to the given path every ``validation_steps`` steps; None writes
            none.
        log_to: a name in ``mitune.training.trackers.TRACKERS``; this tracker receives the numbers
            of every step. None uses no tracker.

    Raises:
        UserError: if a number is below 1, patience or best is given without held_out, or the
            tracker is unknown or not installed.
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
        """SHA-256 over the settings of the measure and its interval."""
        assert self.held_out is not None
        content = {**self.held_out.settings, "every": self.held_out_every}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def decides(self) -> dict[str, Any] | None:
        """The settings that change the run's result, as plain JSON; None if watching changes
        nothing."""
        if self.held_out is None or not (self.best or self.patience is not None):
            return None
        own = {"every": self.held_out_every, "patience": self.patience, "best": self.best}
        return {**self.held_out.settings, **own}

    def check_prompts(self, trained: Iterable[str]) -> None:
        """Raise UserError if a held-out prompt is one of ``trained``."""
        known = set(trained)
        common = [p for p in self.held_out.prompts if p in known] if self.held_out else []
        if common:
            raise UserError(
                f"{len(common)} held-out prompts are trained on, such as {common[0]!r}: expected "
                "prompts that the set does not have; take these out of one of the two"
            )


class Watcher:
    """All processes call it after every step; only the first one measures, draws and logs.

    Attributes:
        improved: whether this step is the best so far, so that its checkpoint has to be saved.
        stopped: whether patience has run out; it changes in all processes at the same step.
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
            state.best = None  # the measure may change between runs if it decides nothing
        self.improved = False
        # A run may have been killed after patience ran out and before it wrote its result.
        self.stopped = self._impatient()

    def looks(self) -> bool:
        """Whether a measure or a sample is due at this step; the same in all processes."""
        watch = self._watch
        return (watch.held_out is not None and self._due(watch.held_out_every)) or (
            watch.samples is not None and self._due(watch.validation_steps)
        )

    def step(self, line: Mapping[str, float | None]) -> dict[str, float | None]:
        """Measure, draw and log the step just done, as far as it is due.

        Args:
            line: the step's numbers.

        Returns:
            ``line``, with ``held_out_mi`` in nats if it was measured. A value that is not finite
            becomes None, because JSON cannot express it.
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
        """Let all processes stop when the first one does, which alone has the measure."""
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
    """Create the watcher of the run in ``out``; close its tracker at the end, also after an error.

    Args:
        watch: None watches nothing.
        state: the restored state; steps after its ``step`` count as not yet logged.
        out: the run's folder.
        iterations: the run's last step.
        processes: the processes that train together.
        settings: the run's settings, which the tracker shows.
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
