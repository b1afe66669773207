"""FLUX.2-klein-base as a denoiser: a transformer over the tokens of the text and of the picture,
conditioned on three layers of a language model; rectified flow. Its latents are squares of two by
two of the autoencoder's, normalised by statistics that the autoencoder holds."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import Flux2KleinPipeline
from diffusers.models.transformers.transformer_flux2 import (
    Flux2SingleTransformerBlock,
    Flux2TransformerBlock,
)
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor
from torch.nn import functional as F

from mitune.core.errors import UserError
from mitune.models import autoencoder
from mitune.models.flux2_klein import FAMILY
from mitune.models.packing import SIDE, positions
from mitune.models.pipeline_model import PipelineModel
from mitune.models.protocol import Conditioning
from mitune.models.texts import as_chat
from mitune.models.verify import check_transformer, naming_model

TEXT = "encoder_hidden_states"
"""The one conditioning tensor, ``[N, L, D]``; the transformer also reads what stands where the
prompt has no token."""
TOKENS = 512
"""Of a prompt in its template, as many as the pipeline gives the encoder by default; L."""
LAYERS: tuple[int, ...] = (
    inspect.signature(Flux2KleinPipeline.encode_prompt)
    .parameters["text_encoder_out_layers"]
    .default
)
"""Of the language model, those whose states are the text, side by side."""
_SIDE = 1024
"""Pixels of the pipeline's pictures by default: no config says it."""


class Flux2Klein(PipelineModel):
    """A Flux2KleinPipeline as a :class:`mitune.models.protocol.LatentModel`.

    Adapters are on the layers of the double-stream blocks by default: a single-stream block has its
    projections in one layer, which the default targets do not name.

    Raises:
        UserError: a pipeline of another family; parts that do not fit each other; weights that are
            not finite; a distilled model.
    """

    family = FAMILY
    denoiser = "transformer"
    tokens = TOKENS
    text_name = TEXT
    shard_blocks = (Flux2TransformerBlock, Flux2SingleTransformerBlock)

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        super().check(pipeline, name, dtype)
        network, vae = pipeline.transformer.config, pipeline.vae.config
        encoder = pipeline.text_encoder.config
        with naming_model(name):
            if pipeline.config.is_distilled or network.guidance_embeds:
                raise UserError(
                    "the pipeline is distilled, with its guidance in one prediction: there is no "
                    "prediction without the prompt to compare with; expected a base model, such as "
                    "FLUX.2-klein-base"
                )
            check_transformer(
                network,
                vae.latent_channels,
                network.joint_attention_dim,
                len(LAYERS) * encoder.hidden_size,
                packed=SIDE**2,
            )
            if encoder.num_hidden_layers < max(LAYERS):
                raise UserError(
                    f"the text_encoder has {encoder.num_hidden_layers} layers: expected at least "
                    f"{max(LAYERS)}, of which the transformer takes text"
                )
            if (vae.in_channels, vae.out_channels) != (3, 3):
                raise UserError(
                    f"the vae takes {vae.in_channels} channels and makes {vae.out_channels}: "
                    "expected pictures of 3"
                )

    def shape_of_latents(self) -> tuple[int, ...]:
        side = _SIDE // self.latent_scale
        return self.networks[self.denoiser].config.in_channels, side, side

    @property
    def latent_scale(self) -> int:
        return super().latent_scale * SIDE

    def flow_sigmas(self, steps: int) -> list[float]:
        """Evenly from 1 to 1 / steps."""
        return torch.linspace(1.0, 1 / steps, steps).tolist()

    def flow_shift(self, tokens: int, steps: int) -> float:
        return float(compute_empirical_mu(image_seq_len=tokens, num_steps=steps))

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """A place has four coordinates: a picture's number, row, column, and place in the text."""
        height, width = z.shape[-2:]
        words = torch.arange(cond[TEXT].shape[1], device=z.device)
        velocity: Tensor = network(
            hidden_states=z.flatten(2).mT,
            timestep=t / 1000,
            encoder_hidden_states=cond[TEXT],
            txt_ids=F.pad(words[:, None], (3, 0)),
            img_ids=F.pad(positions(height, width, z.device), (0, 1)),
            return_dict=False,
        )[0]
        return torch.unflatten(velocity.mT, 2, (height, width))

    def texts(self, prompts: Sequence[str], tokenizer: Any) -> list[str]:
        return as_chat(tokenizer, prompts, thinking=False)

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        # The language model's logits are of no use: it computes those of one token.
        made = self.networks["text_encoder"](
            **tokens, output_hidden_states=True, use_cache=False, logits_to_keep=1
        )
        text = torch.cat([made.hidden_states[layer] for layer in LAYERS], dim=-1)
        return {TEXT: text.to(self.dtype)}

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents before they were normalised, ``[C, 1, 1]``
        float32 each."""
        norm = self.vae.bn
        spread = (norm.running_var.float() + self.vae.config.batch_norm_eps).sqrt()
        return norm.running_mean.float().view(-1, 1, 1), spread.view(-1, 1, 1)

    def decode(self, latents: Tensor, /) -> Tensor:
        mean, spread = self._moments()
        z = F.pixel_shuffle(latents.to(self.device) * spread + mean, SIDE)
        return autoencoder.pictures(self.vae, z, super().latent_scale)

    def encode_images(self, images: Tensor, /) -> Tensor:
        mean, spread = self._moments()
        z = autoencoder.modes(self.vae, images.to(self.device))
        return (F.pixel_unshuffle(z, SIDE) - mean) / spread
