"""SD-2.1-base's exact denoiser architecture with random weights: as fast as the real model, without
a download."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mitune.models.family import assemble
from mitune.models.protocol import LatentModel
from mitune.worlds.shapes import networks
from mitune.worlds.shapes.model import FOLDER

NAME, TINY = "sd21-base-random", "tiny-random"


def sd21_base_unet() -> UNet2DConditionModel:
    """The UNet of stabilityai/stable-diffusion-2-1-base from its configuration: 866 M
    parameters."""
    return UNet2DConditionModel(
        sample_size=64,
        attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=1024,
        use_linear_projection=True,
    )


def tiny_unet() -> UNet2DConditionModel:
    """The same blocks, small enough to rehearse a benchmark on a CPU in seconds."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 32, 64, 64),
        norm_num_groups=8,
        attention_head_dim=(1, 1, 2, 2),
        cross_attention_dim=1024,
        use_linear_projection=True,
    )


def random_sd21(
    device: torch.device, precision: str, seed: int = 0, name: str = NAME
) -> LatentModel:
    """A model whose UNet, latents, text width and text length are those of SD-2.1-base.

    Its pictures are noise and its scores mean nothing, but its cost is right. The text encoder and
    the VAE are small, because they hardly matter for the cost of building a set. The model is built
    on the device, where its billion random numbers take no time; so its weights differ between
    kinds of device.

    Args:
        device: the device of the model.
        precision: precision of the denoiser, as in ``mitune.load``.
        seed: seed of the weights; the global random state does not change.
        name: a name in NAMES.
    """
    tokenizer: Any = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer", model_max_length=77)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        unet = NAMES[name]()
        # With the default initialization of the output layer, predictions are so small that scores
        # drown in rounding. The real model predicts noise of unit variance.
        torch.nn.init.normal_(unet.conv_out.weight, std=0.05)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=2,
                num_attention_heads=16,
                projection_dim=1024,
                max_position_embeddings=77,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.eos_token_id,
            )
        )
        vae = networks.vae()
    family, pipeline = assemble(
        {
            "vae": vae,
            "text_encoder": text_encoder,
            "tokenizer": tokenizer,
            "unet": unet,
            "scheduler": networks.scheduler(),
        }
    )
    model: LatentModel = family.model(
        pipeline, name, device=device, precision=precision, fingerprint=f"{name} {seed} {device}"
    )
    return model


NAMES = {NAME: sd21_base_unet, TINY: tiny_unet}
"""Models by their names in ``mitune bench --model``."""
