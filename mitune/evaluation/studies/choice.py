"""What an arm keeps of the pools. Nothing here reads an oracle."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mitune.evaluation.rules import Rule
from mitune.evaluation.studies.pools import Pools


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The pairs that an arm trains on, as ``mitune.training.material.Pairs`` and ``Ranked``.

    Attributes:
        settings: of the model that made them.
        pairs: (prompt, latent ``[C, H, W]``), the best first.
    """

    settings: Mapping[str, Any]
    pairs: list[tuple[str, Tensor]]

    def selected(self) -> list[tuple[str, Tensor]]:
        return self.pairs

    def best(self, count: int) -> list[tuple[str, Tensor]]:
        return self.pairs[:count]


def choose(
    pools: Pools, rule: Rule | None, *, candidates: int, keep: int, seed: int
) -> list[tuple[str, Tensor]]:
    """The ``keep`` best of the first ``candidates`` of each pool by ``rule``; with None, some at
    random, keyed by ``seed``. Non-finite scores come last."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for row, prompt in enumerate(pools.prompts):
        if rule is None:
            order = torch.randperm(candidates, generator=generator)
        else:
            scores = pools.scores[rule][row, :candidates]
            order = scores.nan_to_num(nan=-torch.inf, posinf=-torch.inf).argsort(descending=True)
        pairs += [(prompt, pools.latents[row, i]) for i in order[:keep].tolist()]
    return pairs
