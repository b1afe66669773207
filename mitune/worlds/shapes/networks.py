"""The parts of the embedded model, with random weights: small networks of the same classes as in a
well-known model family."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mitune.worlds import word_tokenizer
from mitune.worlds.shapes.scene import COLOURS, RELATIONS, SHAPES, SIZE

TOKENS = 16
"""Text length. The longest caption has 10 words and two special tokens; the denoiser can use the
remaining tokens as summaries."""
TEXT_WIDTH = 64
LATENT_CHANNELS = 4
LATENT_SIZE = SIZE // 4


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write and load a tokenizer in which each word of the world is one token."""
    words = {w for r in RELATIONS for w in r.split()} | {*COLOURS, *SHAPES, "a", "and", "the"}
    return word_tokenizer.write_tokenizer(folder, words, TOKENS)


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A three-layer CLIP text transformer for ``tokenizer``'s vocabulary."""
    end = tokenizer.eos_token_id
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def vae() -> AutoencoderKL:
    """An autoencoder from 32x32 pictures to 8x8 latents of four channels."""
    return AutoencoderKL(
        sample_size=SIZE,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


def denoiser() -> UNet2DConditionModel:
    """The denoiser: 4.2 M parameters, cross-attention at both resolutions (8x8 and 4x4)."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        # diffusers reads this as the number of heads for this model class, as in SD-1.x's config.
        attention_head_dim=2,
        norm_num_groups=16,
    )


def scheduler() -> DDPMScheduler:
    """The noise schedule of the family."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        timestep_spacing="leading",
        variance_type="fixed_small",
    )


def count_parameters(module: torch.nn.Module) -> int:
    """Number of parameters of ``module``."""
    return sum(p.numel() for p in module.parameters())
