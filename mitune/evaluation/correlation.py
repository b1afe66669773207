"""Rank correlations of two scores of the same things."""

import math

from scipy import stats
from torch import Tensor


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two ``[N]`` tensors; NaN if one of them does not vary."""
    if not _vary(a, b):
        return math.nan
    return float(stats.spearmanr(a.numpy(), b.numpy()).statistic)


def kendall(a: Tensor, b: Tensor) -> float:
    """Kendall's τ-b of two ``[N]`` tensors; NaN if one of them does not vary."""
    if not _vary(a, b):
        return math.nan
    return float(stats.kendalltau(a.numpy(), b.numpy()).statistic)


def _vary(a: Tensor, b: Tensor) -> bool:
    """Whether both do; where one does not, scipy warns."""
    return min(len(a.unique()), len(b.unique())) > 1
