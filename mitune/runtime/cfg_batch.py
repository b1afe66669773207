"""Run a UNet with each latent once and the text twice, unconditional rows first.

The two predictions of a pair differ only by their text, and the score is computed from that
difference. This has two uses. What a UNet computes before it first uses the text, up to the first
transformer's self-attention, is the same for both rows, and is computed once. And where products
are rounded to half precision, a layer L gets (u, c - u) instead of (u, c), so that its results are
L(u) and L(u) + L(c - u). The rounding errors of L(u) are then common to both rows and cancel in
their difference; those of L(c - u) are small in proportion to c - u. The number of products stays
the same (docs/log.md has the errors with and without).
"""

from typing import Any

import torch
from torch import Tensor

from mitune.runtime.mixed_precision import Pairing


def share_prefix(unet: Any) -> Pairing:
    """Let a UNet take ``[S, ...]`` latents with ``[2 S, ...]`` text, in place.

    Rows are doubled where the first transformer begins; only its first self-attention still runs on
    single rows. Earlier results, in a residual connection or the embedding of the timestep, are
    doubled where they are next needed. Calls with equal numbers of rows are not changed.

    Returns:
        The state that these hooks and :class:`HalfProducts` read. A caller of the UNet has to set
        it before each call (``Pairing.tell``).
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
    """The transformer that runs first, or None."""
    for part in (unet.down_blocks, unet.mid_block, unet.up_blocks):
        for module in part.modules() if part is not None else ():
            if type(module).__name__ == "Transformer2DModel":
                return module
    return None


def _doubled(rows: Tensor, count: int) -> Tensor:
    """Repeat ``rows`` if necessary, so that there are ``count`` of them."""
    return rows if len(rows) == count else torch.cat([rows, rows])
