"""Stable Diffusion 1.x and 2.x (epsilon and v-prediction) as a denoiser: a UNet conditioned on the
hidden states of one CLIP text encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from mitune.models.pipeline_model import PipelineModel
from mitune.models.protocol import Conditioning, RuntimePasses
from mitune.models.stable_diffusion import FAMILY
from mitune.models.stable_diffusion.verify import check_parts

TEXT = "encoder_hidden_states"
"""The one conditioning tensor, ``[N, L, D]``, named as in the UNet's call."""

_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}
"""kohya's sd-scripts train under these names; ComfyUI finds them in its key maps (comfy/lora.py,
model_lora_keys_unet through comfy/utils.py, unet_to_diffusers, and model_lora_keys_clip)."""


class StableDiffusion(PipelineModel):
    """A StableDiffusionPipeline as a :class:`mitune.models.protocol.LatentModel`.

    Raises:
        UserError: a pipeline that is not of this family, whose parts do not fit each other, or with
            weights that are not finite (``mitune.models.stable_diffusion.verify``).
    """

    family = FAMILY
    denoiser = "unet"
    text_name = TEXT
    # The layers that diffusers' train_dreambooth_lora adapts.
    text_targets: Mapping[str, tuple[str, ...]] = {
        "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj")
    }
    export_prefixes: Mapping[str, Mapping[str, str]] = {"comfyui": _PREFIXES, "kohya": _PREFIXES}
    shard_blocks = (BasicTransformerBlock, ResnetBlock2D)

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        super().check(pipeline, name, dtype)
        check_parts(name, pipeline)

    @property
    def passes(self) -> RuntimePasses:
        """All passes: no text reaches the UNet before its first cross-attention."""
        return RuntimePasses(
            shared_prefix=True,
            projected=TEXT,
            folded_upsampling=True,
            half_attention=True,
            # Small layers at both ends of the UNet; every element goes through them.
            float32=("conv_in", "conv_out", "time_embedding"),
            exact_block=f"up_blocks.{len(self.unet.up_blocks) - 1}.",
        )

    @property
    def unet(self) -> Any:
        """The denoiser."""
        return self.networks["unet"]

    @unet.setter
    def unet(self, network: Any) -> None:
        self.networks["unet"] = network

    @property
    def text_encoder(self) -> Any:
        """The CLIP text encoder; None if there is none."""
        return self.networks.get("text_encoder")

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the text encoder."""
        return self.pipeline.tokenizer

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """``[B, C, H, W]``; twice the rows of ``z`` if ``cond`` has twice as many."""
        prediction: Tensor = network(z, t, encoder_hidden_states=cond[TEXT], return_dict=False)[0]
        return prediction

    def tokenize(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        """``{"input_ids": [N, L]}`` int64 on the model's device, and an ``attention_mask`` of the
        same shape if the text encoder's config asks for one."""
        found = self.tokenizer(
            self.texts(prompts, self.tokenizer),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        # Some SD-2 text encoders have a config that asks for the padding to be masked; diffusers
        # honours that.
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        names = ("input_ids", "attention_mask") if masked else ("input_ids",)
        return {name: found[name].to(self.device) for name in names}

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """``{TEXT: [N, L, D]}`` in the model's dtype; gradients reach the text encoder."""
        return {TEXT: self.text_encoder(**tokens)[0].to(self.dtype)}
