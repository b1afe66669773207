"""Tiny FluxPipeline and ChromaPipeline: random weights, the embedded model's words."""

from typing import Any

import torch
from diffusers import (
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from tiny_parts import clip, strengthen, t5, t5_words, vae, words
from transformers import CLIPTextModel

TEXT, POOLED = 24, 16
"""Widths of the transformer's text and pooled text."""
_SIZES = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": TEXT,
    "axes_dims_rope": (2, 2, 4),
}
_FEELING = ("attn.to_", "attn.add_", "embedder.weight", "proj_out")
"""Names of layers whose weights are drawn larger."""


def _scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_image_seq_len=16, max_image_seq_len=64
    )


def flux_pipeline(guidance_embeds: bool = True) -> FluxPipeline:
    """With the same weights at every call."""
    short, long = words(), t5_words()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = FluxTransformer2DModel(
            **_SIZES, pooled_projection_dim=POOLED, guidance_embeds=guidance_embeds
        )
        strengthen(transformer, _FEELING, std=0.3)
        parts: dict[str, Any] = {
            "text_encoder": CLIPTextModel(clip(short, POOLED)).eval(),
            "text_encoder_2": t5(long, TEXT),
            "vae": vae(3, shift_factor=0.1).eval(),
        }
    return FluxPipeline(
        transformer=transformer.eval(),
        scheduler=_scheduler(),
        tokenizer=short,
        tokenizer_2=long,
        **parts,
    )


def chroma_pipeline() -> ChromaPipeline:
    """With the same weights at every call."""
    tokenizer = t5_words()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = ChromaTransformer2DModel(
            **_SIZES,
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
        )
        strengthen(transformer, _FEELING, std=0.3)
        encoder, decoder = t5(tokenizer, TEXT), vae(3, shift_factor=0.1).eval()
    return ChromaPipeline(
        transformer=transformer.eval(),
        scheduler=_scheduler(),
        vae=decoder,
        text_encoder=encoder,
        tokenizer=tokenizer,
    )
