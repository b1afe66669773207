"""Stage 1: the autoencoder. Its pictures show all pairs: it sees no captions, so it learns nothing
of the names of those that pre-training never shows."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from mitune.worlds.autoencoder_training import train_autoencoder
from mitune.worlds.shapes import corpus, networks, oracle
from mitune.worlds.shapes.layout import KINDS, place
from mitune.worlds.shapes.scene import COLOURS, MOST, SHAPES, TEXTURES, Scenes, render


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
    """Train it, as ``mitune.worlds.autoencoder_training``; the numbers for the model card have
    ``kept`` too."""
    report = train_autoencoder(
        folder,
        networks.vae,
        pictures,
        steps=steps,
        batch=batch,
        seed=seed,
        samples=256,
        at_once=32,
    )
    return report | {"kept": kept(AutoencoderKL.from_pretrained(folder))}


@torch.no_grad()
def kept(vae: AutoencoderKL, scenes: int = 200) -> float:
    """The share of captioned scenes in which the oracle finds just what the caption says after they
    went through the autoencoder: no denoiser can do better on such prompts."""
    recipe = corpus.Recipe(dropout=0.0).clean()
    shown = corpus.sample(scenes, recipe, torch.Generator().manual_seed(5))
    texts = [c.text for c in corpus.captions(shown, list(range(scenes)), recipe, seed=1)]
    latents = vae.encode(render(shown.scenes) * 2 - 1).latent_dist.mode()
    verdicts = oracle.score(texts, (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1))
    return sum(verdict.strict for verdict in verdicts) / scenes
