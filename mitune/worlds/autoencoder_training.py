"""How the autoencoder of a small world is trained: on newly drawn pictures in each step."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

KL_WEIGHT = 1e-3
L1_WEIGHT = 0.1

Draw = Callable[[int, torch.Generator], Tensor]
"""So many pictures ``[N, 3, h, w]`` in [0, 1]."""


def train_autoencoder(
    folder: Path,
    make: Callable[[], AutoencoderKL],
    draw: Draw,
    *,
    steps: int,
    batch: int,
    seed: int,
    peak_lr: float = 3e-3,
    samples: int = 1024,
    at_once: int = 1,
) -> dict[str, float]:
    """Train an autoencoder and save it in ``folder`` with a scaling factor that gives unit-variance
    latents.

    The loss is ``mean (x' - x)^2 + 0.1 mean |x' - x| + 1e-3 KL`` with pixels in [-1, 1] and the KL
    per latent element.

    Args:
        make: makes it with random weights, after torch is seeded.
        draw: makes the pictures of a step.
        samples: pictures that the scaling factor is measured on.
        at_once: batches that are drawn in one call, where drawing many pictures is cheaper.

    Returns:
        The numbers for the model card: reconstruction error and standard deviation of the latents
        on new pictures, seconds.
    """
    start = time.perf_counter()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    model = make().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak_lr, total_steps=steps, pct_start=0.1
    )
    drawn: list[Tensor] = []
    for step in range(steps):
        drawn = drawn or list(draw(batch * at_once, generator).split(batch))
        pictures = drawn.pop() * 2 - 1
        posterior = model.encode(pictures).latent_dist
        latents = posterior.sample(generator=generator)
        error = model.decode(latents).sample - pictures
        kl = posterior.kl().mean() / latents[0].numel()
        loss = error.square().mean() + L1_WEIGHT * error.abs().mean() + KL_WEIGHT * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(
                f"vae step {step}/{steps} mse {error.square().mean():.5f} kl {kl:.3f}", flush=True
            )
    report = _calibrate(model, generator, draw, samples)
    model.save_pretrained(folder)
    return report | {"seconds": time.perf_counter() - start}


@torch.no_grad()
def _calibrate(
    model: AutoencoderKL, generator: torch.Generator, draw: Draw, samples: int
) -> dict[str, float]:
    pictures = draw(samples, generator) * 2 - 1
    latents = model.encode(pictures).latent_dist.mode()
    error = model.decode(latents).sample - pictures
    model.register_to_config(scaling_factor=1.0 / float(latents.std()))
    return {"mse": float(error.square().mean()), "latent_std": float(latents.std())}
