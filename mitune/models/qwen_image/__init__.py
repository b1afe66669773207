"""Qwen-Image."""

from mitune.config.preset import flow_preset
from mitune.models.family import Family, imported

PRESET = flow_preset(steps=50, guidance=4.0)
"""Pool and adapter are the paper's for SD 2.1; steps and guidance are the pipeline's own defaults,
the guidance as its ``true_cfg_scale``. None was measured for this family."""

FAMILY = Family(
    title="a QwenImagePipeline",
    pipeline="QwenImagePipeline",
    components={
        "transformer": ("QwenImageTransformer2DModel",),
        "vae": ("AutoencoderKLQwenImage",),
        "text_encoder": ("Qwen2_5_VLForConditionalGeneration",),
        "tokenizer": None,
        "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    },
    networks={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    },
    preset=PRESET,
    model=imported("mitune.models.qwen_image.model", "QwenImage"),
)
