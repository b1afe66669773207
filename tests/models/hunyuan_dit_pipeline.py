"""A tiny HunyuanDiTPipeline: random weights, the embedded model's words."""

from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
from pixart_sigma_pipeline import as_from_a_file
from tiny_parts import strengthen, t5, t5_words, vae
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mitune.worlds.shapes_v1.prompts import prompts

TEXT, TEXT_2 = 16, 24
"""Widths of BERT's text and of T5's."""


def bert_words() -> Any:
    """A tokenizer that marks both ends of a text, as BERT's; it knows the embedded world's
    words."""
    found = sorted({word for text in prompts("train") for word in text.split()})
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *found])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=77
    )


def hunyuan_dit_pipeline(**changes: Any) -> HunyuanDiTPipeline:
    """With the same weights at every call; ``changes`` are the transformer's. It takes the
    picture's size, as versions before 1.2 do."""
    tokenizer, tokenizer_2 = bert_words(), t5_words()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = HunyuanDiT2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            patch_size=2,
            sample_size=8,
            hidden_size=16,
            num_layers=4,  # the fewest with a skip
            cross_attention_dim=TEXT,
            cross_attention_dim_t5=TEXT_2,
            pooled_projection_dim=16,
            **changes,
        )
        strengthen(transformer, ("attn", "text_embedder", "pooler", "proj_out"), std=0.3)
        encoder = BertModel(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT,
                intermediate_size=2 * TEXT,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=80,
                initializer_range=0.5,
            )
        )
        encoder_2 = t5(tokenizer_2, TEXT_2)
        decoder = vae(4, scaling_factor=0.13025)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.018,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
        timestep_spacing="leading",
    )
    as_from_a_file(scheduler)
    return HunyuanDiTPipeline(
        transformer=transformer.eval(),
        scheduler=scheduler,
        vae=decoder.eval(),
        text_encoder=encoder.eval(),
        text_encoder_2=encoder_2.eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
