"""Chroma as a denoiser: Flux's transformer with its guidance taken out again, conditioned on the
hidden states of one T5; rectified flow."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.transformers.transformer_chroma import (
    ChromaSingleTransformerBlock,
    ChromaTransformerBlock,
)
from torch import Tensor

from mitune.models.chroma import FAMILY
from mitune.models.packed_model import PackedModel
from mitune.models.packing import SIDE, pack, positions, unpack
from mitune.models.protocol import Conditioning, RuntimePasses
from mitune.models.verify import check_pictures, check_transformer, naming_model

TEXT, MASK = "encoder_hidden_states", "attention_mask"
"""The conditioning: ``[N, L, D]``, and ``[N, L]`` in the same dtype, 1 for the tokens of the text
and the first one after them."""
TOKENS = 512
"""Of a prompt, as many as the pipeline gives the encoder by default."""


class Chroma(PackedModel):
    """A ChromaPipeline as a :class:`mitune.models.protocol.LatentModel`.

    Raises:
        UserError: a pipeline of another family; parts that do not fit each other; weights that are
            not finite.
    """

    family = FAMILY
    tokens = TOKENS
    text_name = TEXT
    # As for FLUX.
    export_prefixes: Mapping[str, Mapping[str, str]] = {
        "comfyui": {"transformer": "lora_transformer_"}
    }
    shard_blocks = (ChromaTransformerBlock, ChromaSingleTransformerBlock)

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        super().check(pipeline, name, dtype)
        network, vae = pipeline.transformer.config, pipeline.vae.config
        with naming_model(name):
            check_pictures(vae)
            check_transformer(
                network,
                vae.latent_channels,
                network.joint_attention_dim,
                pipeline.text_encoder.config.d_model,
                packed=SIDE**2,
            )

    @property
    def passes(self) -> RuntimePasses:
        """When diffusers recomputes the single blocks it leaves their mask out."""
        return RuntimePasses(recomputes=False)

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        height, width = z.shape[-2:]
        tokens, mask = pack(z), cond[MASK]
        velocity = network(
            hidden_states=tokens,
            timestep=(t / 1000).to(z.dtype),
            encoder_hidden_states=cond[TEXT],
            txt_ids=z.new_zeros(cond[TEXT].shape[1], 3),
            img_ids=positions(height // SIDE, width // SIDE, z.device),
            # Numbers, as the pipeline's: they are added to the attention's logits.
            attention_mask=torch.cat([mask, mask.new_ones(tokens.shape[:2])], dim=1),
            return_dict=False,
        )[0]
        return unpack(velocity, height, width)

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        text = self.networks["text_encoder"](**tokens)[0]
        lengths = tokens[MASK].sum(dim=1, keepdim=True)
        mask = torch.arange(text.shape[1], device=text.device) <= lengths
        return {TEXT: text.to(self.dtype), MASK: mask.to(self.dtype)}
