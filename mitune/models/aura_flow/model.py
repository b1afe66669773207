"""AuraFlow as a denoiser: a transformer of joint attention, conditioned on the hidden states of one
T5; rectified flow."""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from diffusers.models.transformers.auraflow_transformer_2d import (
    AuraFlowJointTransformerBlock,
    AuraFlowSingleTransformerBlock,
)
from torch import Tensor

from mitune.core.errors import UserError
from mitune.models.aura_flow import FAMILY
from mitune.models.pipeline_model import PipelineModel
from mitune.models.protocol import Conditioning
from mitune.models.verify import check_pictures, naming_model

TEXT = "encoder_hidden_states"
"""The one conditioning tensor, ``[N, L, D]``; zeros where the prompt has no token."""
_MASK = "attention_mask"
TOKENS = 256
"""Of a prompt, as many as the pipeline gives the encoder by default."""


class AuraFlow(PipelineModel):
    """An AuraFlowPipeline as a :class:`mitune.models.protocol.LatentModel`.

    Raises:
        UserError: a pipeline of another family; parts that do not fit each other; weights that are
            not finite.
    """

    family = FAMILY
    denoiser = "transformer"
    text_name = TEXT
    shard_blocks = (AuraFlowJointTransformerBlock, AuraFlowSingleTransformerBlock)

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        super().check(pipeline, name, dtype)
        network, vae = pipeline.transformer.config, pipeline.vae.config
        with naming_model(name):
            check_pictures(vae)
            if not network.in_channels == network.out_channels == vae.latent_channels:
                raise UserError(
                    f"the transformer takes {network.in_channels} channels and makes "
                    f"{network.out_channels}, and the vae's latents have {vae.latent_channels}: "
                    "expected the same number of each; give a text-to-image model"
                )
            if pipeline.text_encoder.config.d_model != network.joint_attention_dim:
                raise UserError(
                    f"the transformer takes text of width {network.joint_attention_dim} and the "
                    f"text_encoder makes {pipeline.text_encoder.config.d_model}: expected the "
                    "same; give the encoder that the transformer was trained with"
                )

    @property
    def size_step(self) -> int:
        """A patch."""
        return self.latent_scale * self.patch

    @property
    def largest_side(self) -> int:
        """The transformer has a square of places."""
        return self.size_step * isqrt(self.networks[self.denoiser].config.pos_embed_max_size)

    @property
    def prompt_limit(self) -> int:
        """256 tokens."""
        return min(TOKENS, super().prompt_limit)

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """The transformer's own times are those of the flow, 0 to 1."""
        velocity: Tensor = network(
            z,
            encoder_hidden_states=cond[TEXT],
            timestep=(t / 1000).to(z.dtype),
            return_dict=False,
        )[0]
        return velocity

    def tokenize(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, ``[N, L]`` int64 on the model's device."""
        found = self.pipeline.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=TOKENS,
            truncation=True,
            return_tensors="pt",
        )
        return {name: found[name].to(self.device) for name in ("input_ids", _MASK)}

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        text = self.networks["text_encoder"](**tokens)[0] * tokens[_MASK][..., None]
        return {TEXT: text.to(self.dtype)}
