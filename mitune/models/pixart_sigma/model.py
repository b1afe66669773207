"""PixArt-Σ as a denoiser: a transformer with cross-attention to the hidden states of one T5, which
predicts noise (Chen et al., arXiv 2403.04692)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor

from mitune.core.errors import UserError
from mitune.models.pipeline_model import PipelineModel
from mitune.models.pixart_sigma import FAMILY
from mitune.models.protocol import Conditioning
from mitune.models.verify import check_diffusion, check_transformer, check_vae, naming_model

TEXT, MASK = "encoder_hidden_states", "encoder_attention_mask"
"""The conditioning tensors, by their names in the transformer's call: ``[N, L, D]``, and ``[N, L]``
int64."""
TOKENS = 300
"""Of a prompt, as many as the pipeline gives the encoder by default; L."""


class PixArtSigma(PipelineModel):
    """A PixArtSigmaPipeline as a :class:`mitune.models.protocol.LatentModel`.

    The published pipelines step by DPM-Solver; the engine has the solvers of
    ``mitune.diffusion.solvers``, with the same noise levels. The pipeline draws pictures of listed
    sizes and scales them to the size that was asked for; here the transformer draws that size
    itself, as with ``use_resolution_binning=False``. Prompts are in lower case, as with
    ``clean_caption=False``: what else the pipeline removes depends on which packages are installed.

    Raises:
        UserError: a pipeline of another family; parts that do not fit each other; weights that are
            not finite.
    """

    family = FAMILY
    denoiser = "transformer"
    tokens = TOKENS
    text_name = TEXT
    shard_blocks = (BasicTransformerBlock,)

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        super().check(pipeline, name, dtype)
        network, encoder = pipeline.transformer.config, pipeline.text_encoder.config
        with naming_model(name):
            check_vae(pipeline.vae.config)
            check_transformer(
                network,
                pipeline.vae.config.latent_channels,
                network.caption_channels or network.cross_attention_dim,
                encoder.d_model,
                variance=True,
            )
            # The network's own attribute: the config may leave it to the size.
            if pipeline.transformer.use_additional_conditions:
                raise UserError(
                    "the transformer's use_additional_conditions is true, so it wants the "
                    "picture's size, as PixArt-alpha's does: expected a transformer of PixArt-Sigma"
                )
            check_diffusion(pipeline.scheduler)

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """The channels after those of the latents are a learned variance, which the pipeline drops,
        too."""
        prediction: Tensor = network(
            z,
            encoder_hidden_states=cond[TEXT],
            encoder_attention_mask=cond[MASK],
            timestep=t,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return prediction[:, : z.shape[1]].contiguous()

    def texts(self, prompts: Sequence[str], tokenizer: Any) -> list[str]:
        return [prompt.lower().strip() for prompt in prompts]

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        text = self.networks["text_encoder"](**tokens)[0]
        return {TEXT: text.to(self.dtype), MASK: tokens["attention_mask"]}
