"""A tiny StableDiffusionXLPipeline: random weights, the embedded model's words."""

from typing import Any

import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny_parts import clip, vae, words
from transformers import CLIPTextModel, CLIPTextModelWithProjection

WIDTHS = 8, 16
"""Of the two text encoders; the second one's is that of the pooled embedding too."""
_SIZE_WIDTH = 4


def sdxl_pipeline(**changes: Any) -> StableDiffusionXLPipeline:
    """With the same weights at every call; ``changes`` are the pipeline's."""
    tokenizer = words()
    start: Any = {
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
        "initializer_factor": 4.0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = CLIPTextModel(clip(tokenizer, WIDTHS[0], **start))
        second = CLIPTextModelWithProjection(clip(tokenizer, WIDTHS[1], **start))
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            norm_num_groups=4,
            cross_attention_dim=sum(WIDTHS),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=_SIZE_WIDTH,
            projection_class_embeddings_input_dim=WIDTHS[1] + 6 * _SIZE_WIDTH,
        )
        torch.nn.init.normal_(unet.conv_out.weight, std=0.1)
        decoder = vae(4, scaling_factor=0.13025)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    return StableDiffusionXLPipeline(
        vae=decoder.eval(),
        text_encoder=first.eval(),
        text_encoder_2=second.eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        add_watermarker=False,
        **changes,
    )
