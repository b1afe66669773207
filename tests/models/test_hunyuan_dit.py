"""What Hunyuan-DiT's versions differ in, and what is refused."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from family_cases import CASES, check_drawing
from hunyuan_dit_pipeline import hunyuan_dit_pipeline

import mitune
from mitune.core.errors import UserError


def test_version_1_2_is_given_no_size() -> None:
    newer = partial(hunyuan_dit_pipeline, use_style_cond_and_image_meta_size=False)
    check_drawing(replace(CASES["Hunyuan-DiT"], pipeline=newer), "eager")


def test_a_picture_that_is_not_square() -> None:
    """The places of its tokens depend on both sides."""
    check_drawing(replace(CASES["Hunyuan-DiT"], size=(96, 64)), "eager")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cross_attention_dim_t5": 9}, "expected 24, the width of text_encoder_2's text"),
        ({"text_len": 50}, "expected 77, the tokens that the pipeline gives"),
        ({"text_len_t5": 50}, "expected 256"),
        ({"learn_sigma": False}, "expected True"),
    ],
)
def test_what_is_refused(change: dict[str, Any], words: str) -> None:
    pipeline = hunyuan_dit_pipeline()
    pipeline.transformer.register_to_config(**change)
    with pytest.raises(UserError, match=words):
        mitune.load(pipeline)
