"""A family that is not in the package: a transformer with a call of its own, rectified flow, two
text
encoders, pooled conditioning. Its pipeline is diffusers' StableDiffusion3Pipeline without the third
encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.attention import JointTransformerBlock
from torch import Tensor
from torch.nn import functional as F

from mitune.config.preset import PAPER
from mitune.config.sampling import SamplerConfig
from mitune.models.family import Family
from mitune.models.pipeline_model import PipelineModel
from mitune.models.protocol import Conditioning

TEXT = 40
"""Width of the transformer's text; the encoders' together is less, and padded with zeros."""

PRESET = replace(
    PAPER,
    candidates=4,
    sampler=SamplerConfig(steps=6, guidance=3.0, scheduler="euler", convention="integral"),
    use_guidance=3.0,
    draws=4,
    tuning=replace(PAPER.tuning, rank=2, batch=4, micro_batch=2, iterations=3, lr=1e-2),
)


class Toy(PipelineModel):
    """See above."""

    denoiser = "transformer"
    encoders = "text_encoder", "text_encoder_2"
    tokenizers = "tokenizer", "tokenizer_2"
    text_targets: Mapping[str, tuple[str, ...]] = dict.fromkeys(encoders, ("q_proj", "v_proj"))
    shard_blocks = (JointTransformerBlock,)

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        velocity: Tensor = network(
            hidden_states=z,
            timestep=t,
            encoder_hidden_states=cond["text"],
            pooled_projections=cond["pooled"],
            return_dict=False,
        )[0]
        return velocity

    def tokenize(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        found = {}
        for name, tokenizer in self._both(self.tokenizers):
            ids = tokenizer(
                list(prompts), padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids
            found[name] = ids.to(self.device)
        return found

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        texts, pooled = [], []
        for name, ids in zip(self.encoders, tokens.values(), strict=True):
            made = self.networks[name](ids, output_hidden_states=True)
            texts.append(made.hidden_states[-2])
            pooled.append(made[0])
        text = torch.cat(texts, dim=-1)
        text = F.pad(text, (0, TEXT - text.shape[-1]))
        # Where the third encoder's text would stand are zeros.
        text = torch.cat([text, torch.zeros_like(text)], dim=1)
        return {"text": text.to(self.dtype), "pooled": torch.cat(pooled, dim=-1).to(self.dtype)}

    def _both(self, names: Sequence[str]) -> list[tuple[str, Any]]:
        return [(name, getattr(self.pipeline, name)) for name in names]


FAMILY = Family(
    title="a toy",
    pipeline="StableDiffusion3Pipeline",
    components={
        "transformer": ("SD3Transformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer": None,
        "tokenizer_2": None,
        "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    },
    networks={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
        "text_encoder_2": "model",
    },
    unused=("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"),
    preset=PRESET,
    model=lambda *given, **options: Toy(*given, **options),
)
Toy.family = FAMILY
