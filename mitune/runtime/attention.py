"""The attention of a UNet, by name."""

import importlib.util
import math
from typing import Any

from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from mitune.core.errors import UserError

ATTENTIONS = {
    "auto": "math for small maps where a CPU runs them compiled, else sdpa",
    "sdpa": "torch's scaled_dot_product_attention",
    "math": "two matrix products and a softmax",
    "xformers": "xformers' memory-efficient attention, where it is installed",
}
_SMALL_MAP = 256
"""Tokens up to which products and a softmax beat the CPU's flash attention (docs/measured.md)."""


def set_attention(unet: Any, attention: str, backend: str) -> None:
    """Choose the attention of a UNet that ``backend`` is going to run, in place.

    Raises:
        UserError: an unknown name; or xformers that is not installed.
    """
    if attention not in ATTENTIONS:
        raise UserError(
            f"attention {attention!r} is not known: choose one of {', '.join(ATTENTIONS)}"
        )
    if attention == "auto":
        size = unet.config.sample_size
        tokens = math.prod(size) if isinstance(size, (tuple, list)) else size * size
        on_cpu = next(unet.parameters()).device.type == "cpu"
        small = on_cpu and backend == "inductor" and tokens <= _SMALL_MAP
        attention = "math" if small else "sdpa"
    if attention == "xformers":
        if importlib.util.find_spec("xformers") is None:
            raise UserError(
                "attention xformers is not installed: pip install xformers, built for the same "
                "CUDA as torch; or use sdpa"
            )
        unet.enable_xformers_memory_efficient_attention()
    else:
        unet.set_attn_processor(AttnProcessor() if attention == "math" else AttnProcessor2_0())
