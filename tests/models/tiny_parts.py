"""What the tiny pipelines of several families share, and how the tests look at their models."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTokenizer

from mitune.worlds.shapes.model import FOLDER

TEXTS = ["a red circle", "a blue square above a green circle"]


def words() -> Any:
    """The embedded model's tokenizer."""
    return CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")


def clip(tokenizer: Any, width: int, **changes: Any) -> CLIPTextConfig:
    """Of a text encoder of ``width``; ``changes`` are the configuration's."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        eos_token_id=tokenizer.eos_token_id,
        **changes,
    )


def vae(blocks: int, **changes: Any) -> AutoencoderKL:
    """Makes pictures that are ``2 ** (blocks - 1)`` times as large as their latents."""
    return AutoencoderKL(
        block_out_channels=(8,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=4,
        norm_num_groups=4,
        **changes,
    )


def furthest(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, as a part of ``other``'s largest element."""
    return float((one - other).abs().max() / other.abs().max())


@torch.no_grad()
def predict(model: Any) -> torch.Tensor:
    """A pass of two rows of noise, under TEXTS."""
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return model(z, torch.tensor([900.0, 200.0]), model.encode_prompts(TEXTS))
