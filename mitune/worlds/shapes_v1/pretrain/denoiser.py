"""Stage 3: the denoiser, trained on captions of which a known share is wrong, as on the web.

The wrong captions make the model imperfect in a way that it knows about. It learns the mixture of
pictures that occur with a prompt: the right picture is the most likely, and it draws the others at
about the rates of the wrong captions.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mitune.worlds import denoiser_training
from mitune.worlds.denoiser_training import Batch, Schedule, fit
from mitune.worlds.networks import scheduler
from mitune.worlds.shapes_v1 import networks
from mitune.worlds.shapes_v1.pretrain.text import every_phrase
from mitune.worlds.shapes_v1.pretrain.vae import object_indices
from mitune.worlds.shapes_v1.prompts import HELD_OUT, all_objects
from mitune.worlds.shapes_v1.scene import RELATIONS, Scenes, relation_of, render, sample_scenes


@dataclass(frozen=True, kw_only=True)
class UnetRecipe(Schedule):
    """How the denoiser is trained. The shares of captions and pictures are probabilities."""

    clean_share: float = 0.25
    """Share of the steps, at the start, in which all captions are right: the model learns binding
    faster from them."""
    scenes: int = 60_000
    two_objects: float = 0.6
    relation: float = 0.3
    """Share of two-object captions that name a relation."""
    ghost: float = 0.7
    """Share of one-object pictures whose caption names a second object that is not there."""
    swapped: float = 0.25
    """Share of two-object pictures whose caption exchanges the colours, unless this would name a
    held-out object."""
    wrong_relation: float = 0.12
    """Share of captions with a relation that name a wrong one."""
    dropout: float = 0.1


class Captions:
    """Numbers all captions, so that a batch of captions is drawn with tensor arithmetic, without
    strings.

    The row of object i is i. The row of the ordered pair (i, j) with form f (0: "and", then each
    relation) is K + (f * K + i) * K + j. The last row is the empty caption.
    """

    def __init__(self, recipe: UnetRecipe) -> None:
        self.recipe = recipe
        shown = all_objects()
        self.objects = object_indices(shown)
        self.count = len(shown)
        number = {o: i for i, o in enumerate(shown)}
        # swap[i, j]: the object with the shape of i and the colour of j; -1 if it is held out.
        swap = [[number.get((b[0], a[1]), -1) for b in shown] for a in shown]
        self.swap = torch.tensor(swap)
        self.texts = [""] * (self.count + (1 + len(RELATIONS)) * self.count**2 + 1)
        for phrase in every_phrase():
            i = number[phrase.objects[0]]
            row = i
            if len(phrase.objects) == 2:
                form = RELATIONS.index(phrase.relation) + 1 if phrase.relation else 0
                row = self.count + (form * self.count + i) * self.count + number[phrase.objects[1]]
            self.texts[row] = str(phrase)

    def draw(
        self, scenes: Scenes, numbers: Tensor, clean: bool, generator: torch.Generator
    ) -> Tensor:
        """Draw a caption row for each of ``scenes``, with object ``numbers`` ([B, 2] int64):
        [B] int64."""
        recipe, size, k = self.recipe, len(scenes), self.count

        def chance(p: float) -> Tensor:
            return torch.rand(size, generator=generator) < p

        first, second = numbers[:, 0], numbers[:, 1]
        single = scenes.count == 1
        relation = relation_of(scenes.centre[:, 0], scenes.centre[:, 1])
        swapped_first, swapped_second = self.swap[first, second], self.swap[second, first]
        possible = (swapped_first >= 0) & (swapped_second >= 0) & ~single
        swap = chance(0 if clean else recipe.swapped) & possible
        first = torch.where(swap, swapped_first, first)
        second = torch.where(swap, swapped_second, second)
        # The ghost object is not in the picture. Its relation uses the position that sample_scenes
        # drew for the unused second object.
        ghost = chance(0 if clean else recipe.ghost) & single
        turn = chance(0.5)
        first, second = torch.where(turn, second, first), torch.where(turn, first, second)
        relation = torch.where(turn, relation ^ 1, relation)
        wrong = chance(0 if clean else recipe.wrong_relation)
        other = (relation + torch.randint(1, len(RELATIONS), (size,), generator=generator)) % len(
            RELATIONS
        )
        relation = torch.where(wrong, other, relation)
        form = torch.where(chance(recipe.relation), relation + 1, 0)
        pair = k + (form * k + first) * k + second
        row = torch.where(single & ~ghost, numbers[:, 0], pair)
        return torch.where(chance(recipe.dropout), len(self.texts) - 1, row)


@torch.no_grad()
def caption_embeddings(folder: Path, texts: list[str]) -> Tensor:
    """Embeddings from the text encoder of stage 2: ``[len(texts), 16, 64]`` float32."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return torch.cat([encoder(chunk).last_hidden_state for chunk in ids.split(128)])


