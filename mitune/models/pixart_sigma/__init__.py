"""PixArt-Σ."""

from dataclasses import replace

from mitune.config.preset import PAPER
from mitune.models.family import Family, imported

PRESET = replace(PAPER, sampler=replace(PAPER.sampler, guidance=4.5), use_guidance=4.5)
"""Pool, adapter and the ancestral sampler of 50 steps are the paper's for SD 2.1; the guidance is
the pipeline's own default. None was measured for this family."""

FAMILY = Family(
    title="a PixArtSigmaPipeline",
    pipeline="PixArtSigmaPipeline",
    components={
        # Published pipelines name the older class, which loads as the newer one.
        "transformer": ("PixArtTransformer2DModel", "Transformer2DModel"),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("T5EncoderModel",),
        "tokenizer": None,
        "scheduler": None,
    },
    networks={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    },
    harmless=("encoder.embed_tokens.weight",),
    preset=PRESET,
    model=imported("mitune.models.pixart_sigma.model", "PixArtSigma"),
)
