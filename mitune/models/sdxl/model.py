"""Stable Diffusion XL as a denoiser: a UNet conditioned on the hidden states of two CLIP text
encoders, the second one's pooled embedding and the picture's size (Podell et al., arXiv
2307.01952)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from mitune.models.pipeline_model import PipelineModel
from mitune.models.protocol import Conditioning, RuntimePasses
from mitune.models.sdxl import FAMILY
from mitune.models.sdxl.verify import check_conditioning
from mitune.models.verify import check_tokenizer, check_unet, check_vae, naming_model

TEXT, POOLED, SIZES = "encoder_hidden_states", "text_embeds", "time_ids"
"""The conditioning tensors, by their names in the UNet's call: ``[N, L, D]``, ``[N, P]``, and
``[N, 6]`` original size, crop and target size, each (height, width) in pixels."""
_NULL = "null"
"""In what ``embed`` takes: ``[N]`` bool, the rows that stand for no prompt."""

_PREFIXES = {
    "unet": "lora_unet_",
    "text_encoder": "lora_te1_text_model_",
    "text_encoder_2": "lora_te2_text_model_",
}
"""As for the older models; te1 and te2 are kohya's and ComfyUI's names of the two encoders."""


class SDXL(PipelineModel):
    """A StableDiffusionXLPipeline as a :class:`mitune.models.protocol.LatentModel`. The UNet is
    given the pictures' size as the size of an uncropped original.

    No prompt is zeros in place of both embeddings where the pipeline's
    ``force_zeros_for_empty_prompt`` says so, as in the published base model; else it is the empty
    prompt.

    Raises:
        UserError: a pipeline of another family; parts that do not fit each other, such as those of
            the refiner; weights that are not finite.
    """

    family = FAMILY
    denoiser = "unet"
    text_name, pooled_name = TEXT, POOLED
    encoders = "text_encoder", "text_encoder_2"
    tokenizers = "tokenizer", "tokenizer_2"
    # As diffusers' train_dreambooth_lora_sdxl.
    text_targets: Mapping[str, tuple[str, ...]] = dict.fromkeys(
        encoders, ("q_proj", "k_proj", "v_proj", "out_proj")
    )
    export_prefixes: Mapping[str, Mapping[str, str]] = {"comfyui": _PREFIXES, "kohya": _PREFIXES}
    shard_blocks = (BasicTransformerBlock, ResnetBlock2D)

    def __init__(self, pipeline: Any, name: str, **options: Any) -> None:
        super().__init__(pipeline, name, **options)
        self.zero_null = bool(pipeline.config.get("force_zeros_for_empty_prompt", True))
        self.parts = {**self.parts, "no_prompt": {"zeros": self.zero_null}}

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        super().check(pipeline, name, dtype)
        with naming_model(name):
            encoders = [getattr(pipeline, part).config for part in self.encoders]
            check_unet(pipeline.unet.config, pipeline.vae.config)
            check_conditioning(pipeline.unet, encoders)
            check_vae(pipeline.vae.config)
            for part, encoder in zip(self.tokenizers, encoders, strict=True):
                check_tokenizer(part, getattr(pipeline, part), encoder)

    @property
    def passes(self) -> RuntimePasses:
        """All but the shared prefix: the pooled text is in every residual block's embedding."""
        unet = self.networks["unet"]
        return RuntimePasses(
            projected=TEXT,
            folded_upsampling=True,
            half_attention=True,
            float32=("conv_in", "conv_out", "time_embedding", "add_embedding"),
            exact_block=f"up_blocks.{len(unet.up_blocks) - 1}.",
        )

    def pipeline_with(self, networks: Mapping[str, Any]) -> Any:
        parts = self.pipeline.components | dict(networks)
        kept = {"force_zeros_for_empty_prompt": self.zero_null}
        return type(self.pipeline)(**parts, **self.family.options, **kept)

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        added = {name: cond[name] for name in (POOLED, SIZES)}
        prediction: Tensor = network(
            z, t, encoder_hidden_states=cond[TEXT], added_cond_kwargs=added, return_dict=False
        )[0]
        return prediction

    def tokenize(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        """``{tokenizer: [N, L]}`` int64 on the device, the size of an uncropped picture, and
        which rows are no prompt."""
        found = {}
        for name in self.tokenizers:
            tokenizer = getattr(self.pipeline, name)
            texts = self.texts(prompts, tokenizer)
            ids = tokenizer(
                texts, padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids
            found[name] = ids.to(self.device)
        height, width = self.picture_size
        sizes = torch.tensor([height, width, 0, 0, height, width], device=self.device)
        found[SIZES] = sizes.repeat(len(prompts), 1)
        found[_NULL] = torch.zeros(len(prompts), dtype=torch.bool, device=self.device)
        return found

    def tokenize_null(self) -> dict[str, Tensor]:
        row = self.tokenize([""])
        return row | {_NULL: torch.full_like(row[_NULL], self.zero_null)}

    @torch.no_grad()
    def encode_null(self) -> dict[str, Tensor]:
        return self.embed(self.tokenize_null())

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """Both encoders' states before their last layer, the second one's projection, and the
        sizes; gradients reach the text encoders."""
        states = []
        for encoder, tokenizer in zip(self.encoders, self.tokenizers, strict=True):
            made = self.networks[encoder](tokens[tokenizer], output_hidden_states=True)
            states.append(made.hidden_states[-2])
        empty = tokens[_NULL]
        text = torch.cat(states, dim=-1).masked_fill(empty[:, None, None], 0.0)
        pooled = made.text_embeds.masked_fill(empty[:, None], 0.0)
        made = {TEXT: text, POOLED: pooled, SIZES: tokens[SIZES]}
        return {name: x.to(self.dtype) for name, x in made.items()}
