"""Lumina Image 2 as a denoiser: a transformer over the tokens of the text and of the picture,
conditioned on a language model's states of the prompt after a system prompt; rectified flow (Qin et
al., arXiv 2503.21758)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.models.transformers.transformer_lumina2 import Lumina2TransformerBlock
from torch import Tensor

from mitune.core.errors import UserError
from mitune.models.lumina2 import FAMILY
from mitune.models.pipeline_model import PipelineModel
from mitune.models.protocol import Conditioning, RuntimePasses
from mitune.models.texts import padded
from mitune.models.verify import check_pictures, check_transformer, naming_model

TEXT, MASK = "encoder_hidden_states", "encoder_attention_mask"
"""The conditioning tensors, by their names in the transformer's call: ``[N, L, D]``, and ``[N, L]``
int64."""
TOKENS = 256
"""Of a prompt after the system prompt, as many as the pipeline gives the encoder by default; L."""


class Lumina2(PipelineModel):
    """A Lumina2Pipeline as a :class:`mitune.models.protocol.LatentModel`.

    Raises:
        UserError: a pipeline of another family; parts that do not fit each other; weights that are
            not finite.
    """

    family = FAMILY
    denoiser = "transformer"
    tokens = TOKENS
    text_name = TEXT
    shard_blocks = (Lumina2TransformerBlock,)

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        super().check(pipeline, name, dtype)
        network, encoder = pipeline.transformer.config, pipeline.text_encoder.config
        latents = pipeline.vae.config.latent_channels
        with naming_model(name):
            check_pictures(pipeline.vae.config)
            check_transformer(network, latents, network.cap_feat_dim, encoder.hidden_size)
            # All tokens of the picture have the place after the text's last.
            if (places := network.axes_lens[0]) <= TOKENS:
                raise UserError(
                    f"the transformer has places for {places} tokens of text: expected more than "
                    f"{TOKENS}; restore axes_lens in transformer/config.json"
                )

    @property
    def passes(self) -> RuntimePasses:
        """The transformer puts each text, at its own length, before the picture: nothing is
        compiled for one shape."""
        return RuntimePasses(fixed_shapes=False)

    @property
    def largest_side(self) -> int:
        """The transformer has so many rows and columns of places."""
        return self.size_step * int(min(self.networks[self.denoiser].config.axes_lens[1:]))

    def flow_sigmas(self, steps: int) -> list[float]:
        """Evenly from 1 to 1 / steps."""
        return torch.linspace(1.0, 1 / steps, steps).tolist()

    def flow_shift(self, tokens: int, steps: int) -> float | None:
        """The pipeline takes the number of channels for that of tokens."""
        return super().flow_shift(self.latent_shape[0], steps)

    @property
    def renormalise(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Each row of a channel's latents gets the length that it has in the conditional
        prediction."""
        return _renormalised

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """The transformer's times count from noise, 0, to the picture, 1, and so does what it
        predicts."""
        made: Tensor = network(
            z,
            timestep=1 - t / 1000,
            encoder_hidden_states=cond[TEXT],
            encoder_attention_mask=cond[MASK],
            return_dict=False,
        )[0]
        return -made

    def texts(self, prompts: Sequence[str], tokenizer: Any) -> list[str]:
        return [f"{self.pipeline.system_prompt} <Prompt Start> {prompt}" for prompt in prompts]

    def tokenize_null(self) -> dict[str, Tensor]:
        """The same of the empty prompt, without system prompt, ``[1, L]``."""
        return padded(self.pipeline.tokenizer, [""], TOKENS, self.device)

    @torch.no_grad()
    def encode_null(self) -> dict[str, Tensor]:
        return self.embed(self.tokenize_null())

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """The states before the language model's last layer."""
        text = self.networks["text_encoder"](**tokens, output_hidden_states=True).hidden_states[-2]
        return {TEXT: text.to(self.dtype), MASK: tokens["attention_mask"]}


def _renormalised(guided: Tensor, cond: Tensor) -> Tensor:
    wanted, made = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (cond, guided))
    changed: Tensor = guided * (wanted / made)
    return changed
