"""Stage 3: the denoiser, trained on captions of which a known share is wrong, as on the web.

The wrong captions make the model imperfect in a way that it knows about. It learns the mixture of
pictures that occur with a prompt: the right picture is the most likely, and it draws the others at
about the rates of the wrong captions.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mitune.worlds.denoiser_training import Schedule, Training, fit
from mitune.worlds.shapes2 import corpus, networks
from mitune.worlds.shapes2.prompts import UNSEEN
from mitune.worlds.shapes2.scene import Scenes, render


@dataclass(frozen=True, kw_only=True)
class UnetRecipe(Schedule):
    """How the denoiser is trained."""

    steps: int = 20_000
    clean_share: float = 0.25
    """Share of the steps, at the start, in which all captions are right: the model learns binding
    faster from them."""
    scenes: int = 60_000
    captions: corpus.Recipe = field(default_factory=corpus.Recipe)


@torch.no_grad()
def scene_latents(folder: Path, scenes: Scenes) -> Tensor:
    """Scaled latents of the scenes, ``[N, 8, 8, 8]`` float32, from the autoencoder of stage 1."""
    vae = AutoencoderKL.from_pretrained(folder / "vae").to(memory_format=torch.channels_last)
    rows = torch.arange(len(scenes)).split(128)
    parts = [vae.encode(render(scenes.rows(r)) * 2 - 1).latent_dist.mode() for r in rows]
    return torch.cat(parts) * float(vae.config.scaling_factor)


def batches(
    recipe: UnetRecipe, folder: Path, start: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield noise, timesteps, latents and caption embeddings of each step from ``start``. They
    depend only on (seed, step)."""
    generator = torch.Generator().manual_seed(recipe.seed + 17)
    shown = corpus.sample(recipe.scenes, recipe.captions, generator)
    latents = scene_latents(folder, shown.scenes)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    for step in range(start, recipe.steps):
        seed = (recipe.seed << 32) + step
        generator.manual_seed(seed)
        rows = torch.randint(len(latents), (recipe.batch,), generator=generator)
        clean = step < recipe.clean_share * recipe.steps
        said = recipe.captions.clean() if clean else recipe.captions
        texts = list(corpus.captions(shown, rows.tolist(), said, seed))
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            embeddings = encoder(ids).last_hidden_state
        noise = torch.randn(latents[rows].shape, generator=generator)
        # Stratified timesteps: one in each of B equal parts of the range.
        strata = torch.arange(recipe.batch) + torch.rand(recipe.batch, generator=generator)
        t = (strata / recipe.batch * 1000).long()
        yield noise, t, latents[rows], embeddings


def train_unet(folder: Path, recipe: UnetRecipe, *, save_every: int = 500) -> dict[str, Any]:
    """Train the denoiser in ``folder``, as ``mitune.worlds.denoiser_training.fit``.

    Returns:
        The numbers for the model card.
    """
    found = fit(
        folder,
        Training(networks.denoiser, recipe),
        recipe,
        networks.scheduler(),
        lambda start: batches(recipe, folder, start),
        save_every=save_every,
    )
    unseen = [" ".join(pair) for pair in sorted(UNSEEN)]
    return {"recipe": asdict(recipe), "unseen": unseen, **found}
