"""Z-Image as a denoiser: a transformer over the tokens of the picture and of the text, which is as
long as its prompt; rectified flow. Its text is encoded by a language model, in a chat template."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformerBlock
from torch import Tensor

from mitune.models.pipeline_model import PipelineModel
from mitune.models.protocol import Conditioning, RuntimePasses
from mitune.models.texts import MASK, as_chat, own_first
from mitune.models.verify import check_pictures, check_transformer, naming_model
from mitune.models.z_image import FAMILY

TEXT, LENGTH = "text", "length"
"""The conditioning: ``[N, L, D]``, zeros after the text, and ``[N]`` int64, its tokens."""
TOKENS = 512
"""Of a prompt in its template, as many as the pipeline gives the encoder by default."""
_SIDE = 1024
"""Pixels of the pipeline's pictures by default: the config does not say it."""


class ZImage(PipelineModel):
    """A ZImagePipeline as a :class:`mitune.models.protocol.LatentModel`.

    Its pipeline guides by ``cond + scale (cond - uncond)``: its scale s is a guidance of 1 + s.

    Raises:
        UserError: a pipeline of another family; parts that do not fit each other; weights that are
            not finite.
    """

    family = FAMILY
    denoiser = "transformer"
    tokens = TOKENS
    text_name = TEXT
    shard_blocks = (ZImageTransformerBlock,)

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        super().check(pipeline, name, dtype)
        network, encoder = pipeline.transformer.config, pipeline.text_encoder.config
        latents = pipeline.vae.config.latent_channels
        with naming_model(name):
            check_pictures(pipeline.vae.config)
            check_transformer(
                network,
                latents,
                network.cap_feat_dim,
                encoder.hidden_size,
            )

    @property
    def passes(self) -> RuntimePasses:
        """Texts keep their own length: nothing is compiled for one shape."""
        return RuntimePasses(fixed_shapes=False)

    def shape_of_latents(self) -> tuple[int, ...]:
        side = _SIDE // self.latent_scale
        return self.networks[self.denoiser].config.in_channels, side, side

    @property
    def patch(self) -> int:
        return int(self.networks[self.denoiser].config.all_patch_size[0])

    def flow_sigmas(self, steps: int) -> list[float]:
        """Evenly from 1 to 1 / steps."""
        return torch.linspace(1.0, 1 / steps, steps).tolist()

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """The transformer's times count from noise, 0, to the picture, 1, and so does what it
        predicts."""
        texts = [
            text[:length] for text, length in zip(cond[TEXT], cond[LENGTH].tolist(), strict=True)
        ]
        made = network(list(z.unsqueeze(2).unbind()), (1000 - t) / 1000, texts, return_dict=False)[
            0
        ]
        return -torch.stack(list(made)).squeeze(2)

    def texts(self, prompts: Sequence[str], tokenizer: Any) -> list[str]:
        return as_chat(tokenizer, prompts, thinking=True)

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        mask = tokens[MASK].bool()
        made = self.networks["text_encoder"](
            input_ids=tokens["input_ids"], attention_mask=mask, output_hidden_states=True
        )
        text, _ = own_first(made.hidden_states[-2], mask)
        return {TEXT: text.to(self.dtype), LENGTH: mask.sum(1)}
