"""A tiny Lumina2Pipeline: random weights, the embedded model's words after Gemma's first token."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
from tiny_parts import chat_words, language_model, strengthen, vae
from tokenizers.processors import TemplateProcessing
from transformers import Gemma2Model

TEXT = 24
"""Width of the transformer's text, and of the language model."""


def lumina2_pipeline() -> Lumina2Pipeline:
    """With the same weights at every call."""
    tokenizer = chat_words()
    # As Gemma's: not even the empty prompt is without a token.
    first = tokenizer.convert_tokens_to_ids("<user>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<user> $A", special_tokens=[("<user>", first)]
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = Lumina2Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            hidden_size=24,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(4, 4, 4),
            axes_lens=(300, 64, 64),
            cap_feat_dim=TEXT,
        )
        strengthen(transformer, ("attn.to", "norm_out", "norm1.linear"), std=0.5)
        encoder = language_model(Gemma2Model, tokenizer, TEXT, pad_token_id=tokenizer.pad_token_id)
        decoder = vae(4, shift_factor=0.1)
    return Lumina2Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=decoder.eval(),
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
    )
