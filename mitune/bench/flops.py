"""Count the floating-point operations of a denoiser's pass, and look up the peak of a device."""

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from mitune.models.protocol import LatentModel, denoiser_of
from mitune.runtime.attention import set_attention

PEAKS = {
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
}
"""Peak FLOP/s of the tensor cores in dense bfloat16 and float16, for the SXM boards, from NVIDIA's
data sheets."""


def denoiser_flops(model: LatentModel) -> float:
    """Floating-point operations of the denoiser's pass for one row. A multiply-add counts as two;
    the two matrix products of attention are included."""
    # The meta device computes nothing. Attention runs as matrix products, which the counter knows
    # on every device.
    empty = copy.deepcopy(denoiser_of(model)).to("meta")
    if hasattr(empty, "set_attn_processor"):
        set_attention(empty, "math", "eager")
    dtype = next(empty.parameters()).dtype
    z = torch.empty(1, *model.latent_shape, device="meta", dtype=dtype)
    cond = {n: torch.empty_like(x, device="meta") for n, x in model.encode_null().items()}
    cond = {n: x.to(dtype) if x.is_floating_point() else x for n, x in cond.items()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.call(empty, z, torch.empty(1, device="meta"), cond)
    return float(counter.get_total_flops())


def peak_flops(device: torch.device) -> float | None:
    """The device's peak for half-precision matrix products, FLOP/s; None if it is not known. The
    utilization (MFU) of every rung refers to it."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for board, peak in PEAKS.items() if board in name), None)
