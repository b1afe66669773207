"""Train the second edition's model from scratch:
``python -m mitune.worlds.shapes2.pretrain --out FOLDER``.

There are three stages. A stage whose result exists is skipped; the third one also resumes from its
last checkpoint. The result is a diffusers pipeline folder, which ``mitune --model FOLDER`` accepts.
"""

from dataclasses import dataclass, field
from pathlib import Path

from mitune.arguments.module import run_module
from mitune.core.files import make_folder
from mitune.worlds.pretraining import assemble, stage
from mitune.worlds.shapes2.pretrain.denoiser import UnetRecipe, train_unet
from mitune.worlds.shapes2.pretrain.text import train_text_encoder
from mitune.worlds.shapes2.pretrain.vae import train_vae


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train the second edition's model from scratch."""

    out: Path
    """Output folder: work/ holds the state of the stages, pipeline/ the result."""
    vae_steps: int = 3000
    """Training steps of stage 1, the autoencoder."""
    text_steps: int = 3000
    """Training steps of stage 2, the text encoder."""
    recipe: UnetRecipe = field(default_factory=UnetRecipe)
    """Stage 3, the denoiser."""


def pretrain(options: Pretrain) -> Path:
    """Run those of the three stages that have no result yet, and assemble the pipeline.

    Returns:
        The folder of the pipeline; weights in fp16, except for the text encoder in float32.
    """
    work = options.out / "work"
    make_folder(work)
    stage(work, "vae", lambda: train_vae(work / "vae", steps=options.vae_steps))
    stage(work, "text", lambda: train_text_encoder(work, steps=options.text_steps))
    stage(work, "unet", lambda: train_unet(work, options.recipe))
    return assemble(work, options.out / "pipeline")


if __name__ == "__main__":
    run_module(Pretrain, lambda asked: print(pretrain(asked)))
