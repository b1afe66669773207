"""SD-2.1-base's exact denoiser architecture, and a small one, with random weights."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

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
    """A UNet with random weights and what encodes text for it; see ``Family.random``.

    The text encoder is small, because it hardly matters for the cost of building a set.
    """
    unet = UNETS[name]()
    # With the default initialization of the output layer, predictions are so small that scores
    # drown in rounding. The real model predicts noise of unit variance.
    torch.nn.init.normal_(unet.conv_out.weight, std=0.05)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=16,
            projection_dim=TEXT_WIDTH,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
    return {"unet": unet, "text_encoder": text_encoder, "tokenizer": tokenizer}
