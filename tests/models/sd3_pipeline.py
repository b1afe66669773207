"""A tiny StableDiffusion3Pipeline: random weights, the embedded model's words."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tiny_parts import clip, t5, t5_words, vae, words
from transformers import CLIPTextModelWithProjection

WIDTHS = 12, 20
"""Of the two CLIP encoders."""
TEXT = 40
"""Width of the transformer's text, and of T5."""


def sd3_pipeline(third: bool = True, dual: bool = True) -> StableDiffusion3Pipeline:
    """With the same weights at every call.

    Args:
        third: whether it has T5.
        dual: whether a layer has the second attention of 3.5 medium.
    """
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
            dual_attention_layers=(0,) if dual else (),
        )
        torch.nn.init.normal_(transformer.proj_out.weight, std=0.3)
        decoder = vae(3, shift_factor=0.1)
        long = t5_words() if third else None
        t5_encoder = t5(long, TEXT) if third else None
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=decoder.eval(),
        text_encoder=encoders[0].eval(),
        text_encoder_2=encoders[1].eval(),
        text_encoder_3=t5_encoder,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=long,
    )
