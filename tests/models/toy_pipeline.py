"""A tiny pipeline of the toy family: random weights, the embedded model's words."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from toy_family import TEXT
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from mitune.worlds.shapes.model import FOLDER

WIDTHS = 12, 20
"""Of the two text encoders."""


def pipeline() -> StableDiffusion3Pipeline:
    """With the same weights at every call."""
    words: Any = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoders = [CLIPTextModelWithProjection(_clip(words, width)) for width in WIDTHS]
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=TEXT,
            pooled_projection_dim=sum(WIDTHS),
            pos_embed_max_size=8,
            qk_norm="rms_norm",
        )
        torch.nn.init.normal_(transformer.proj_out.weight, std=0.3)
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            norm_num_groups=4,
            shift_factor=0.1,
        )
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae.eval(),
        text_encoder=encoders[0].eval(),
        text_encoder_2=encoders[1].eval(),
        text_encoder_3=None,
        tokenizer=words,
        tokenizer_2=words,
        tokenizer_3=None,
    )


def _clip(words: Any, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=words.model_max_length,
        eos_token_id=words.eos_token_id,
        initializer_factor=8.0,
    )
