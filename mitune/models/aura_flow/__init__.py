"""AuraFlow."""

from mitune.config.preset import flow_preset
from mitune.models.family import Family, imported

PRESET = flow_preset(steps=50, guidance=3.5)
"""Pool and adapter are the paper's for SD 2.1; steps and guidance are the pipeline's own defaults.
None was measured for this family."""

FAMILY = Family(
    title="an AuraFlowPipeline",
    pipeline="AuraFlowPipeline",
    components={
        "transformer": ("AuraFlowTransformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("T5EncoderModel", "UMT5EncoderModel"),
        "tokenizer": None,
        "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    },
    networks={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    },
    harmless=("encoder.embed_tokens.weight",),
    preset=PRESET,
    model=imported("mitune.models.aura_flow.model", "AuraFlow"),
)
