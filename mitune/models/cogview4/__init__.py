"""CogView4."""

from mitune.config.preset import flow_preset
from mitune.models.family import Family, imported

PRESET = flow_preset(steps=50, guidance=5.0)
"""Pool and adapter are the paper's for SD 2.1; steps and guidance are the pipeline's own defaults.
None was measured for this family."""

FAMILY = Family(
    title="a CogView4Pipeline",
    pipeline="CogView4Pipeline",
    components={
        "transformer": ("CogView4Transformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("GlmModel",),
        "tokenizer": None,
        "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    },
    networks={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    },
    preset=PRESET,
    model=imported("mitune.models.cogview4.model", "CogView4"),
)
