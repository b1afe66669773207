"""How far two metrics agree about the pictures of a prompt (Wang et al., section 3.1)."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from mitune.evaluation.correlation import kendall
from mitune.evaluation.standard_error import estimate


def agreement(texts: Sequence[str], by_metric: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Kendall's τ-b of every two metrics over the pictures of each prompt.

    Args:
        texts: ``[N]``, the prompt of each picture; a prompt's pictures follow each other.
        by_metric: scores ``[N]``.

    Returns:
        For each two metrics the mean over the prompts whose pictures they do not score all alike,
        ± s.e. over prompts, as plain JSON.
    """
    prompts = list(dict.fromkeys(texts))
    rows = {prompt: [i for i, text in enumerate(texts) if text == prompt] for prompt in prompts}
    found = []
    for one, other in combinations(by_metric, 2):
        taus = [kendall(by_metric[one][rows[p]], by_metric[other][rows[p]]) for p in prompts]
        value = estimate(torch.tensor(taus, dtype=torch.float64), prompts, [0] * len(prompts))
        found.append(
            {
                "metrics": [one, other],
                "tau": value.mean,
                "tau_se": value.standard_error,
                "prompts": sum(tau == tau for tau in taus),
            }
        )
    return found
