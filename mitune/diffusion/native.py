"""What a scheduler object of diffusers knows of its noise: the one place that reads its tables by
diffusers' names."""

from typing import Any

from torch import Tensor


def squared_signal(scheduler: Any) -> Tensor:
    """abar, ``[T]`` float64, of a scheduler of variance-preserving diffusion."""
    levels: Tensor = scheduler.alphas_cumprod
    return levels.double()


FORMER = {
    "alphas_cumprod": "squared_signal",
    "kappa": "mi_weight",
    "least_t": "least_t",
    "num_train_timesteps": "num_train_timesteps",
    "prediction": "prediction",
}
"""What ``mitune.Schedule`` itself told under these names before 0.2, and where its process does."""
