"""Check that a UNet and two text encoders make one Stable Diffusion XL."""

from collections.abc import Sequence
from typing import Any

from mitune.core.errors import UserError

_SIZES = 6
"""Numbers of the picture's size that the UNet embeds: three pairs of height and width."""


def check_conditioning(unet: Any, encoders: Sequence[Any]) -> None:
    """Raise UserError unless the UNet takes what the encoders make, and the picture's size.

    Args:
        unet: a UNet2DConditionModel.
        encoders: the configs of the two text encoders.
    """
    config = unet.config
    if config.addition_embed_type != "text_time":
        raise UserError(
            f"the unet's addition_embed_type is {config.addition_embed_type!r}: expected "
            "'text_time', as in Stable Diffusion XL"
        )
    if config.time_cond_proj_dim is not None:
        raise UserError(
            "the unet is given its guidance as a number (time_cond_proj_dim), as distilled models "
            "are: expected one that is not, since there is no prediction without the prompt to "
            "compare with"
        )
    width = sum(encoder.hidden_size for encoder in encoders)
    if config.cross_attention_dim != width:
        raise UserError(
            f"the unet takes text of width {config.cross_attention_dim} and the two text encoders "
            f"make {width}: expected the same; give the text encoders that the UNet was trained "
            "with"
        )
    pooled = encoders[-1].projection_dim
    taken = config.projection_class_embeddings_input_dim
    made = pooled + _SIZES * config.addition_time_embed_dim
    if taken != made:
        raise UserError(
            f"the unet's added embedding takes {taken} numbers, and the pooled text with the "
            f"picture's size makes {made}: expected the same (the refiner and editing models have "
            "others); give a base model"
        )
