"""FLUX.2-klein-base."""

from mitune.config.preset import flow_preset
from mitune.models.family import Family, imported

PRESET = flow_preset(steps=50, guidance=4.0)
"""Pool and adapter are the paper's for SD 2.1; steps and guidance are the pipeline's own defaults.
None was measured for this family."""

FAMILY = Family(
    title="a Flux2KleinPipeline",
    pipeline="Flux2KleinPipeline",
    components={
        "transformer": ("Flux2Transformer2DModel",),
        "vae": ("AutoencoderKLFlux2",),
        "text_encoder": ("Qwen3ForCausalLM",),
        "tokenizer": None,
        "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    },
    networks={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    },
    preset=PRESET,
    model=imported("mitune.models.flux2_klein.model", "Flux2Klein"),
)
