"""Record what the attention of a UNet of diffusers looks at."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

CROSS, SELF = ".attn2", ".attn1"
"""Ends of the names of diffusers' attention layers: to the text, and among positions."""


@contextmanager
def attention_maps(denoiser: Any, layers: str = CROSS) -> Iterator[list[Tensor]]:
    """Record the attention of a UNet of diffusers while the context is open.

    Args:
        denoiser: the UNet; gradients reach what it is given.
        layers: CROSS or SELF.

    Yields:
        A list that each call extends by the attention of every layer, ``[B, positions, tokens]`` or
        ``[B, positions, positions]`` float32, mean over heads; it is computed from the layer's
        queries and keys, beside the call.
    """
    maps: list[Tensor] = []
    with ExitStack() as hooks:
        for name, layer in denoiser.named_modules():
            if name.endswith(layers):
                for handle in _record(layer, maps):
                    hooks.callback(handle.remove)
        yield maps


def _record(layer: Any, maps: list[Tensor]) -> list[Any]:
    queries: list[Tensor] = []

    def query(module: Any, given: Any, made: Tensor) -> None:
        queries.append(made)

    def key(module: Any, given: Any, made: Tensor) -> None:
        q, k = (
            x.float().unflatten(2, (layer.heads, -1)).movedim(2, 1) for x in (queries.pop(), made)
        )
        maps.append((layer.scale * q @ k.mT).softmax(dim=-1).mean(dim=1))

    return [layer.to_q.register_forward_hook(query), layer.to_k.register_forward_hook(key)]
