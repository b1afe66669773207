"""Stage 1: the autoencoder, trained on newly drawn scenes in each step."""

from pathlib import Path

import torch
from torch import Tensor

from mitune.worlds.autoencoder_training import train_autoencoder
from mitune.worlds.shapes_v1 import networks
from mitune.worlds.shapes_v1.prompts import Object, all_objects
from mitune.worlds.shapes_v1.scene import COLOURS, SHAPES, render, sample_scenes


def object_indices(objects: list[Object]) -> torch.Tensor:
    """``[K, 2]`` int64: the objects as indices into COLOURS and SHAPES."""
    return torch.tensor([[COLOURS.index(c), SHAPES.index(s)] for c, s in objects])


def train_vae(folder: Path, *, steps: int, batch: int = 64, seed: int = 0) -> dict[str, float]:
    """Train the autoencoder, as ``mitune.worlds.autoencoder_training``. The pictures show all
    twelve objects: an autoencoder sees no captions, so it learns nothing about the names of the
    held-out ones."""
    objects = object_indices(all_objects(held_out=True))

    def draw(count: int, generator: torch.Generator) -> Tensor:
        return render(sample_scenes(count, generator, objects=objects, two_objects=0.7))

    return train_autoencoder(folder, networks.vae, draw, steps=steps, batch=batch, seed=seed)
