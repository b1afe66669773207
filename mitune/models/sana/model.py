"""Sana as a denoiser: a transformer of linear attention over the latents of a deep autoencoder,
conditioned on a language model's states of the prompt after an instruction; rectified flow (Xie et
al., arXiv 2410.10629)."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaPipeline
from diffusers.models.transformers.sana_transformer import SanaTransformerBlock
from torch import Tensor

from mitune.models.pipeline_model import PipelineModel
from mitune.models.protocol import Conditioning
from mitune.models.sana import FAMILY
from mitune.models.texts import padded
from mitune.models.verify import check_transformer, naming_model

TEXT, MASK = "encoder_hidden_states", "encoder_attention_mask"
"""The conditioning tensors, by their names in the transformer's call: ``[N, L, D]``, and ``[N, L]``
int64."""
TOKENS = 300
"""Of a prompt, as many as the pipeline keeps by default; L."""
_INSTRUCTION = "\n".join(
    inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
)
"""Stands before every prompt, but not before the empty one."""


class Sana(PipelineModel):
    """A SanaPipeline as a :class:`mitune.models.protocol.LatentModel`.

    The published pipelines step by DPM-Solver; the engine has Euler's method, with the same shift.

    Raises:
        UserError: a pipeline of another family; parts that do not fit each other; weights that are
            not finite.
    """

    family = FAMILY
    denoiser = "transformer"
    tokens = TOKENS
    text_name = TEXT
    shard_blocks = (SanaTransformerBlock,)

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        super().check(pipeline, name, dtype)
        network, encoder = pipeline.transformer.config, pipeline.text_encoder.config
        latents = pipeline.vae.config.latent_channels
        with naming_model(name):
            check_transformer(
                network,
                latents,
                network.caption_channels,
                encoder.hidden_size,
            )

    def scheduler_of(self, pipeline: Any) -> Any:
        """Euler's method with the shift of a DPM-Solver for flows."""
        config = pipeline.scheduler.config
        if not config.get("use_flow_sigmas"):
            return pipeline.scheduler
        return FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=config.num_train_timesteps, shift=config.flow_shift
        )

    @property
    def latent_scale(self) -> int:
        return int(2 ** (len(self.vae.config.encoder_block_out_channels) - 1))

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        velocity: Tensor = network(
            z,
            encoder_hidden_states=cond[TEXT],
            encoder_attention_mask=cond[MASK],
            timestep=t * self.networks[self.denoiser].config.timestep_scale,
            return_dict=False,
        )[0]
        return velocity

    def texts(self, prompts: Sequence[str], tokenizer: Any) -> list[str]:
        return [prompt.lower().strip() for prompt in prompts]

    def tokenize(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` of instruction and prompt, ``[N, L + ...]``."""
        instruction = len(self.pipeline.tokenizer.encode(_INSTRUCTION))
        return self._tokens(prompts, _INSTRUCTION, instruction + TOKENS - 2)

    def tokenize_null(self) -> dict[str, Tensor]:
        """The same of the empty prompt, without instruction, ``[1, L]``."""
        return self._tokens([""], "", TOKENS)

    def _tokens(self, prompts: Sequence[str], before: str, length: int) -> dict[str, Tensor]:
        tokenizer = self.pipeline.tokenizer
        texts = [before + text for text in self.texts(prompts, tokenizer)]
        return padded(tokenizer, texts, length, self.device, padding_side="right")

    @torch.no_grad()
    def encode_null(self) -> dict[str, Tensor]:
        return self.embed(self.tokenize_null())

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """The first state and the last ones, L together: those of the instruction are left out."""
        text = self.networks["text_encoder"](**tokens)[0]
        kept = [0, *range(text.shape[1] - TOKENS + 1, text.shape[1])]
        return {TEXT: text[:, kept].to(self.dtype), MASK: tokens["attention_mask"][:, kept]}
