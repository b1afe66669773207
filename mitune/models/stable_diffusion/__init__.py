"""Stable Diffusion 1.x and 2.x."""

from functools import partial
from typing import Any

from mitune.models.family import Family


def _model(*arguments: Any, **options: Any) -> Any:
    from mitune.models.stable_diffusion.model import StableDiffusion

    return StableDiffusion(*arguments, **options)


def _random(name: str, tokenizer: Any) -> dict[str, Any]:
    from mitune.models.stable_diffusion.random_weights import random_parts

    return random_parts(name, tokenizer)


FAMILY = Family(
    title="a StableDiffusionPipeline (1.x or 2.x)",
    pipeline="StableDiffusionPipeline",
    components={
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "scheduler": None,
    },
    networks={
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    },
    # They look at decoded pictures; nothing here shows pictures to third parties.
    unused=("safety_checker", "feature_extractor", "image_encoder"),
    # Weights of old files, or of an output that a text-to-image model does not use.
    harmless=("position_ids", "text_projection.weight"),
    options={"requires_safety_checker": False},
    model=_model,
    random={name: partial(_random, name) for name in ("sd21-base-random", "tiny-random")},
)
