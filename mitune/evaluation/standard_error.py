"""Means with their standard errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error."""

    mean: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.standard_error:.3f}"


def estimate(values: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Estimate:
    """Mean of ``values`` ([N]), with a standard error that treats prompts and seeds as random
    samples.

    Pictures of one prompt are not independent, and neither are pictures of one training run. The
    squared error is the sum of the variance clustered by prompt and, with several seeds, the
    variance clustered by seed. This is two-way clustering (Cameron, Gelbach and Miller 2011)
    without its negative term, so the error is rather too large. Non-finite values are left out.
    With a single prompt, the error is unknown and NaN.
    """
    kept = [i for i, value in enumerate(values.tolist()) if math.isfinite(value)]
    if not kept:
        return Estimate(math.nan, math.nan)
    finite = values[kept]
    variance = _variance_of_mean(finite, [prompts[i] for i in kept])
    if len(set(seeds)) > 1:
        variance += _variance_of_mean(finite, [seeds[i] for i in kept])
    return Estimate(float(finite.mean()), math.sqrt(variance))


def _variance_of_mean(values: Tensor, labels: Sequence[str | int]) -> float:
    """Cluster-robust variance of the mean, with statsmodels' correction for few clusters."""
    # Import here: it takes seconds, and only tables with standard errors need it.
    from statsmodels.regression.linear_model import OLS

    kinds = list(dict.fromkeys(labels))
    if len(kinds) < 2:
        return math.nan
    groups = [kinds.index(label) for label in labels]
    fitted = OLS(values.double().numpy(), np.ones(len(groups))).fit(
        cov_type="cluster", cov_kwds={"groups": np.array(groups)}
    )
    return float(fitted.bse[0]) ** 2


def over(values: Sequence[float]) -> Estimate:
    """Mean of independent values and its standard error; non-finite ones are left out, and of fewer
    than two the error is NaN."""
    finite = torch.tensor([v for v in values if math.isfinite(v)], dtype=torch.float64)
    if len(finite) < 2:
        return Estimate(float(finite.mean()) if len(finite) else math.nan, math.nan)
    return Estimate(float(finite.mean()), float(finite.std()) / math.sqrt(len(finite)))
