"""The published configurations, without weights: their size, arithmetic and adapted layers. The
numbers of parameters are those of the published weights."""

from collections.abc import Callable
from typing import Any

import diffusers
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


def _flux(network: Any, **more: Any) -> Any:
    return network(
        hidden_states=torch.empty(1, 4096, network.config.in_channels),
        timestep=torch.empty(1),
        encoder_hidden_states=torch.empty(1, 512, network.config.joint_attention_dim),
        txt_ids=torch.empty(512, len(network.config.axes_dims_rope)),
        img_ids=torch.empty(4096, len(network.config.axes_dims_rope)),
        **more,
    )


def _flux_dev(network: Any) -> Any:
    return _flux(network, guidance=torch.empty(1), pooled_projections=torch.empty(1, 768))


def _chroma(network: Any) -> Any:
    return _flux(network, attention_mask=torch.empty(1, 512 + 4096))


def _qwen_image(network: Any) -> Any:
    return network(
        hidden_states=torch.empty(1, 4096, 64),
        timestep=torch.empty(1),
        encoder_hidden_states=torch.empty(1, 512, 3584),
        encoder_hidden_states_mask=torch.ones(1, 512, dtype=torch.bool),
        img_shapes=[[(1, 64, 64)]],
    )


def _masked(network: Any) -> Any:
    config, side = network.config, network.config.sample_size
    more = {} if "norm_type" not in config else {"added_cond_kwargs": _NO_SIZE}
    return network(
        torch.empty(1, config.in_channels, side, side),
        encoder_hidden_states=torch.empty(1, 300, config.caption_channels),
        encoder_attention_mask=torch.empty(1, 300),
        timestep=torch.empty(1),
        **more,
    )


_NO_SIZE = {"resolution": None, "aspect_ratio": None}


def _aura_flow(network: Any) -> Any:
    return network(
        torch.empty(1, 4, 128, 128),
        encoder_hidden_states=torch.empty(1, 256, 2048),
        timestep=torch.empty(1),
    )


def _cogview4(network: Any) -> Any:
    """Of a text of 16 tokens, the least."""
    return network(
        hidden_states=torch.empty(1, 16, 128, 128),
        timestep=torch.empty(1),
        encoder_hidden_states=torch.empty(1, 16, 4096),
        original_size=torch.empty(1, 2),
        target_size=torch.empty(1, 2),
        crop_coords=torch.empty(1, 2),
    )


@pytest.mark.parametrize(
    ("kind", "config", "call", "parameters", "teraflop", "adapted"),
    [
        # Four layers of a double block, three of a single one.
        ("FluxTransformer2DModel", {"guidance_embeds": True}, _flux_dev, 11.901, 74.385, 190),
        ("ChromaTransformer2DModel", {}, _chroma, 8.900, 74.569, 190),
        ("QwenImageTransformer2DModel", {}, _qwen_image, 20.430, 78.304, 240),
        (
            "Flux2Transformer2DModel",
            {
                "in_channels": 128,
                "num_layers": 5,
                "num_single_layers": 20,
                "num_attention_heads": 24,
                "joint_attention_dim": 7680,
                "guidance_embeds": False,
            },
            _flux,
            3.876,
            34.820,
            20,  # the single blocks have their projections in one layer, of another name
        ),
        (
            "PixArtTransformer2DModel",
            {
                "sample_size": 128,
                "interpolation_scale": 2,
                "caption_channels": 4096,
                "use_additional_conditions": False,
            },
            _masked,
            0.611,
            6.634,
            224,
        ),
        ("SanaTransformer2DModel", {}, _masked, 1.604, 2.967, 160),
        (
            "AuraFlowTransformer2DModel",
            {
                "pos_embed_max_size": 9216,
                "attention_head_dim": 256,
                "num_attention_heads": 12,
                "caption_projection_dim": 3072,
            },
            _aura_flow,
            6.859,
            43.968,
            144,
        ),
        (
            "CogView4Transformer2DModel",
            {"num_layers": 28, "attention_head_dim": 128, "num_attention_heads": 32},
            _cogview4,
            6.369,
            54.123,
            112,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_families_have_the_published_size(
    kind: str,
    config: dict[str, Any],
    call: Callable[[Any], Any],
    parameters: float,
    teraflop: float,
    adapted: int,
) -> None:
    """Billions of parameters, and one row's pass at 1024 pixels. The configurations are the
    classes' defaults, except what stands here, from memory: the totals are the published ones."""
    with torch.device("meta"):
        network = getattr(diffusers, kind)(**config)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call(network)
    assert round(sum(p.numel() for p in network.parameters()) / 1e9, 3) == parameters
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
