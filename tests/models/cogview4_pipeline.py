"""A tiny CogView4Pipeline: random weights, a tokenizer of letters, so that the tests' texts are of
several lengths."""

from typing import Any

import torch
from diffusers import (
    CogView4Pipeline,
    CogView4Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from tiny_parts import language_model, strengthen, vae
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import GlmModel, PreTrainedTokenizerFast

from mitune.worlds.shapes_v1.prompts import prompts

TEXT = 24
"""Width of the transformer's text, and of the language model."""


def _letters() -> Any:
    """Every letter is a token, and two tokens stand before every text, as GLM's do."""
    found = sorted(set("".join(prompts("train"))))
    special = ["<pad>", "<unk>", "<mask>", "<start>"]
    ids = {token: i for i, token in enumerate([*special, *found])}
    backend = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = Split(Regex("."), "isolated")
    backend.post_processor = TemplateProcessing(
        single="<mask> <start> $A", special_tokens=[(t, ids[t]) for t in ("<mask>", "<start>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=2048,
    )


def cogview4_pipeline() -> CogView4Pipeline:
    """With the same weights at every call."""
    tokenizer = _letters()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = CogView4Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=16,
            text_embed_dim=TEXT,
            time_embed_dim=16,
            condition_dim=8,
        )
        strengthen(transformer, ("attn1.to", "proj_out", "norm1.linear", "text_proj"), std=0.3)
        encoder = language_model(
            GlmModel,
            tokenizer,
            TEXT,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.pad_token_id,
        )
        decoder = vae(4)
    return CogView4Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, time_shift_type="linear", base_shift=0.25, max_shift=0.75
        ),
        vae=decoder.eval(),
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
    )
