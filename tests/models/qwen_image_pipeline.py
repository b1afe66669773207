"""A tiny QwenImagePipeline: random weights, the embedded model's words in the family's template."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tiny_parts import strengthen
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from mitune.worlds.shapes_v1.prompts import prompts

TEXT = 24
"""Width of the transformer's text, and of the language model."""


def template_words() -> Any:
    """A tokenizer that counts a template as Qwen's does: a token for each word, mark, newline and
    sign of a turn. It knows the embedded world's words."""
    found = sorted({word for text in prompts("train") for word in text.split()})
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", *found])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    backend.add_tokens(
        [AddedToken(sign, normalized=False) for sign in ("<|im_start|>", "<|im_end|>", "\n")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", model_max_length=1024
    )


def _language_model(tokenizer: Any) -> Qwen2_5_VLForConditionalGeneration:
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": TEXT,
            "intermediate_size": 2 * TEXT,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "initializer_range": 0.5,
            "bos_token_id": None,
            "eos_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2, 2, 2],
            },
        },
        vision_config={
            "depth": 1,
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_heads": 2,
            "out_hidden_size": TEXT,
            "fullatt_block_indexes": [0],
        },
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen_image_pipeline(**options: Any) -> QwenImagePipeline:
    """With the same weights at every call; ``options`` are the transformer's."""
    tokenizer = template_words()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT,
            axes_dims_rope=(4, 6, 6),
            **options,
        )
        strengthen(transformer, ("attn.to_", "attn.add_", "txt_in", "proj_out"), std=0.3)
        encoder = _language_model(tokenizer)
        decoder = AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[-0.5, 0.2, 0.0, 1.0],
            latents_std=[2.0, 1.5, 1.0, 3.0],
        )
    return QwenImagePipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_image_seq_len=16,
            max_image_seq_len=64,
            max_shift=0.9,
            shift_terminal=0.02,
        ),
        vae=decoder.eval(),
        text_encoder=encoder,
        tokenizer=tokenizer,
    )
