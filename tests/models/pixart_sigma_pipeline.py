"""A tiny PixArtSigmaPipeline: random weights, the embedded model's words."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel
from diffusers.utils import recurse_remove_peft_layers
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from tiny_parts import strengthen, t5, t5_words, vae

TEXT = 24
"""Width of the transformer's text, and of T5."""


def pixart_sigma_pipeline() -> PixArtSigmaPipeline:
    """With the same weights at every call."""
    tokenizer = t5_words()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = PixArtTransformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=TEXT,
        )
        strengthen(transformer, ("attn", "caption_projection", "proj_out"), std=0.3)
        encoder = t5(tokenizer, TEXT)
        decoder = vae(4, scaling_factor=0.13025)
    # The published pipelines' noise levels.
    scheduler = DDIMScheduler(
        beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False
    )
    as_from_a_file(scheduler)
    return PixArtSigmaPipeline(
        transformer=transformer.eval(),
        scheduler=scheduler,
        vae=decoder.eval(),
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
    )


def as_from_a_file(scheduler: Any) -> None:
    """Let every option count as given, as a scheduler's file gives them all."""
    scheduler.register_to_config(_use_default_values=[])


def with_peft(pipeline: Any, path: Path) -> Any:
    """``pipeline``, whose class reads no LoRAs, with what peft reads at ``path``, in its weights.
    The names and settings are those that diffusers' own loaders look for."""
    network = pipeline.transformer
    with safe_open(path / "pytorch_lora_weights.safetensors", framework="pt") as file:
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config = LoraConfig(**{k.removeprefix("transformer."): v for k, v in settings.items()})
    inject_adapter_in_model(config, network)
    own = {name.removeprefix("transformer."): value for name, value in stored.items()}
    assert not set_peft_model_state_dict(network, own).unexpected_keys
    for layer in network.modules():
        if isinstance(layer, LoraLayer):
            layer.merge()
    recurse_remove_peft_layers(network)
    return pipeline
