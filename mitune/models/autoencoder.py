"""Pictures and latents through diffusers' AutoencoderKL or AutoencoderDC, in its own dtype."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_MOST, _PIXELS = 64, 2**21
"""Pictures in one batch: at most so many, and of so many pixels, since a layer of the decoder takes
a kilobyte a pixel and has several results in memory (docs/families.md has the peak)."""


def decode(vae: Any, latents: Tensor, scale: int) -> Tensor:
    """Pictures ``[N, 3, h, w]`` float32 in [0, 1] on the CPU.

    Args:
        vae: an AutoencoderKL or AutoencoderDC.
        latents: ``[N, C, H, W]`` float32 on its device, in the sampler's scale.
        scale: pixels of a latent's side.
    """
    return pictures(vae, latents / vae.config.scaling_factor + _shift(vae), scale)


def encode(vae: Any, images: Tensor) -> Tensor:
    """Latents ``[N, C, H, W]`` float32 of pictures ``[N, 3, h, w]`` in [0, 1] on the device of
    ``vae``: the mode of the encoder's distribution where it makes one."""
    return (modes(vae, images) - _shift(vae)) * float(vae.config.scaling_factor)


@torch.no_grad()
def pictures(vae: Any, latents: Tensor, scale: int) -> Tensor:
    """What ``vae`` itself decodes, in batches: ``[N, 3, ..., h, w]`` float32 in [0, 1] on the CPU,
    of latents ``[N, C, ..., H, W]`` in its own scale."""
    with _holding_its_numbers(vae):
        chunks = latents.to(vae.dtype).split(batch_of(latents.shape[-2:], scale))
        parts = [vae.decode(chunk, return_dict=False)[0] for chunk in chunks]
    made = torch.cat(parts) if parts else latents.new_zeros(0, 3, 1, 1)
    return (made.float() / 2 + 0.5).clamp(0, 1).cpu()


@torch.no_grad()
def modes(vae: Any, images: Tensor) -> Tensor:
    """What ``vae`` itself encodes, in batches: latents in its own scale, float32, of pictures
    ``[N, 3, ..., h, w]`` in [0, 1]."""
    with _holding_its_numbers(vae):
        chunks = (images * 2 - 1).to(vae.dtype).split(batch_of(images.shape[-2:]))
        return torch.cat([_latents(vae.encode(chunk)).float() for chunk in chunks])


def batch_of(side: torch.Size, scale: int = 1) -> int:
    """How many pictures are one batch.

    Args:
        side: (height, width) of the latents, or of the pictures.
        scale: pixels of that side's unit.
    """
    return max(1, min(_MOST, _PIXELS // (side.numel() * scale**2)))


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
