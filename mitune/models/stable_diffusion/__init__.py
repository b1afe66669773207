"""Stable Diffusion 1.x and 2.x."""

from functools import partial

from mitune.models.family import AuthorsClass, Family, imported

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
    model=imported("mitune.models.stable_diffusion.model", "StableDiffusion"),
    random={
        name: partial(
            imported("mitune.models.stable_diffusion.random_weights", "random_parts"), name
        )
        for name in ("sd21-base-random", "tiny-random")
    },
    authors=AuthorsClass(name="MISelectionPipeline"),
    moved={
        "families.stable_diffusion": "models.stable_diffusion.model",
        "families.verify": "models.stable_diffusion.verify",
    },
)
