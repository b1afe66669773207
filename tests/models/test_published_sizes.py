"""The published configurations, without weights: their size, arithmetic and adapted layers. The
numbers of parameters are those of the published weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5Config, T5EncoderModel

from mitune.config.preset import PAPER
from mitune.models.sd3.random_weights import transformer
from mitune.models.sdxl.random_weights import sdxl_unet


def _sdxl(network: Any) -> Any:
    added = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
    return network(
        torch.empty(1, 4, 128, 128),
        torch.empty(1),
        encoder_hidden_states=torch.empty(1, 77, 2048),
        added_cond_kwargs=added,
    )


def _sd3(network: Any) -> Any:
    return network(
        hidden_states=torch.empty(1, 16, 128, 128),
        timestep=torch.empty(1),
        encoder_hidden_states=torch.empty(1, 77 + 256, 4096),
        pooled_projections=torch.empty(1, 2048),
    )


@pytest.mark.parametrize(
    ("make", "call", "parameters", "teraflop", "adapted"),
    [
        # Two attentions in each of 70 blocks.
        (sdxl_unet, _sdxl, 2_567_463_684, 6.761, 560),
        (lambda: transformer("sd3-medium-random"), _sd3, 2_028_328_000, 8.904, 96),
        # 13 of 24 blocks have a second attention.
        (lambda: transformer("sd35-medium-random"), _sd3, 2_243_171_520, 11.250, 148),
        (lambda: transformer("sd35-large-random"), _sd3, 8_056_627_520, 31.121, 152),
    ],
    ids=["SDXL", "SD3 medium", "SD3.5 medium", "SD3.5 large"],
)
def test_the_architecture_is_the_published_one(
    make: Callable[[], Any],
    call: Callable[[Any], Any],
    parameters: int,
    teraflop: float,
    adapted: int,
) -> None:
    """At pictures of 1024 pixels: operations of one row's pass, attention included."""
    with torch.device("meta"):
        network = make()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            made = call(network).sample
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert made.shape[-2:] == (128, 128)
    assert round(counter.get_total_flops() / 1e12, 3) == teraflop
    ends = tuple(f".{end}" for end in PAPER.tuning.targets)
    assert sum(name.endswith(ends) for name, _ in network.named_modules()) == adapted


def test_t5_xxl_takes_19_gigabytes_in_float32() -> None:
    """The third encoder of Stable Diffusion 3: the encoder of google/t5-v1_1-xxl."""
    config = T5Config(
        vocab_size=32128,
        d_model=4096,
        d_ff=10240,
        d_kv=64,
        num_heads=64,
        num_layers=24,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        encoder = T5EncoderModel(config)
    parameters = sum(p.numel() for p in encoder.parameters())
    assert parameters == 4_762_310_656
    assert round(4 * parameters / 1e9) == 19
