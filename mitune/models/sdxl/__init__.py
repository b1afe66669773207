"""Stable Diffusion XL."""

from mitune.models.family import AuthorsClass, Family, imported

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
    model=imported("mitune.models.sdxl.model", "SDXL"),
    authors=AuthorsClass(name="MISelectionXLPipeline", guidance=5.0),
    random={"sdxl-random": imported("mitune.models.sdxl.random_weights", "random_parts")},
)
