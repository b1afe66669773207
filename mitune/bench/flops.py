"""How much arithmetic a denoiser's pass is, and how much a device can do at best."""

import copy
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch.utils.flop_counter import FlopCounterMode

PEAKS = {
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
}
"""Dense bfloat16 and float16 tensor-core peaks of the SXM boards, FLOP/s, from NVIDIA's data
sheets."""


def denoiser_flops(unet: Any, latent_shape: tuple[int, ...], text: tuple[int, int]) -> float:
    """Floating-point operations of one row's pass, a multiply-add as two, attention's two products
    among them.

    Args:
        unet: a diffusers UNet2DConditionModel; unchanged.
        latent_shape: (C, H, W).
        text: (length, width) of the text embedding.
    """
    # On the meta device nothing is computed; and attention as matrix products, which the counter
    # knows on every device.
    empty = copy.deepcopy(unet).to("meta")
    empty.set_attn_processor(AttnProcessor())
    z, t = torch.empty(1, *latent_shape, device="meta"), torch.empty(1, device="meta")
    hidden = torch.empty(1, *text, device="meta")
    dtype = next(empty.parameters()).dtype
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        empty(z.to(dtype), t, encoder_hidden_states=hidden.to(dtype), return_dict=False)
    return float(counter.get_total_flops())


def peak_flops(device: torch.device) -> float | None:
    """The device's peak for half-precision matrices, FLOP/s, which every rung is held against; None
    where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for board, peak in PEAKS.items() if board in name), None)
