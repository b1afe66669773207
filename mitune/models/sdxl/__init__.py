"""Stable Diffusion XL."""

from typing import Any

from mitune.models.family import Family


def _model(*arguments: Any, **options: Any) -> Any:
    from mitune.models.sdxl.model import SDXL

    return SDXL(*arguments, **options)


def _random(tokenizer: Any) -> dict[str, Any]:
    from mitune.models.sdxl.random_weights import random_parts

    return random_parts(tokenizer)


FAMILY = Family(
    title="a StableDiffusionXLPipeline",
    pipeline="StableDiffusionXLPipeline",
    components={
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "scheduler": None,
    },
    networks={
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
        "text_encoder_2": "model",
    },
    unused=("image_encoder", "feature_extractor"),
    harmless=("position_ids",),
    options={"add_watermarker": False},
    model=_model,
    random={"sdxl-random": _random},
)
