"""A model of the embedded world with random weights."""

from pathlib import Path

import torch

from mitune.worlds.pretraining import assemble
from mitune.worlds.shapes import networks


def random_model(work: Path) -> Path:
    """The folder of its pipeline, below ``work``."""
    torch.manual_seed(0)
    tokenizer = networks.write_tokenizer(work / "tokenizer")
    networks.text_encoder(tokenizer).save_pretrained(work / "text_encoder")
    vae = networks.vae()
    vae.register_to_config(scaling_factor=1.0)
    vae.save_pretrained(work / "vae")
    networks.denoiser().save_pretrained(work / "unet")
    return assemble(work, work / "pipeline")
