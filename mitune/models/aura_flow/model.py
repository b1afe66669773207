"""AuraFlow as a denoiser: a transformer of joint attention, conditioned on the hidden states of one
T5; rectified flow."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from diffusers.models.transformers.auraflow_transformer_2d import (
    AuraFlowJointTransformerBlock,
    AuraFlowSingleTransformerBlock,
)
from torch import Tensor

from mitune.models.aura_flow import FAMILY
from mitune.models.pipeline_model import PipelineModel
from mitune.models.protocol import Conditioning
from mitune.models.texts import MASK
from mitune.models.verify import check_pictures, check_transformer, naming_model

TEXT = "encoder_hidden_states"
"""The one conditioning tensor, ``[N, L, D]``; zeros where the prompt has no token."""
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
    tokens = TOKENS
    text_name = TEXT
    shard_blocks = (AuraFlowJointTransformerBlock, AuraFlowSingleTransformerBlock)

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        super().check(pipeline, name, dtype)
        network, encoder = pipeline.transformer.config, pipeline.text_encoder.config
        latents = pipeline.vae.config.latent_channels
        with naming_model(name):
            check_pictures(pipeline.vae.config)
            check_transformer(
                network,
                latents,
                network.joint_attention_dim,
                encoder.d_model,
            )

    @property
    def largest_side(self) -> int:
        """The transformer has a square of places."""
        return self.size_step * isqrt(self.networks[self.denoiser].config.pos_embed_max_size)

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """The transformer's own times are those of the flow, 0 to 1."""
        velocity: Tensor = network(
            z,
            encoder_hidden_states=cond[TEXT],
            timestep=(t / 1000).to(z.dtype),
            return_dict=False,
        )[0]
        return velocity

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        text = self.networks["text_encoder"](**tokens)[0] * tokens[MASK][..., None]
        return {TEXT: text.to(self.dtype)}
