"""The attention implementation of a denoiser, by name."""

import importlib.util
import math
from typing import Any

from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    XFormersAttnProcessor,
)

from mitune.core.errors import UserError

ATTENTIONS = {
    "auto": "math for small maps where a CPU runs them compiled, else sdpa",
    "sdpa": "torch's scaled_dot_product_attention",
    "math": "two matrix products and a softmax",
    "xformers": "xformers' memory-efficient attention, where it is installed",
}
_SMALL_MAP = 256
"""Number of tokens up to which products and a softmax beat the CPU's flash attention
(docs/log.md)."""
_PLAIN = AttnProcessor, AttnProcessor2_0, XFormersAttnProcessor
"""Processors that compute the same, so that each can replace another."""


def set_attention(network: Any, attention: str, backend: str) -> None:
    """Choose the attention of a denoiser that ``backend`` is going to run, in place. A network with
    a kind of attention other than a UNet's keeps its own.

    Raises:
        UserError: an unknown name; xformers is not installed; a name other than "auto" for a
            network that keeps its own.
    """
    if attention not in ATTENTIONS:
        raise UserError(
            f"attention {attention!r} is not known: choose one of {', '.join(ATTENTIONS)}"
        )
    processors = getattr(network, "attn_processors", {}).values()
    if not all(isinstance(processor, _PLAIN) for processor in processors):
        processors = ()
    if not processors:
        if attention != "auto":
            raise UserError(
                f"attention is {attention!r}, and a {type(network).__name__} has one of its own: "
                "expected auto"
            )
        return
    if attention == "auto":
        size = network.config.sample_size
        tokens = math.prod(size) if isinstance(size, (tuple, list)) else size * size
        on_cpu = next(network.parameters()).device.type == "cpu"
        small = on_cpu and backend == "inductor" and tokens <= _SMALL_MAP
        attention = "math" if small else "sdpa"
    if attention == "xformers":
        if importlib.util.find_spec("xformers") is None:
            raise UserError(
                "attention xformers is not installed: pip install xformers, built for the same "
                "CUDA as torch; or use sdpa"
            )
        network.enable_xformers_memory_efficient_attention()
    else:
        network.set_attn_processor(AttnProcessor() if attention == "math" else AttnProcessor2_0())
