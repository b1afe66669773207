"""Hunyuan-DiT as a denoiser: a transformer with cross-attention to the hidden states of a bilingual
BERT and of a multilingual T5, which predicts v (Li et al., arXiv 2405.08748)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.models.transformers.hunyuan_transformer_2d import HunyuanDiTBlock
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from torch import Tensor

from mitune.core.errors import UserError
from mitune.models.hunyuan_dit import FAMILY
from mitune.models.pipeline_model import PipelineModel
from mitune.models.protocol import Conditioning
from mitune.models.texts import padded
from mitune.models.verify import check_diffusion, check_transformer, check_vae, naming_model

TEXTS = "encoder_hidden_states", "encoder_hidden_states_t5"
MASKS = "text_embedding_mask", "text_embedding_mask_t5"
SIZES = "image_meta_size"
"""The conditioning tensors, by their names in the transformer's call: ``[N, L, D]`` and ``[N, L]``
int64 of each text encoder; and ``[N, 6]``, original size, target size and crop, each (height,
width) in pixels."""
LENGTHS = 77, 256
"""Of a prompt, as many tokens as the pipeline gives each encoder; L."""
_ORIGINAL = 1024, 1024
"""The pipeline's default, whatever the picture's size."""
_BASE = 64
"""Latents along the side of the square to which every picture's places are scaled."""


class HunyuanDiT(PipelineModel):
    """A HunyuanDiTPipeline as a :class:`mitune.models.protocol.LatentModel`, of versions 1.0 to
    1.2.

    The pipeline draws pictures of listed sizes in place of others; here the transformer draws the
    size that was asked for, as with ``use_resolution_binning=False``. As in the pipeline, the
    transformer takes its timestep in its own dtype: bfloat16 rounds those above 512 to multiples
    of 4.

    Raises:
        UserError: a pipeline of another family; parts that do not fit each other; weights that are
            not finite.
    """

    family = FAMILY
    denoiser = "transformer"
    tokens = LENGTHS[1]
    text_name = TEXTS[0]
    encoders = "text_encoder", "text_encoder_2"
    tokenizers = "tokenizer", "tokenizer_2"
    shard_blocks = (HunyuanDiTBlock,)

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        super().check(pipeline, name, dtype)
        network, second = pipeline.transformer.config, pipeline.text_encoder_2.config
        with naming_model(name):
            check_vae(pipeline.vae.config)
            check_transformer(
                network,
                pipeline.vae.config.latent_channels,
                network.cross_attention_dim,
                pipeline.text_encoder.config.hidden_size,
            )
            for option, expected, why in (
                ("cross_attention_dim_t5", second.d_model, "the width of text_encoder_2's text"),
                ("text_len", LENGTHS[0], "the tokens that the pipeline gives the text_encoder"),
                ("text_len_t5", LENGTHS[1], "those that it gives the text_encoder_2"),
                ("learn_sigma", True, "as the pipeline drops half of the channels"),
            ):
                if network[option] != expected:
                    raise UserError(
                        f"the transformer's {option} is {network[option]}: expected {expected}, "
                        f"{why}; give the parts of one published model"
                    )
            check_diffusion(pipeline.scheduler)

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """The second half of the channels is a learned variance, which the pipeline drops, too."""
        config = self.networks[self.denoiser].config
        height, width = (side // self.patch for side in z.shape[-2:])
        region = get_resize_crop_region_for_grid((height, width), _BASE // self.patch)
        prediction: Tensor = network(
            z,
            t.to(z.dtype),
            **{name: cond[name] for name in (*TEXTS, *MASKS, SIZES)},
            style=torch.zeros(len(z), dtype=torch.int64, device=z.device),
            image_rotary_emb=get_2d_rotary_pos_embed(
                config.attention_head_dim, region, (height, width), device=z.device
            ),
            return_dict=False,
        )[0]
        return prediction[:, : z.shape[1]].contiguous()

    def tokenize(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        """For each tokenizer ``{name: [N, L]}`` int64 on the model's device, and its mask by the
        mask's name in the conditioning."""
        found = {}
        for part, mask, length in zip(self.tokenizers, MASKS, LENGTHS, strict=True):
            made = padded(getattr(self.pipeline, part), prompts, length, self.device)
            found[part], found[mask] = made["input_ids"], made["attention_mask"]
        return found

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """Both encoders' last states, their masks, and the size of an uncropped picture."""
        made = {mask: tokens[mask] for mask in MASKS}
        for encoder, part, text, mask in zip(
            self.encoders, self.tokenizers, TEXTS, MASKS, strict=True
        ):
            states = self.networks[encoder](tokens[part], attention_mask=tokens[mask])[0]
            made[text] = states.to(self.dtype)
        numbers = states.new_tensor([*_ORIGINAL, *self.picture_size, 0, 0])
        return made | {SIZES: numbers.to(self.dtype).repeat(len(states), 1)}
