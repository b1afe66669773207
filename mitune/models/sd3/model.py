"""Stable Diffusion 3 and 3.5 as a denoiser: a transformer of joint attention, conditioned on the
hidden states of two CLIP text encoders and of T5, and on the pooled embeddings of the first two;
rectified flow (Esser et al., arXiv 2403.03206)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.attention import JointTransformerBlock
from torch import Tensor
from torch.nn import functional as F

from mitune.models.pipeline_model import PipelineModel
from mitune.models.protocol import Conditioning
from mitune.models.sd3 import FAMILY
from mitune.models.sd3.verify import check_parts

TEXT, POOLED = "encoder_hidden_states", "pooled_projections"
"""The conditioning tensors, by their names in the transformer's call: ``[N, L, D]``, the CLIP
tokens before those of T5, and ``[N, P]``."""
T5_TOKENS = 256
"""Tokens of the third encoder, as many as the pipeline gives it by default."""


class SD3(PipelineModel):
    """A StableDiffusion3Pipeline as a :class:`mitune.models.protocol.LatentModel`. Without the
    third encoder its text is zeros, as in the pipeline.

    Raises:
        UserError: a pipeline of another family; parts that do not fit each other; weights that are
            not finite.
    """

    family = FAMILY
    denoiser = "transformer"
    tokens = T5_TOKENS
    text_name, pooled_name = TEXT, POOLED
    encoders = "text_encoder", "text_encoder_2", "text_encoder_3"
    tokenizers = "tokenizer", "tokenizer_2", "tokenizer_3"
    # As diffusers' train_dreambooth_lora_sd3, which leaves the third encoder as it is.
    text_targets: Mapping[str, tuple[str, ...]] = dict.fromkeys(
        ("text_encoder", "text_encoder_2"), ("q_proj", "k_proj", "v_proj", "out_proj")
    )
    # ComfyUI finds diffusers' names of this transformer after OneTrainer's prefix (comfy/lora.py);
    # kohya's own have the projections of an attention in one layer.
    export_prefixes: Mapping[str, Mapping[str, str]] = {
        "comfyui": {
            "transformer": "lora_transformer_",
            "text_encoder": "lora_te1_text_model_",
            "text_encoder_2": "lora_te2_text_model_",
        }
    }
    shard_blocks = (JointTransformerBlock,)

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        super().check(pipeline, name, dtype)
        check_parts(name, pipeline)

    @property
    def largest_side(self) -> int:
        """The transformer has so many places."""
        return self.size_step * int(self.networks[self.denoiser].config.pos_embed_max_size)

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        velocity: Tensor = network(
            hidden_states=z,
            timestep=t,
            encoder_hidden_states=cond[TEXT],
            pooled_projections=cond[POOLED],
            return_dict=False,
        )[0]
        return velocity

    def tokenize(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        """``{tokenizer: [N, L]}`` int64 on the model's device."""
        found = {}
        for name in self.tokenizers:
            if (tokenizer := getattr(self.pipeline, name)) is None:
                continue
            length = tokenizer.model_max_length
            ids = tokenizer(
                list(prompts),
                padding="max_length",
                max_length=T5_TOKENS if name == "tokenizer_3" else length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            found[name] = ids.to(self.device)
        return found

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """The CLIP encoders' states before their last layer, side by side and padded to T5's width,
        then T5's; gradients reach the CLIP encoders."""
        clip, pooled = [], []
        for encoder, tokenizer in zip(self.encoders[:2], self.tokenizers, strict=False):
            made = self.networks[encoder](tokens[tokenizer], output_hidden_states=True)
            clip.append(made.hidden_states[-2])
            pooled.append(made.text_embeds)
        short = torch.cat(clip, dim=-1)
        width = self.networks[self.denoiser].config.joint_attention_dim
        if (third := self.networks.get("text_encoder_3")) is None:
            long = short.new_zeros(len(short), T5_TOKENS, width)
        else:
            long = third(tokens["tokenizer_3"])[0]
        text = torch.cat([F.pad(short, (0, width - short.shape[-1])), long], dim=1)
        return {TEXT: text.to(self.dtype), POOLED: torch.cat(pooled, dim=-1).to(self.dtype)}
