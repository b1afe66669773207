"""Qwen-Image as a denoiser: a transformer of joint attention over packed latents, conditioned on a
language model's states of the prompt in a template; rectified flow (Wu et al., arXiv 2508.02324).
Its autoencoder is one of videos, of which a picture is the only frame."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformerBlock
from torch import Tensor

from mitune.models import autoencoder
from mitune.models.packed_model import PackedModel
from mitune.models.packing import SIDE, pack, unpack
from mitune.models.protocol import Conditioning
from mitune.models.qwen_image import FAMILY
from mitune.models.qwen_image.verify import check_parts
from mitune.models.texts import own_first, padded

TEXT, MASK = "encoder_hidden_states", "encoder_hidden_states_mask"
"""The conditioning tensors, by their names in the transformer's call: ``[N, L, D]``, zeros after
the text, and ``[N, L]`` bool."""
TOKENS = 512
"""Of a prompt and the end of its template, as many as the pipeline keeps by default; L."""


class QwenImage(PackedModel):
    """A QwenImagePipeline as a :class:`mitune.models.protocol.LatentModel`.

    Guidance is the pipeline's ``true_cfg_scale``, against the negative prompt "". The pipeline
    guides only if it is given a negative prompt.

    Raises:
        UserError: a pipeline of another family; parts that do not fit each other; weights that are
            not finite; a transformer that takes more than latents, text and time.
    """

    family = FAMILY
    text_name = TEXT
    shard_blocks = (QwenImageTransformerBlock,)

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        super().check(pipeline, name, dtype)
        check_parts(name, pipeline)

    @property
    def latent_scale(self) -> int:
        return int(2 ** len(self.vae.config.temperal_downsample))

    @property
    def prompt_limit(self) -> int:
        """Tokens of a prompt in its template, of which the transformer does not see the first."""
        return TOKENS + self._before

    @property
    def renormalise(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Each token of the guided prediction gets the length of the conditional one's."""

        def as_long(guided: Tensor, cond: Tensor) -> Tensor:
            tokens = pack(guided)
            scale = pack(cond).norm(dim=-1, keepdim=True) / tokens.norm(dim=-1, keepdim=True)
            return unpack(tokens * scale, *guided.shape[-2:])

        return as_long

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        height, width = z.shape[-2:]
        velocity = network(
            hidden_states=pack(z),
            timestep=t / 1000,
            encoder_hidden_states=cond[TEXT],
            encoder_hidden_states_mask=cond[MASK],
            img_shapes=[[(1, height // SIDE, width // SIDE)]] * len(z),
            return_dict=False,
        )[0]
        return unpack(velocity, height, width)

    @property
    def _before(self) -> int:
        """Tokens of the template before the prompt."""
        return int(self.pipeline.prompt_template_encode_start_idx)

    def texts(self, prompts: Sequence[str], tokenizer: Any) -> list[str]:
        return [self.pipeline.prompt_template_encode.format(prompt) for prompt in prompts]

    def tokenize(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` of prompts in their template, ``[N, L + ...]`` int64
        on the model's device."""
        tokenizer = self.pipeline.tokenizer
        texts = self.texts(prompts, tokenizer)
        return padded(tokenizer, texts, self.prompt_limit, self.device)

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """The last states, without those of the template's beginning."""
        # The language model's logits are of no use: it computes those of one token.
        made = self.networks["text_encoder"](
            **tokens, output_hidden_states=True, use_cache=False, logits_to_keep=1
        )
        text, kept = own_first(
            made.hidden_states[-1], tokens["attention_mask"].bool(), self._before
        )
        return {TEXT: text.to(self.dtype), MASK: kept}

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the autoencoder's latents, ``[C, 1, 1]`` float32 each."""
        config = self.vae.config
        mean, std = (
            torch.tensor(values, device=self.device).view(-1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, std

    def decode(self, latents: Tensor, /) -> Tensor:
        mean, std = self._moments()
        frames = (latents.to(self.device) * std + mean).unsqueeze(2)
        return autoencoder.pictures(self.vae, frames, self.latent_scale).squeeze(2)

    def encode_images(self, images: Tensor, /) -> Tensor:
        mean, std = self._moments()
        frames = images.to(self.device).unsqueeze(2)
        return (autoencoder.modes(self.vae, frames).squeeze(2) - mean) / std
