"""Stage 3: the denoiser, trained on captions of which a known share is wrong, as on the web.

The wrong captions make the model imperfect in a way that it knows about. It learns the mixture of
pictures that occur with a prompt: the right picture is the most likely, and it draws the others at
about the rates of the wrong captions.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mitune.core.files import atomic_write
from mitune.core.identity import weights_digest
from mitune.worlds.denoiser_training import Batch, Schedule, Training, fit
from mitune.worlds.grounding import Named
from mitune.worlds.networks import scheduler
from mitune.worlds.shapes import corpus, networks
from mitune.worlds.shapes.pretrain.text import noun_numbers
from mitune.worlds.shapes.prompts import ITEMS, UNSEEN
from mitune.worlds.shapes.scene import MOST, SIZE, Scenes, render


@dataclass(frozen=True, kw_only=True)
class UnetRecipe(Schedule):
    """How the denoiser is trained."""

    steps: int = 20_000
    clean_share: float = 0.5
    """Share of the steps, at the start, in which all captions are right and the attention is
    trained: the model learns binding faster so."""
    scenes: int = 60_000
    captions: corpus.Recipe = field(default_factory=corpus.Recipe)


@torch.no_grad()
def scene_latents(folder: Path, scenes: Scenes) -> Tensor:
    """Scaled latents of the scenes, ``[N, 8, 8, 8]`` float32, from the autoencoder of stage 1. They
    take minutes, and are kept in ``folder`` for a run that goes on."""
    vae: Any = AutoencoderKL.from_pretrained(folder / "vae").to(memory_format=torch.channels_last)
    digest = hashlib.sha256(weights_digest(vae).encode())
    for part in fields(scenes):
        digest.update(getattr(scenes, part.name).numpy().tobytes())
    path = folder / f"latents-{digest.hexdigest()[:16]}.safetensors"
    if path.exists():
        return load_file(path)["latents"]
    rows = torch.arange(len(scenes)).split(128)
    parts = [vae.encode(render(scenes.rows(r)) * 2 - 1).latent_dist.mode() for r in rows]
    latents = torch.cat(parts) * float(vae.config.scaling_factor)
    atomic_write(path, save({"latents": latents.contiguous()}))
    return latents


def places(scenes: Scenes) -> Tensor:
    """Where each object is on the latents' grid, ``[N, 4, 8, 8]`` float32 in [0, 1]: a disc of its
    area, as soft as the grid is coarse; nothing where there is no object."""
    cell = SIZE / networks.LATENT_SIZE
    axis = (torch.arange(networks.LATENT_SIZE) + 0.5) * cell
    dx = axis - scenes.centre[..., 0, None, None]
    dy = axis[:, None] - scenes.centre[..., 1, None, None]
    away = torch.hypot(dx, dy) - scenes.radius[..., None, None]
    present = torch.arange(MOST) < scenes.count[:, None]
    return (0.5 - away / cell).clamp(0, 1) * present[..., None, None]


def named(where: Tensor, captions: list[corpus.Caption], nouns: Tensor) -> Named:
    """What the captions name, and where it is.

    Args:
        where: ``[B, 4, 8, 8]``, of ``places``.
        nouns: ``[B, tokens]``, of ``noun_numbers``.
    """
    masks = where.new_zeros(len(captions), ITEMS, *where.shape[2:])
    for row, caption in enumerate(captions):
        for item, objects in enumerate(caption.shows):
            masks[row, item] = where[row, list(objects)].amax(dim=0)
    # Where a caption has no such noun, argmax finds position 0.
    positions = [(nouns == item + 1).int().argmax(dim=1) for item in range(ITEMS)]
    return Named(torch.stack(positions, dim=1), masks)


def batches(recipe: UnetRecipe, folder: Path, start: int) -> Iterator[Batch]:
    """Yield the batch of each step from ``start``; it depends only on (seed, step)."""
    generator = torch.Generator().manual_seed(recipe.seed + 17)
    shown = corpus.sample(recipe.scenes, recipe.captions, generator)
    latents, where = scene_latents(folder, shown.scenes), places(shown.scenes)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    for step in range(start, recipe.steps):
        seed = (recipe.seed << 32) + step
        generator.manual_seed(seed)
        rows = torch.randint(len(latents), (recipe.batch,), generator=generator)
        clean = step < recipe.clean_share * recipe.steps
        said = recipe.captions.clean() if clean else recipe.captions
        captions = list(corpus.captions(shown, rows.tolist(), said, seed))
        texts = [caption.text for caption in captions]
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            embeddings = encoder(ids).last_hidden_state
        noise = torch.randn(latents[rows].shape, generator=generator)
        # Stratified timesteps: one in each of B equal parts of the range.
        strata = torch.arange(recipe.batch) + torch.rand(recipe.batch, generator=generator)
        t = (strata / recipe.batch * 1000).long()
        at = named(where[rows], captions, noun_numbers(tokenizer, ids)) if clean else None
        yield Batch(noise, t, latents[rows], embeddings, at)


def train_unet(
    folder: Path, recipe: UnetRecipe, *, save_every: int = 500, start: Path | None = None
) -> dict[str, Any]:
    """Train the denoiser in ``folder``, as ``mitune.worlds.denoiser_training.fit``.

    Args:
        start: folder of a pipeline whose denoiser's weights it starts from; None: random ones.

    Returns:
        The numbers for the model card.
    """
    found = fit(
        folder,
        Training(networks.denoiser, recipe, start and start / "unet"),
        recipe,
        scheduler(),
        lambda start: batches(recipe, folder, start),
        save_every=save_every,
    )
    unseen = [" ".join(pair) for pair in sorted(UNSEEN)]
    return {"recipe": asdict(recipe), "unseen": unseen, **found}
