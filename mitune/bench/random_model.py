"""Models with random weights: as fast as the real ones, without a download."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import CLIPTokenizer

from mitune.models.family import assemble, families
from mitune.models.protocol import LatentModel
from mitune.worlds.networks import scheduler
from mitune.worlds.shapes_v1.model import FOLDER
from mitune.worlds.shapes_v1.networks import vae

TINY = "tiny-random"
"""Small enough to rehearse a benchmark on a CPU in seconds."""


def random_models() -> dict[str, Callable[[Any], dict[str, Any]]]:
    """What makes the parts of each model, by its name in ``mitune bench --model``; see
    ``Family.random``."""
    return {name: make for family in families() for name, make in family.random.items()}


def random_model(name: str, device: torch.device, precision: str, seed: int = 0) -> LatentModel:
    """A model whose denoiser, latents, text width and text length are those of a real one.

    Its pictures are noise and its scores mean nothing, but its cost is right. The VAE is small,
    because it hardly matters for the cost of building a set. The model is built on the device,
    where its billion random numbers take no time; so its weights differ between kinds of device.

    Args:
        name: a name in ``random_models()``.
        device: the device of the model.
        precision: precision of the denoiser, as in ``mitune.load``.
        seed: seed of the weights; the global random state does not change.
    """
    tokenizer: Any = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer", model_max_length=77)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        parts = random_models()[name](tokenizer)
        parts = {"vae": vae(), "scheduler": scheduler(), **parts}
    family, pipeline = assemble(parts)
    model: LatentModel = family.model(
        pipeline, name, device=device, precision=precision, fingerprint=f"{name} {seed} {device}"
    )
    return model
