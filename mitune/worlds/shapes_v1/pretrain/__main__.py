"""Train the first edition: ``python -m mitune.worlds.shapes_v1.pretrain --out FOLDER``.

There are three stages. A stage whose result exists is skipped; the third one also resumes from its
last checkpoint. It takes about 45 minutes on two otherwise idle CPU cores. The result is a
diffusers pipeline folder, which ``mitune --model FOLDER`` accepts.
"""

from dataclasses import dataclass, field
from pathlib import Path

from mitune.arguments.module import run_module
from mitune.worlds import pretraining
from mitune.worlds.shapes_v1.pretrain.denoiser import UnetRecipe, train_unet
from mitune.worlds.shapes_v1.pretrain.text import train_text_encoder
from mitune.worlds.shapes_v1.pretrain.vae import train_vae


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train the embedded model from scratch."""

    out: Path
    """Output folder: work/ holds the state of the stages, pipeline/ the result."""
    vae_steps: int = 1800
    """Training steps of stage 1, the autoencoder."""
    text_steps: int = 600
    """Training steps of stage 2, the text encoder."""
    recipe: UnetRecipe = field(default_factory=UnetRecipe)
    """Stage 3, the denoiser."""


def pretrain(options: Pretrain) -> Path:
    """Run those of the three stages that have no result yet, as
    ``mitune.worlds.pretraining.pretrain``; returns the pipeline's folder."""
    return pretraining.pretrain(
        options.out,
        {
            "vae": lambda work: train_vae(work / "vae", steps=options.vae_steps),
            "text": lambda work: train_text_encoder(work, steps=options.text_steps),
            "unet": lambda work: train_unet(work, options.recipe),
        },
    )


if __name__ == "__main__":
    run_module(Pretrain, lambda asked: print(pretrain(asked)))
