"""The parts of the second edition's model, with random weights: small networks of the same classes
as in a well-known model family."""

from pathlib import Path

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mitune.worlds import word_tokenizer
from mitune.worlds.shapes.networks import scheduler as first_edition
from mitune.worlds.shapes2.prompts import NUMBERS, RELATIONS, Item
from mitune.worlds.shapes2.scene import COLOURS, SHAPES, SIZE, TEXTURES

TOKENS = 24
"""Text length. The longest caption has 17 words and two special tokens; the denoiser can use the
remaining tokens as summaries."""
TEXT_WIDTH = 96
LATENT_CHANNELS = 8
LATENT_SIZE = SIZE // 8


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write and load a tokenizer in which each word of the world is one token."""
    plurals = {str(Item(shape, count=2)).split()[-1] for shape in SHAPES}
    joints = {word for relation in RELATIONS for word in relation.split()}
    words = {*COLOURS, *SHAPES, *plurals, *TEXTURES, *NUMBERS, *joints, "a", "and", "the"}
    return word_tokenizer.write_tokenizer(folder, words, TOKENS)


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A four-layer CLIP text transformer for ``tokenizer``'s vocabulary."""
    end = tokenizer.eos_token_id
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def vae() -> AutoencoderKL:
    """An autoencoder from 64x64 pictures to 8x8 latents of eight channels; it is light at full
    resolution, where most of its time goes."""
    return AutoencoderKL(
        sample_size=SIZE,
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


def denoiser() -> UNet2DConditionModel:
    """The denoiser, with cross-attention at both resolutions (8x8 and 4x4)."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(96, 192),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        # diffusers reads this as the number of heads for this model class, as in SD-1.x's config.
        attention_head_dim=3,
        norm_num_groups=16,
    )


def scheduler() -> DDPMScheduler:
    """The noise schedule of the family."""
    return first_edition()