@torch.no_grad()
def scene_latents(folder: Path, scenes: Scenes) -> Tensor:
    """Scaled latents of the scenes, ``[N, 4, 8, 8]`` float32, from the autoencoder of stage 1."""
    vae = AutoencoderKL.from_pretrained(folder / "vae").to(memory_format=torch.channels_last)
    rows = torch.arange(len(scenes)).split(256)
    parts = [vae.encode(render(scenes.rows(r)) * 2 - 1).latent_dist.mode() for r in rows]
    return torch.cat(parts) * float(vae.config.scaling_factor)


class Training(denoiser_training.Training):
    """The training state of this edition's denoiser."""

    def __init__(self, recipe: UnetRecipe) -> None:
        super().__init__(networks.denoiser, recipe)


def object_numbers(captions: Captions, scenes: Scenes) -> Tensor:
    """The numbers of the objects in each scene, as ``captions`` counts them: ``[N, 2]`` int64."""
    pairs = torch.stack([scenes.colour, scenes.shape], dim=-1)
    return (pairs[:, :, None] == captions.objects).all(dim=-1).long().argmax(dim=-1)


def batches(recipe: UnetRecipe, folder: Path, start: int) -> Iterator[Batch]:
    """Yield the batch of each step from ``start``; it depends only on (seed, step)."""
    captions = Captions(recipe)
    generator = torch.Generator().manual_seed(recipe.seed + 17)
    scenes = sample_scenes(
        recipe.scenes, generator, objects=captions.objects, two_objects=recipe.two_objects
    )
    numbers = object_numbers(captions, scenes)
    latents = scene_latents(folder, scenes)
    embeddings = caption_embeddings(folder, captions.texts)
    for step in range(start, recipe.steps):
        generator.manual_seed((recipe.seed << 32) + step)
        rows = torch.randint(recipe.scenes, (recipe.batch,), generator=generator)
        clean = step < recipe.clean_share * recipe.steps
        caption = captions.draw(scenes.rows(rows), numbers[rows], clean, generator)
        noise = torch.randn(latents[rows].shape, generator=generator)
        # Stratified timesteps: one in each of B equal parts of the range.
        strata = torch.arange(recipe.batch) + torch.rand(recipe.batch, generator=generator)
        t = (strata / recipe.batch * 1000).long()
        yield Batch(noise, t, latents[rows], embeddings[caption])


def train_unet(folder: Path, recipe: UnetRecipe, *, save_every: int = 500) -> dict[str, object]:
    """Train the denoiser in ``folder``, as ``mitune.worlds.denoiser_training.fit``.

    Returns:
        The numbers for the model card: recipe, held-out objects, running average of the loss,
        seconds of this process.
    """
    found = fit(
        folder,
        Training(recipe),
        recipe,
        scheduler(),
        lambda start: batches(recipe, folder, start),
        save_every=save_every,
    )
    held_out = [" ".join(o) for o in sorted(HELD_OUT)]
    return {"recipe": asdict(recipe), "held_out": held_out, **found}
