"""A tiny Flux2KleinPipeline: random weights, the embedded model's words in a chat template."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from tiny_parts import chat_words, language_model, strengthen
from torch import Tensor
from transformers import Qwen3ForCausalLM

WIDTH, LAYERS = 8, 28
"""Of the language model, of which the pipeline takes the states after 9, 18 and 27 layers."""


def _autoencoder() -> AutoencoderKLFlux2:
    made = AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    made.bn.running_mean.normal_()
    made.bn.running_var.uniform_(0.5, 3.0)
    return made.eval()


def flux2_klein_pipeline(is_distilled: bool = False) -> Flux2KleinPipeline:
    """With the same weights at every call."""
    tokenizer = chat_words()
    # As Qwen3's template, it says something where the model is not to think first.
    tokenizer.chat_template += "{% if enable_thinking is false %} <unk> <unk>{% endif %}"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * WIDTH,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
        strengthen(transformer, ("attn.", "context_embedder", "proj_out"), std=0.3)
        encoder = language_model(
            Qwen3ForCausalLM, tokenizer, WIDTH, layers=LAYERS, head=4, tie_word_embeddings=True
        )
        decoder = _autoencoder()
    return Flux2KleinPipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=decoder,
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
        is_distilled=is_distilled,
    )


def before_decoding(z: Tensor) -> Tensor:
    """The pipeline's latents as it returns them: as its autoencoder decodes them."""
    vae: Any = flux2_klein_pipeline().vae
    spread = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
    scaled = z * spread[:, None, None] + vae.bn.running_mean[:, None, None]
    made: Tensor = Flux2KleinPipeline._unpatchify_latents(scaled)
    return made
