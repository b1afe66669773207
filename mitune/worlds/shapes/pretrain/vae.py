"""Stage 1: the autoencoder, trained on newly drawn scenes in each step."""

import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from mitune.worlds.shapes import networks
from mitune.worlds.shapes.prompts import Object, all_objects
from mitune.worlds.shapes.scene import COLOURS, SHAPES, render, sample_scenes

KL_WEIGHT = 1e-3
L1_WEIGHT = 0.1
PEAK_LR = 3e-3


def object_indices(objects: list[Object]) -> torch.Tensor:
    """``[K, 2]`` int64: the objects as indices into COLOURS and SHAPES."""
    return torch.tensor([[COLOURS.index(c), SHAPES.index(s)] for c, s in objects])


def train_vae(folder: Path, *, steps: int, batch: int = 64, seed: int = 0) -> dict[str, float]:
    """Train the autoencoder and save it in ``folder`` with a scaling factor that gives
    unit-variance latents.

    The loss is ``mean (x' - x)^2 + 0.1 mean |x' - x| + 1e-3 KL`` with pixels in [-1, 1] and the KL
    per latent element. The pictures show all twelve objects: an autoencoder sees no captions, so it
    learns nothing about the names of the held-out ones.

    Returns:
        The numbers for the model card: reconstruction error and standard deviation of the latents
        on new scenes, seconds.
    """
    start = time.perf_counter()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    objects = object_indices(all_objects(held_out=True))
    model = networks.vae().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LR, total_steps=steps, pct_start=0.1
    )
    for step in range(steps):
        pictures = render(sample_scenes(batch, generator, objects=objects, two_objects=0.7)) * 2 - 1
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
    report = _calibrate(model, generator, objects)
    model.save_pretrained(folder)
    return report | {"seconds": time.perf_counter() - start}


@torch.no_grad()
def _calibrate(
    model: AutoencoderKL, generator: torch.Generator, objects: torch.Tensor
) -> dict[str, float]:
    pictures = render(sample_scenes(1024, generator, objects=objects, two_objects=0.7)) * 2 - 1
    latents = model.encode(pictures).latent_dist.mode()
    error = model.decode(latents).sample - pictures
    model.register_to_config(scaling_factor=1.0 / float(latents.std()))
    return {"mse": float(error.square().mean()), "latent_std": float(latents.std())}
