"""The parts of the embedded model, with random weights: small networks of the same classes as in a
well-known model family."""

from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from mitune.worlds import networks, word_tokenizer
from mitune.worlds.shapes.prompts import NUMBERS, RELATIONS, Item
from mitune.worlds.shapes.scene import COLOURS, SHAPES, SIZE, TEXTURES

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
    return networks.text_encoder(tokenizer, width=TEXT_WIDTH, layers=4, length=TOKENS)


def vae() -> AutoencoderKL:
    """An autoencoder from 64x64 pictures to 8x8 latents of eight channels; it is light at full
    resolution, where most of its time goes."""
    return networks.autoencoder(SIZE, (8, 16, 32, 64), LATENT_CHANNELS)


def denoiser() -> UNet2DConditionModel:
    """The denoiser, at 8x8 and 4x4."""
    return networks.denoiser(LATENT_SIZE, LATENT_CHANNELS, TEXT_WIDTH)
