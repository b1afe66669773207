"""Stage 3: the denoiser, trained on captions of which a known share is wrong, as on the web.

The wrong captions make the model imperfect in a way that it knows about. It learns the mixture of
pictures that occur with a prompt: the right picture is the most likely, and it draws the others at
about the rates of the wrong captions.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mitune.diffusion.solvers import squared_signal
from mitune.worlds.shapes import networks
from mitune.worlds.shapes.pretrain.text import every_phrase
from mitune.worlds.shapes.pretrain.vae import object_indices
from mitune.worlds.shapes.prompts import HELD_OUT, all_objects
from mitune.worlds.shapes.scene import RELATIONS, Scenes, relation_of, render, sample_scenes


@dataclass(frozen=True, kw_only=True)
class UnetRecipe:
    """How the denoiser is trained. The shares of captions and pictures are probabilities."""

    steps: int = 6_000
    batch: int = 64
    peak_lr: float = 6e-4
    warmup: int = 300
    decay_share: float = 0.25
    """Share of the steps, at the end, over which the learning rate falls linearly to zero."""
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
    snr_gamma: float = 5.0
    ema: float = 0.999
    seed: int = 0


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


def learning_rate(recipe: UnetRecipe, step: int) -> float:
    """Linear warm-up, then constant, then linear decay to zero over the last ``decay_share``."""
    left = (recipe.steps - step) / max(1.0, recipe.decay_share * recipe.steps)
    return recipe.peak_lr * min(1.0, (step + 1) / recipe.warmup, left)


class Training:
    """The training state to save: the denoiser in bfloat16, its float32 master weights, their
    exponential moving average, and the optimizer."""

    def __init__(self, recipe: UnetRecipe) -> None:
        torch.manual_seed(recipe.seed)
        self.step = 0
        self.model = networks.denoiser()
        self.names = [name for name, _ in self.model.named_parameters()]
        self.master = [p.detach().clone().requires_grad_() for p in self.model.parameters()]
        self.average = [p.detach().clone() for p in self.master]
        self.model.to(torch.bfloat16)
        self.optimizer = torch.optim.AdamW(
            self.master, lr=recipe.peak_lr, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
        )

    def update(self, lr: float, ema: float) -> float:
        """Take one optimizer step with the model's gradients, clipped to norm 1; returns the norm
        before clipping."""
        low = list(self.model.parameters())
        for master, weight in zip(self.master, low, strict=True):
            master.grad = weight.grad.float()
            weight.grad = None
        norm = torch.nn.utils.clip_grad_norm_(self.master, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            torch._foreach_copy_(low, self.master)
            torch._foreach_lerp_(
                self.average, self.master, 1 - min(ema, self.step / (self.step + 10))
            )
        return float(norm)

    def save(self, folder: Path) -> None:
        """Write the state under a temporary name, then rename it into place."""
        tensors: dict[str, Tensor] = {}
        for name, master, average in zip(self.names, self.master, self.average, strict=True):
            state = self.optimizer.state[master]
            tensors |= {f"master.{name}": master.detach(), f"average.{name}": average}
            tensors |= {f"m.{name}": state["exp_avg"], f"v.{name}": state["exp_avg_sq"]}
        temporary = folder.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / "state.safetensors")
        (temporary / "step.json").write_text(json.dumps({"step": self.step}))
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(temporary, folder)

    def load(self, folder: Path) -> None:
        """Continue from a state that ``save`` wrote."""
        tensors = load_file(folder / "state.safetensors")
        self.step = int(json.loads((folder / "step.json").read_text())["step"])
        with torch.no_grad():
            for name, master, average in zip(self.names, self.master, self.average, strict=True):
                master.copy_(tensors[f"master.{name}"])
                average.copy_(tensors[f"average.{name}"])
                self.optimizer.state[master] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"m.{name}"],
                    "exp_avg_sq": tensors[f"v.{name}"],
                }
            torch._foreach_copy_(list(self.model.parameters()), self.master)

    def save_average(self, folder: Path) -> None:
        """Write the averaged weights as a diffusers UNet folder, fp16."""
        model = networks.denoiser()
        model.load_state_dict(dict(zip(self.names, self.average, strict=True)))
        model.half().save_pretrained(folder)


def object_numbers(captions: Captions, scenes: Scenes) -> Tensor:
    """The numbers of the objects in each scene, as ``captions`` counts them: ``[N, 2]`` int64."""
    pairs = torch.stack([scenes.colour, scenes.shape], dim=-1)
    return (pairs[:, :, None] == captions.objects).all(dim=-1).long().argmax(dim=-1)


def batches(
    recipe: UnetRecipe, folder: Path, start: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield noise, timesteps, latents and caption embeddings of each step from ``start``. They
    depend only on (seed, step)."""
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
        yield noise, t, latents[rows], embeddings[caption]


def train_unet(folder: Path, recipe: UnetRecipe, *, save_every: int = 500) -> dict[str, object]:
    """Train the denoiser in ``folder``, from its last checkpoint if there is one. The averaged
    weights go to ``unet/``.

    The loss is ``min(SNR_t, gamma) / SNR_t * ||eps - eps_theta||^2`` (min-SNR, Hang et al. 2023),
    mean over elements.

    Returns:
        The numbers for the model card: recipe, held-out objects, running average of the loss,
        seconds of this process.
    """
    start = time.perf_counter()
    training = Training(recipe)
    checkpoint = folder / "unet_checkpoint"
    if checkpoint.exists():
        training.load(checkpoint)
    alphas = squared_signal(networks.scheduler()).float()
    snr = alphas / (1 - alphas)
    weight = snr.clamp(max=recipe.snr_gamma) / snr
    loss_average = math.nan
    log_file = folder / "unet_loss.jsonl"
    # Drop the lines that an interrupted run wrote after its checkpoint: these steps are repeated.
    lines = log_file.read_text().splitlines() if log_file.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] <= training.step]
    log_file.write_text("".join(line + "\n" for line in kept))
    with log_file.open("a") as log:
        for noise, t, latents, embeddings in batches(recipe, folder, training.step):
            a = alphas[t].view(-1, 1, 1, 1)
            noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
            predicted = training.model(noisy.bfloat16(), t, embeddings.bfloat16()).sample
            error = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
            loss = (weight[t] * error).mean()
            loss.backward()
            norm = training.update(learning_rate(recipe, training.step), recipe.ema)
            value = float(loss.detach())
            loss_average = value if math.isnan(loss_average) else 0.99 * loss_average + 0.01 * value
            if training.step % 100 == 0:
                line = {"step": training.step, "loss": loss_average, "grad_norm": norm}
                line |= {"seconds": time.perf_counter() - start}
                print(json.dumps(line), file=log, flush=True)
            if training.step % save_every == 0 or training.step == recipe.steps:
                training.save(checkpoint)
                training.save_average(folder / "unet")
    held_out = [" ".join(o) for o in sorted(HELD_OUT)]
    return {"recipe": asdict(recipe), "held_out": held_out, "loss": loss_average} | {
        "seconds": time.perf_counter() - start
    }
