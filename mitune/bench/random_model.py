"""SD-2.1-base's exact architecture with random weights: as fast as the real one, without its
download."""

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
    """The UNet of stabilityai/stable-diffusion-2-1-base by its configuration: 866 M parameters."""
    return UNet2DConditionModel(
        sample_size=64,
        attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=1024,
        use_linear_projection=True,
    )


def tiny_unet() -> UNet2DConditionModel:
    """The same blocks, small enough to rehearse a bench on a CPU in seconds."""
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
    """A model whose UNet, latents, text width and text length are SD-2.1-base's.

    Its pictures are noise, and its scores mean nothing; what it costs is right. Text encoder and
    VAE, of which set construction sees nothing, are small. It is built on the device, where its
    billion random numbers take no time, and so has other weights on another kind of device.

    Args:
        device: where it runs.
        precision: of the UNet, as ``mitune.load``.
        seed: of the weights; the global random state is left alone.
        name: of NAMES.
    """
    tokenizer: Any = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer", model_max_length=77)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        unet = NAMES[name]()
        # A fresh output layer is so small a change of its input that scores drown in rounding; the
        # real model predicts noise of unit variance.
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
"""Models by what ``mitune bench --model`` calls them."""
