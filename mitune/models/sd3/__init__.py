"""Stable Diffusion 3 and 3.5."""

from functools import partial

from mitune.config.preset import flow_preset
from mitune.models.family import AuthorsClass, Family, imported

_CLIP = ("CLIPTokenizer", "CLIPTokenizerFast")

PRESET = flow_preset(steps=40, guidance=4.5)
"""Pool and adapter are the paper's for SD 2.1; steps and guidance are those on the card of Stable
Diffusion 3.5 Medium. None was measured for this family."""

FAMILY = Family(
    title="a StableDiffusion3Pipeline",
    pipeline="StableDiffusion3Pipeline",
    components={
        "transformer": ("SD3Transformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "text_encoder_3": ("T5EncoderModel",),
        "tokenizer": _CLIP,
        "tokenizer_2": _CLIP,
        "tokenizer_3": ("T5Tokenizer", "T5TokenizerFast"),
        "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    },
    networks={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
        "text_encoder_2": "model",
        "text_encoder_3": "model",
    },
    # The third encoder is larger than all the rest, and the pipeline draws without it.
    optional=frozenset({"text_encoder_3", "tokenizer_3"}),
    unused=("image_encoder", "feature_extractor"),
    harmless=("position_ids", "encoder.embed_tokens.weight"),
    preset=PRESET,
    model=imported("mitune.models.sd3.model", "SD3"),
    authors=AuthorsClass(name="StableDiffusion3Pipeline_MI", steps=28, guidance=7.0, rfmi=True),
    random={
        name: partial(imported("mitune.models.sd3.random_weights", "random_parts"), name)
        for name in ("sd3-medium-random", "sd35-medium-random", "sd35-large-random")
    },
)
