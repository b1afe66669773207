"""Stage 1: the autoencoder. Its pictures show all pairs: it sees no captions, so it learns nothing
of the names of those that pre-training never shows."""

from pathlib import Path

import torch
from torch import Tensor

from mitune.worlds.autoencoder_training import train_autoencoder
from mitune.worlds.shapes2 import networks
from mitune.worlds.shapes2.layout import KINDS, place
from mitune.worlds.shapes2.scene import COLOURS, MOST, SHAPES, TEXTURES, Scenes, render


def pictures(count: int, generator: torch.Generator) -> Tensor:
    """Of scenes of all layouts and of any objects, in a random order."""
    sizes = [count // len(KINDS)] * (len(KINDS) - 1)
    parts = []
    for kind, size in zip(KINDS, [count - sum(sizes), *sizes], strict=True):
        present = torch.full((size,), 2)
        if kind == "apart":
            present = torch.randint(1, MOST + 1, (size,), generator=generator)
        shape, colour, texture = (
            torch.randint(len(names), (size, MOST), generator=generator)
            for names in (SHAPES, COLOURS, TEXTURES)
        )
        if kind == "inside":
            shape[:, 0] = shape[:, 0] % 2  # a circle or a square, where there is room
        lay = place(kind, present, shape, generator)
        parts.append(
            render(
                Scenes(
                    count=present,
                    colour=colour,
                    shape=shape,
                    texture=texture,
                    centre=lay.centre,
                    radius=lay.radius,
                )
            )
        )
    return torch.cat(parts)[torch.randperm(count, generator=generator)]


def train_vae(folder: Path, *, steps: int, batch: int = 16, seed: int = 0) -> dict[str, float]:
    """Train it, as ``mitune.worlds.autoencoder_training``."""
    return train_autoencoder(
        folder,
        networks.vae,
        pictures,
        steps=steps,
        batch=batch,
        seed=seed,
        samples=256,
        at_once=32,
    )
