"""A tiny AuraFlowPipeline: random weights, the embedded model's words."""

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from tiny_parts import strengthen, t5, t5_words, vae

TEXT = 24
"""Width of the transformer's text, and of T5."""


def aura_flow_pipeline() -> AuraFlowPipeline:
    """With the same weights at every call."""
    tokenizer = t5_words()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = AuraFlowTransformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=TEXT,
            caption_projection_dim=16,
            pos_embed_max_size=64,
        )
        strengthen(transformer, ("attn", "proj_out"), std=0.5)
        decoder, encoder = vae(3), t5(tokenizer, TEXT)
    return AuraFlowPipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
        vae=decoder.eval(),
        text_encoder=encoder,
        tokenizer=tokenizer,
    )
