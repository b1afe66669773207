"""Pictures and latents through diffusers' AutoencoderKL or AutoencoderDC, in its own dtype."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_CHUNK = 64
"""Number of pictures in one batch."""


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Pictures ``[N, 3, h, w]`` float32 in [0, 1] on the CPU.

    Args:
        vae: an AutoencoderKL or AutoencoderDC.
        latents: ``[N, C, H, W]`` float32 on its device, in the sampler's scale.
    """
    scaled = latents / vae.config.scaling_factor + _shift(vae)
    with _holding_its_numbers(vae):
        chunks = scaled.to(vae.dtype).split(_CHUNK)
        parts = [vae.decode(chunk, return_dict=False)[0] for chunk in chunks]
    pictures = torch.cat(parts) if parts else latents.new_zeros(0, 3, 1, 1)
    return (pictures.float() / 2 + 0.5).clamp(0, 1).cpu()


@torch.no_grad()
def encode(vae: Any, images: Tensor) -> Tensor:
    """Latents ``[N, C, H, W]`` float32 of pictures ``[N, 3, h, w]`` in [0, 1] on the device of
    ``vae``: the mode of the encoder's distribution where it makes one."""
    with _holding_its_numbers(vae):
        chunks = (images * 2 - 1).to(vae.dtype).split(_CHUNK)
        parts = [_latents(vae.encode(chunk)).float() for chunk in chunks]
    return (torch.cat(parts) - _shift(vae)) * float(vae.config.scaling_factor)


def _latents(made: Any) -> Tensor:
    found: Tensor = made.latent if hasattr(made, "latent") else made.latent_dist.mode()
    return found


def _shift(vae: Any) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0


@contextmanager
def _holding_its_numbers(vae: Any) -> Iterator[None]:
    """Let a VAE in float16 compute in float32 if its config says that its numbers leave that
    range."""
    if vae.dtype != torch.float16 or not vae.config.get("force_upcast"):
        yield
        return
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(torch.float16)
