"""FLUX.1-dev."""

from mitune.config.preset import flow_preset
from mitune.models.family import Family, imported

PRESET = flow_preset(steps=28, guidance=3.5)
"""Pool and adapter are the paper's for SD 2.1; steps and guidance are the pipeline's own defaults,
the guidance as that of two passes. None was measured for this family."""

FAMILY = Family(
    title="a FluxPipeline",
    pipeline="FluxPipeline",
    components={
        "transformer": ("FluxTransformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("T5EncoderModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("T5Tokenizer", "T5TokenizerFast"),
        "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    },
    networks={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
        "text_encoder_2": "model",
    },
    unused=("image_encoder", "feature_extractor"),
    harmless=("position_ids", "encoder.embed_tokens.weight"),
    preset=PRESET,
    model=imported("mitune.models.flux.model", "Flux"),
)
