"""Stable Diffusion XL's exact denoiser architecture, with random weights."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from mitune.models.small_clip import small_clip

WIDTHS = 768, 1280
"""Of the two text encoders; the second one's is that of the pooled embedding too."""


def sdxl_unet() -> UNet2DConditionModel:
    """The UNet of stabilityai/stable-diffusion-xl-base-1.0 from its configuration: 2567 M
    parameters."""
    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=sum(WIDTHS),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=WIDTHS[1] + 6 * 256,
    )


def random_parts(tokenizer: Any) -> dict[str, Any]:
    """The UNet with random weights and small encoders of its text's width; see
    ``Family.random``."""
    unet = sdxl_unet()
    torch.nn.init.normal_(unet.conv_out.weight, std=0.05)  # predictions of about unit variance
    first, second = (small_clip(tokenizer, width) for width in WIDTHS)
    return {
        "unet": unet,
        "text_encoder": CLIPTextModel(first),
        "text_encoder_2": CLIPTextModelWithProjection(second),
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
    }
