"""SD-2.1-base's exact denoiser architecture, and a small one, with random weights."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from mitune.models.small_clip import small_clip

TEXT_WIDTH = 1024


def sd21_base_unet() -> UNet2DConditionModel:
    """The UNet of stabilityai/stable-diffusion-2-1-base from its configuration: 866 M
    parameters."""
    return UNet2DConditionModel(
        sample_size=64,
        attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=TEXT_WIDTH,
        use_linear_projection=True,
    )


def tiny_unet() -> UNet2DConditionModel:
    """The same blocks, small enough to rehearse a benchmark on a CPU in seconds."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 32, 64, 64),
        norm_num_groups=8,
        attention_head_dim=(1, 1, 2, 2),
        cross_attention_dim=TEXT_WIDTH,
        use_linear_projection=True,
    )


UNETS = {"sd21-base-random": sd21_base_unet, "tiny-random": tiny_unet}
"""By their names in ``mitune bench --model``."""


def random_parts(name: str, tokenizer: Any) -> dict[str, Any]:
    """A UNet with random weights and what encodes text for it; see ``Family.random``."""
    unet = UNETS[name]()
    # With the default initialization of the output layer, predictions are so small that scores
    # drown in rounding. The real model predicts noise of unit variance.
    torch.nn.init.normal_(unet.conv_out.weight, std=0.05)
    text_encoder = CLIPTextModel(small_clip(tokenizer, TEXT_WIDTH))
    return {"unet": unet, "text_encoder": text_encoder, "tokenizer": tokenizer}
