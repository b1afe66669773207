"""Hunyuan-DiT."""

from dataclasses import replace

from mitune.config.preset import PAPER
from mitune.models.family import Family, imported

PRESET = replace(PAPER, sampler=replace(PAPER.sampler, guidance=5.0), use_guidance=5.0)
"""Pool and adapter are the paper's for SD 2.1, and so is the ancestral sampler of 50 steps, which
is the pipeline's own too; the guidance is the pipeline's own default. None was measured for this
family."""

FAMILY = Family(
    title="a HunyuanDiTPipeline",
    pipeline="HunyuanDiTPipeline",
    components={
        "transformer": ("HunyuanDiT2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("BertModel",),
        "text_encoder_2": ("T5EncoderModel",),
        "tokenizer": None,
        "tokenizer_2": None,
        "scheduler": None,
    },
    networks={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
        "text_encoder_2": "model",
    },
    # They look at decoded pictures; nothing here shows pictures to third parties.
    unused=("safety_checker", "feature_extractor"),
    harmless=("position_ids", "encoder.embed_tokens.weight"),
    options={"requires_safety_checker": False},
    preset=PRESET,
    model=imported("mitune.models.hunyuan_dit.model", "HunyuanDiT"),
)
