"""Texts on their way to an encoder, as several families bring them there."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MASK = "attention_mask"
"""Of a text's own tokens, by the tokenizers' name."""


def padded(
    tokenizer: Any, texts: Sequence[str], length: int, device: torch.device, **options: Any
) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask``, ``[N, length]`` int64 on the device; longer texts are
    cut. ``options`` are the tokenizer's."""
    found = tokenizer(
        list(texts),
        padding="max_length",
        max_length=length,
        truncation=True,
        return_attention_mask=True,
        return_tensors="pt",
        **options,
    )
    return {name: found[name].to(device) for name in ("input_ids", MASK)}


def as_chat(tokenizer: Any, prompts: Sequence[str], *, thinking: bool) -> list[str]:
    """The prompts as a user's words in a language model's chat template, before its answer."""
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )
        for prompt in prompts
    ]


def own_first(states: Tensor, mask: Tensor, left_out: int = 0) -> tuple[Tensor, Tensor]:
    """States ``[N, L, D]`` and their mask ``[N, L]`` (bool) with the text's own tokens first,
    wherever the tokenizer pads, and zeros for the others; without the first ``left_out`` tokens."""
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, left_out:]
    kept = states.masked_fill(~mask[..., None], 0.0)
    return kept.gather(1, order[..., None].expand(-1, -1, states.shape[-1])), mask.gather(1, order)
