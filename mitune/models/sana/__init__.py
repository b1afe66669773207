"""Sana."""

from mitune.config.preset import flow_preset
from mitune.models.family import Family, imported

PRESET = flow_preset(steps=20, guidance=4.5)
"""Pool and adapter are the paper's for SD 2.1; steps and guidance are the pipeline's own defaults.
None was measured for this family."""

FAMILY = Family(
    title="a SanaPipeline",
    pipeline="SanaPipeline",
    components={
        "transformer": ("SanaTransformer2DModel",),
        "vae": ("AutoencoderDC",),
        "text_encoder": ("Gemma2Model",),
        "tokenizer": None,
        "scheduler": ("FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"),
    },
    networks={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    },
    preset=PRESET,
    model=imported("mitune.models.sana.model", "Sana"),
)
