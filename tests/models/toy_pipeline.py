"""A tiny pipeline of the toy family: random weights, the embedded model's words."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tiny_parts import clip, vae, words
from toy_family import TEXT
from transformers import CLIPTextModelWithProjection

WIDTHS = 12, 20
"""Of the two text encoders."""


def pipeline() -> StableDiffusion3Pipeline:
    """With the same weights at every call."""
    tokenizer = words()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoders = [
            CLIPTextModelWithProjection(clip(tokenizer, width, initializer_factor=8.0))
            for width in WIDTHS
        ]
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
        decoder = vae(3, shift_factor=0.1)
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=decoder.eval(),
        text_encoder=encoders[0].eval(),
        text_encoder_2=encoders[1].eval(),
        text_encoder_3=None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=None,
    )
