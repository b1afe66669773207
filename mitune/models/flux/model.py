"""FLUX.1-dev as a denoiser: a transformer of joint attention over packed latents, conditioned on
the hidden states of T5 and the pooled embedding of CLIP; rectified flow."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import (
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from torch import Tensor

from mitune.core.errors import UserError
from mitune.models.flux import FAMILY
from mitune.models.packed_model import PackedModel
from mitune.models.packing import SIDE, pack, positions, unpack
from mitune.models.protocol import Conditioning
from mitune.models.verify import check_pictures, check_tokenizer, check_transformer, naming_model

TEXT, POOLED = "encoder_hidden_states", "pooled_projections"
"""The conditioning tensors, by their names in the transformer's call: ``[N, L, D]`` and
``[N, P]``."""
TOKENS = 512
"""Of a prompt, as many as the pipeline gives T5 by default."""
_EMBEDDED = 1.0
"""The guidance that the network is given as a number: that of its prediction under the prompt
alone. With more, both predictions would be guided already, and their difference would not be that
of Eq. 2."""


class Flux(PackedModel):
    """A FluxPipeline as a :class:`mitune.models.protocol.LatentModel`.

    The network is given a guidance of 1, and guidance is that of two passes: ``true_cfg_scale`` of
    the pipeline, whose ``guidance_scale`` is 1.

    Raises:
        UserError: a pipeline of another family; parts that do not fit each other; weights that are
            not finite; FLUX.1-schnell.
    """

    family = FAMILY
    tokens = TOKENS
    text_name, pooled_name = TEXT, POOLED
    encoders = "text_encoder", "text_encoder_2"
    tokenizers = "tokenizer", "tokenizer_2"
    # As diffusers' train_dreambooth_lora_flux, which leaves T5 as it is.
    text_targets: Mapping[str, tuple[str, ...]] = {
        "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj")
    }
    # As for Stable Diffusion 3.
    export_prefixes: Mapping[str, Mapping[str, str]] = {
        "comfyui": {"transformer": "lora_transformer_", "text_encoder": "lora_te1_text_model_"}
    }
    shard_blocks = (FluxTransformerBlock, FluxSingleTransformerBlock)

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        super().check(pipeline, name, dtype)
        network, vae = pipeline.transformer.config, pipeline.vae.config
        clip, t5 = pipeline.text_encoder.config, pipeline.text_encoder_2.config
        with naming_model(name):
            if not network.guidance_embeds:
                raise UserError(
                    "the transformer takes no guidance (guidance_embeds is false): it is distilled "
                    "to few steps, as FLUX.1-schnell is, and there is no prediction without the "
                    "prompt to compare with; expected FLUX.1-dev"
                )
            check_pictures(vae)
            check_transformer(
                network,
                vae.latent_channels,
                network.joint_attention_dim,
                t5.d_model,
                packed=SIDE**2,
            )
            if network.pooled_projection_dim != clip.hidden_size:
                raise UserError(
                    f"the transformer takes a pooled text of width {network.pooled_projection_dim} "
                    f"and the text_encoder makes {clip.hidden_size}: expected the same; give the "
                    "encoder that the transformer was trained with"
                )
            check_tokenizer("tokenizer", pipeline.tokenizer, clip)

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        height, width = z.shape[-2:]
        velocity = network(
            hidden_states=pack(z),
            timestep=(t / 1000).to(z.dtype),
            guidance=torch.full_like(t, _EMBEDDED),
            encoder_hidden_states=cond[TEXT],
            pooled_projections=cond[POOLED],
            txt_ids=z.new_zeros(cond[TEXT].shape[1], 3),
            img_ids=positions(height // SIDE, width // SIDE, z.device),
            return_dict=False,
        )[0]
        return unpack(velocity, height, width)

    def tokenize(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        """``{tokenizer: [N, L]}`` int64 on the model's device."""
        found = {}
        for name in self.tokenizers:
            tokenizer = getattr(self.pipeline, name)
            ids = tokenizer(
                self.texts(prompts, tokenizer),
                padding="max_length",
                max_length=TOKENS if name == "tokenizer_2" else tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            found[name] = ids.to(self.device)
        return found

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """T5's states, its padding too, and CLIP's pooled embedding; gradients reach CLIP."""
        text = self.networks["text_encoder_2"](tokens["tokenizer_2"])[0]
        pooled = self.networks["text_encoder"](tokens["tokenizer"]).pooler_output
        return {TEXT: text.to(self.dtype), POOLED: pooled.to(self.dtype)}
