"""An embedded world's oracle as a scorer, for benchmarks of its model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.worlds.known import WORLDS


@dataclass
class Oracle:
    """The share of what a prompt asks that a picture shows, less what is too much."""

    world: str
    name: str = "oracle"
    requires: str = "pictures of the embedded world"

    def score(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """As :class:`mitune.scoring.scorer.Scorer`."""
        verdicts = WORLDS[self.world].judge(list(prompts), images)
        return torch.tensor([verdict.graded for verdict in verdicts], dtype=torch.float64)
