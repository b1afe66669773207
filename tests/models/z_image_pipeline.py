"""A tiny ZImagePipeline: random weights, the embedded model's words in a chat template."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from tiny_parts import chat_words, language_model, strengthen, vae
from transformers import Qwen3Model

TEXT = 24
"""Width of the transformer's text, and of the language model."""


def z_image_pipeline() -> ZImagePipeline:
    """With the same weights at every call."""
    tokenizer = chat_words()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=TEXT,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 64, 64],
        )
        strengthen(transformer, ("attention.to", "all_final"), std=0.3)
        encoder = language_model(Qwen3Model, tokenizer, TEXT)
        decoder = vae(3, shift_factor=0.1)
    return ZImagePipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=decoder.eval(),
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
    )
