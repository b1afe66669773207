"""The parts of the embedded model, with random weights: small networks of the same classes as in a
well-known model family."""

from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from mitune.worlds import networks, word_tokenizer
from mitune.worlds.shapes_v1.scene import COLOURS, RELATIONS, SHAPES, SIZE

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
    return networks.text_encoder(tokenizer, width=TEXT_WIDTH, layers=3, length=TOKENS)


def vae() -> AutoencoderKL:
    """An autoencoder from 32x32 pictures to 8x8 latents of four channels."""
    return networks.autoencoder(SIZE, (16, 32, 64), LATENT_CHANNELS)


def denoiser() -> UNet2DConditionModel:
    """The denoiser: 4.2 M parameters, at 8x8 and 4x4."""
    return networks.denoiser(LATENT_SIZE, LATENT_CHANNELS, TEXT_WIDTH)
