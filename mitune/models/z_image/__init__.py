"""Z-Image."""

from mitune.config.preset import flow_preset
from mitune.models.family import Family, imported

PRESET = flow_preset(steps=50, guidance=6.0)
"""Pool and adapter are the paper's for SD 2.1; steps and guidance are the pipeline's own defaults,
whose ``guidance_scale`` of 5 is a guidance of 6 here. None was measured for this family."""

FAMILY = Family(
    title="a ZImagePipeline",
    pipeline="ZImagePipeline",
    components={
        "transformer": ("ZImageTransformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("Qwen3Model",),
        "tokenizer": None,
        "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    },
    networks={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    },
    preset=PRESET,
    model=imported("mitune.models.z_image.model", "ZImage"),
)
