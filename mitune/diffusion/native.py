"""The noise levels of a diffusers scheduler: the one place that reads its tables by diffusers'
names."""

from typing import Any

from torch import Tensor


def squared_signal(scheduler: Any) -> Tensor:
    """abar, ``[T]`` float64, of a variance-preserving scheduler."""
    levels: Tensor = scheduler.alphas_cumprod
    return levels.double()


FORMER = {
    "alphas_cumprod": "squared_signal",
    "kappa": "mi_weight",
    "least_t": "least_t",
    "num_train_timesteps": "num_train_timesteps",
    "prediction": "prediction",
}
"""Attributes that ``mitune.Schedule`` itself had before 0.2, and what its process calls them."""
