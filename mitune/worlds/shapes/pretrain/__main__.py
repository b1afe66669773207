"""Make the embedded model from nothing: ``python -m mitune.worlds.shapes.pretrain --out FOLDER``.

Three stages, each done once and skipped when its result is there; the third also resumes inside.
About 45 minutes on two CPU cores that do nothing else. The result is a folder of a diffusers
pipeline, which ``mitune --model FOLDER`` takes.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from mitune.arguments.module import run_module
from mitune.core.files import atomic_write, make_folder
from mitune.core.provenance import as_json, environment
from mitune.models.family import assemble as assemble_pipeline
from mitune.worlds.shapes import networks
from mitune.worlds.shapes.pretrain.denoiser import UnetRecipe, train_unet
from mitune.worlds.shapes.pretrain.text import train_text_encoder
from mitune.worlds.shapes.pretrain.vae import train_vae


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Make the embedded model from nothing."""

    out: Path
    """Folder: work/ holds the stages' state, pipeline/ the result."""
    vae_steps: int = 1800
    """Stage 1, the autoencoder."""
    text_steps: int = 600
    """Stage 2, the text encoder."""
    recipe: UnetRecipe = field(default_factory=UnetRecipe)
    """Stage 3, the denoiser."""


def pretrain(options: Pretrain) -> Path:
    """Run what is missing of the three stages and assemble the pipeline.

    Returns:
        the folder of the pipeline, weights in fp16.
    """
    work = options.out / "work"
    make_folder(work)
    _stage(work, "vae", lambda: train_vae(work / "vae", steps=options.vae_steps))
    _stage(work, "text", lambda: train_text_encoder(work, steps=options.text_steps))
    _stage(work, "unet", lambda: train_unet(work, options.recipe))
    return assemble(work, options.out / "pipeline")


def _stage(work: Path, name: str, train: Callable[[], dict[str, Any]]) -> None:
    report = work / f"{name}.json"
    if report.exists():
        print(f"{name}: done before")
        return
    result = train() | {"environment": environment(torch.device("cpu"))}
    atomic_write(report, as_json(result, indent=1).encode())


def assemble(work: Path, folder: Path) -> Path:
    """One diffusers pipeline folder, fp16 safetensors but for the text encoder, from the stages'
    results below ``work``."""
    _, pipeline = assemble_pipeline(
        {
            "vae": AutoencoderKL.from_pretrained(work / "vae"),
            "text_encoder": CLIPTextModel.from_pretrained(work / "text_encoder"),
            "tokenizer": CLIPTokenizer.from_pretrained(work / "tokenizer"),
            "unet": UNet2DConditionModel.from_pretrained(work / "unet"),
            "scheduler": networks.scheduler(),
        }
    )
    pipeline.to(dtype=torch.float16)
    # transformers loads the type it finds, diffusers float32: a plain pipeline would mix the two.
    pipeline.text_encoder.to(torch.float32)
    pipeline.save_pretrained(folder)
    for config in folder.glob("*/config.json"):
        # Where the parts lay on the machine that trained them concerns nobody else.
        values = json.loads(config.read_text())
        values.pop("_name_or_path", None)
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    for name in ("vocab.json", "merges.txt"):
        # transformers before 5 reads these instead of tokenizer.json.
        shutil.copy(work / "tokenizer" / name, folder / "tokenizer" / name)
    return folder


if __name__ == "__main__":
    run_module(Pretrain, lambda asked: print(pretrain(asked)))
