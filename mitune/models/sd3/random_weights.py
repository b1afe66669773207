"""The exact denoiser architectures of Stable Diffusion 3 and 3.5, with random weights."""

from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from transformers import CLIPTextModelWithProjection

from mitune.models.small_clip import small_clip

WIDTHS = 768, 1280
"""Of the two CLIP encoders."""
_SHARED: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": sum(WIDTHS),
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "sd3-medium-random": _SHARED
    | {
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "pos_embed_max_size": 192,
    },
    "sd35-medium-random": _SHARED
    | {
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "pos_embed_max_size": 384,
        "qk_norm": "rms_norm",
        "dual_attention_layers": tuple(range(13)),
    },
    "sd35-large-random": _SHARED
    | {
        "num_layers": 38,
        "num_attention_heads": 38,
        "caption_projection_dim": 2432,
        "pos_embed_max_size": 192,
        "qk_norm": "rms_norm",
    },
}
"""The transformers' published configurations, by their names in ``mitune bench --model``."""


def transformer(name: str) -> SD3Transformer2DModel:
    """The transformer of that name in ARCHITECTURES."""
    return SD3Transformer2DModel(**ARCHITECTURES[name])


def random_parts(name: str, tokenizer: Any) -> dict[str, Any]:
    """A transformer with random weights, small CLIP encoders of its text's width, no T5, whose
    tokens are there as zeros and cost as much; see ``Family.random``."""
    denoiser = transformer(name)
    torch.nn.init.normal_(denoiser.proj_out.weight, std=0.05)
    first, second = (CLIPTextModelWithProjection(small_clip(tokenizer, width)) for width in WIDTHS)
    return {
        "transformer": denoiser,
        "text_encoder": first,
        "text_encoder_2": second,
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "vae": AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=16,
            norm_num_groups=4,
            scaling_factor=1.5305,
            shift_factor=0.0609,
        ),
    }
