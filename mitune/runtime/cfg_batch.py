"""A UNet that is called with latents once and with text twice, unconditional rows first.

The two predictions of a pair differ only by their text, and the score is made of that difference.
Two things follow. What a UNet computes before it first looks at the text, up to the first
transformer's self-attention, is the same for both, and is computed once. And where products are
rounded to half precision, a layer L is given (u, c - u) in place of (u, c), so that its results are
L(u) and L(u) + L(c - u): the roundings of L(u) are common to both rows and leave their difference
alone, those of L(c - u) are small with c - u itself. It costs no product more (docs/log.md has
the errors with and without).
"""

from typing import Any

import torch
from torch import Tensor

from mitune.runtime.mixed_precision import Pairing


def share_prefix(unet: Any) -> Pairing:
    """Let a UNet take ``[S, ...]`` latents with ``[2 S, ...]`` text, in place.

    Rows are doubled where the first transformer begins, but for its first self-attention; what was
    made before them, a residual connection or the embedding of the timestep, where it is next
    needed. Other calls go through unchanged.

    Returns:
        What a call says of itself, for these hooks and :class:`HalfProducts`: whoever calls the
        UNet has to say it first (``Pairing.tell``).
    """
    pairing = Pairing()

    def transformer(layer: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_doubled(given[0], pairing.rows or len(given[0])), *given[1:])

    def resnet(layer: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, embedding = given[:2]
        return hidden, _doubled(embedding, len(hidden)), *given[2:]

    def up(layer: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        rows = len(named["hidden_states"])
        kept = named["res_hidden_states_tuple"]
        return given, named | {"res_hidden_states_tuple": tuple(_doubled(r, rows) for r in kept)}

    def attention(layer: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (given[0][: len(given[0]) // 2] if pairing.rows else given[0], *given[1:])

    def attended(layer: Any, given: tuple[Any, ...], made: Tensor) -> Tensor:
        return _doubled(made, pairing.rows or len(made))

    for module in unet.modules():
        kind = type(module).__name__
        if kind == "Transformer2DModel":
            module.register_forward_pre_hook(transformer)
        elif kind == "ResnetBlock2D":
            module.register_forward_pre_hook(resnet)
    first = _first_transformer(unet)
    if first is not None and not first.transformer_blocks[0].only_cross_attention:
        first.transformer_blocks[0].attn1.register_forward_pre_hook(attention)
        first.transformer_blocks[0].attn1.register_forward_hook(attended)
    for block in unet.up_blocks:
        block.register_forward_pre_hook(up, with_kwargs=True)
    return pairing


def _first_transformer(unet: Any) -> Any:
    """The transformer that is run first, or None."""
    for part in (unet.down_blocks, unet.mid_block, unet.up_blocks):
        for module in part.modules() if part is not None else ():
            if type(module).__name__ == "Transformer2DModel":
                return module
    return None


def _doubled(rows: Tensor, count: int) -> Tensor:
    """``rows`` as ``count`` of them: as they are, or all of them twice."""
    return rows if len(rows) == count else torch.cat([rows, rows])
