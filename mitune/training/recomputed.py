"""Activations that the backward pass computes again instead of keeping them (Chen et al., arXiv
1604.06174): gradient checkpointing, by diffusers' networks themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

from mitune.core.errors import UserError
from mitune.models.protocol import LatentModel, denoiser_of


@contextmanager
def recomputed(model: LatentModel, on: bool) -> Iterator[None]:
    """Inside this context the model's denoiser, and every copy that is made of it, keeps only what
    enters its blocks if ``on``.

    Raises:
        UserError: the denoiser cannot.
    """
    network = denoiser_of(model)
    if not on:
        yield
        return
    if not getattr(network, "_supports_gradient_checkpointing", False):
        raise UserError(
            f"gradient_checkpointing is on, and a {type(network).__name__} has none: leave it off"
        )
    if not model.passes.recomputes:
        raise UserError(
            f"gradient_checkpointing is on, and diffusers' {type(network).__name__} then predicts "
            "something else: leave it off"
        )
    network.enable_gradient_checkpointing()
    try:
        yield
    finally:
        network.disable_gradient_checkpointing()
