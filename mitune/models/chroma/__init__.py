"""Chroma."""

from mitune.config.preset import flow_preset
from mitune.models.family import Family, imported

PRESET = flow_preset(steps=35, guidance=5.0)
"""Pool and adapter are the paper's for SD 2.1; steps and guidance are the pipeline's own defaults.
None was measured for this family."""

FAMILY = Family(
    title="a ChromaPipeline",
    pipeline="ChromaPipeline",
    components={
        "transformer": ("ChromaTransformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("T5EncoderModel",),
        "tokenizer": ("T5Tokenizer", "T5TokenizerFast"),
        "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    },
    networks={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    },
    unused=("image_encoder", "feature_extractor"),
    harmless=("encoder.embed_tokens.weight",),
    preset=PRESET,
    model=imported("mitune.models.chroma.model", "Chroma"),
)
