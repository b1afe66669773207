"""What the engine is asked for, and what it cost."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Request:
    """One candidate to make: candidate ``index`` of ``prompt``, the run's prompt number
    ``prompt_index``."""

    prompt: str
    prompt_index: int
    index: int


@dataclass
class EngineStats:
    """What a run cost, filled while it goes on."""

    slots: int = 0
    ticks: int = 0
    """Batched model calls."""
    steps: int = 0
    """Candidates moved by one step, in all ticks."""
    rows: int = 0
    """Rows given to the model, those of idle slots among them."""

    @property
    def occupancy(self) -> float:
        """Share of slots that held a candidate, over all ticks."""
        return self.steps / (self.ticks * self.slots) if self.ticks else math.nan
