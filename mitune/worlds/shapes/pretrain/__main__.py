"""Train the embedded model from scratch: ``python -m mitune.worlds.shapes.pretrain --out FOLDER``.

There are three stages. A stage whose result exists is skipped; the third one also resumes from its
last checkpoint. It takes about 45 minutes on two otherwise idle CPU cores. The result is a
diffusers pipeline folder, which ``mitune --model FOLDER`` accepts.
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
    """Run those of the three stages that have no result yet, and assemble the pipeline.

    Returns:
        The folder of the pipeline; weights in fp16, except for the text encoder in float32.
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
    """Write a diffusers pipeline folder from the results of the stages in ``work``. Weights are
    fp16 safetensors; only the text encoder is float32."""
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
    # transformers loads the stored dtype, diffusers loads float32: without this, a pipeline would
    # mix the two.
    pipeline.text_encoder.to(torch.float32)
    pipeline.save_pretrained(folder)
    for config in folder.glob("*/config.json"):
        # Remove the paths of the machine that trained the parts.
        values = json.loads(config.read_text())
        values.pop("_name_or_path", None)
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    for name in ("vocab.json", "merges.txt"):
        # transformers before 5 reads these instead of tokenizer.json.
        shutil.copy(work / "tokenizer" / name, folder / "tokenizer" / name)
    return folder


if __name__ == "__main__":
    run_module(Pretrain, lambda asked: print(pretrain(asked)))
