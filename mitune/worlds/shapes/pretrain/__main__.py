"""Train the embedded model from scratch:
``python -m mitune.worlds.shapes.pretrain --out FOLDER``.

There are three stages. A stage whose result exists is skipped; the third one also resumes from its
last checkpoint. The result is a diffusers pipeline folder, which ``mitune --model FOLDER`` accepts.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mitune.arguments.module import run_module
from mitune.worlds import pretraining
from mitune.worlds.shapes.pretrain.denoiser import UnetRecipe, train_unet
from mitune.worlds.shapes.pretrain.text import train_text_encoder
from mitune.worlds.shapes.pretrain.vae import train_vae


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train the embedded model from scratch."""

    out: Path
    """Output folder: work/ holds the state of the stages, pipeline/ the result."""
    vae_steps: int = 6000
    """Training steps of stage 1, the autoencoder."""
    text_steps: int = 3000
    """Training steps of stage 2, the text encoder."""
    recipe: UnetRecipe = field(default_factory=UnetRecipe)
    """Stage 3, the denoiser."""
    start: Path | None = None
    """Folder of a pipeline of this edition that training goes on from: its autoencoder and text
    encoder are taken as they are, and the denoiser starts from its weights."""


def pretrain(options: Pretrain) -> Path:
    """Run those of the three stages that have no result yet, as
    ``mitune.worlds.pretraining.pretrain``; returns the pipeline's folder."""
    start = options.start
    stages: pretraining.Stages = {
        "vae": lambda work: train_vae(work / "vae", steps=options.vae_steps),
        "text": lambda work: train_text_encoder(work, steps=options.text_steps),
    }
    if start is not None:
        stages = {
            "vae": lambda work: _taken(work, start, ["vae"]),
            "text": lambda work: _taken(work, start, ["text_encoder", "tokenizer"]),
        }
    unet = {"unet": lambda work: train_unet(work, options.recipe, start=start)}
    return pretraining.pretrain(options.out, {**stages, **unet})


def _taken(work: Path, start: Path, parts: list[str]) -> dict[str, Any]:
    """Take parts of another training; the report names it."""
    for part in parts:
        shutil.copytree(start / part, work / part, dirs_exist_ok=True)
    return {"start": str(start)}


if __name__ == "__main__":
    run_module(Pretrain, lambda asked: print(pretrain(asked)))
