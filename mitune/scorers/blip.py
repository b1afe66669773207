"""BLIP's text networks, which look at a picture while they read."""

from typing import Any

import torch
from torch import Tensor


def seen(vision: Any, pixels: Tensor) -> Tensor:
    """What a BlipVisionModel makes of pictures of any size: ``[N, patches + 1, width]``."""
    found: Tensor = vision(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
    return found


def read(text: Any, ids: Tensor, mask: Tensor, picture: Tensor) -> Tensor:
    """The last states of a BlipTextModel that reads ``ids`` ([N, tokens]) and looks at ``picture``
    (of ``seen``): ``[N, tokens, width]``."""
    found: Tensor = text(
        input_ids=ids,
        attention_mask=mask,
        encoder_hidden_states=picture,
        encoder_attention_mask=torch.ones(picture.shape[:2], dtype=torch.long, device=ids.device),
    ).last_hidden_state
    return found


def first_word(decoder: Any, start: int, question: Tensor, mask: Tensor) -> Tensor:
    """The logits ``[N, vocabulary]`` of the first word after token ``start`` of an answer to the
    question that ``read`` has read."""
    found: Tensor = decoder(
        input_ids=torch.full((len(question), 1), start, device=question.device),
        encoder_hidden_states=question,
        encoder_attention_mask=mask,
    ).logits[:, 0]
    return found
