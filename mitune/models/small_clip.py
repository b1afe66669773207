"""Small CLIP text encoders with random weights, for benchmarks without a download."""

from typing import Any

from transformers import CLIPTextConfig


def small_clip(tokenizer: Any, width: int) -> CLIPTextConfig:
    """Of an encoder that is as wide as a real one and has two layers, because text hardly matters
    for the cost of building a set."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
