"""A request to the engine, and what a run cost."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request for candidate ``index`` of ``prompt``, which is number ``prompt_index`` in the
    run."""

    prompt: str
    prompt_index: int
    index: int


@dataclass
class EngineStats:
    """What a run cost so far."""

    slots: int = 0
    """Of the engine that ran last."""
    ticks: int = 0
    """Batched model calls."""
    seats: int = 0
    """Slots of all ticks, occupied or not."""
    steps: int = 0
    """Steps taken by all candidates."""
    rows: int = 0
    """Rows given to the model, including those of idle slots."""

    @property
    def occupancy(self) -> float:
        """Share of slots that held a candidate, over all ticks."""
        return self.steps / self.seats if self.seats else math.nan
