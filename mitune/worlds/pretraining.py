"""The stages of an embedded model's pre-training, and the pipeline that they end in."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from mitune.core.files import atomic_write, make_folder
from mitune.core.provenance import as_json, environment
from mitune.models.family import assemble as assemble_pipeline
from mitune.worlds import networks

Stages = Mapping[str, Callable[[Path], dict[str, Any]]]
"""By name, in order: what trains, given the folder of all stages' results; returns a report."""


def pretrain(out: Path, stages: Stages) -> Path:
    """Run the stages that have no report yet, and assemble the pipeline.

    Args:
        out: ``work/`` in it holds the state of the stages, ``pipeline/`` the result.

    Returns:
        The folder of the pipeline; weights in fp16, except for the text encoder in float32.
    """
    work = out / "work"
    make_folder(work)
    for name, train in stages.items():
        report = work / f"{name}.json"
        if report.exists():
            print(f"{name}: done before")
            continue
        result = train(work) | {"environment": environment(torch.device("cpu"))}
        atomic_write(report, as_json(result, indent=1).encode())
    return assemble(work, out / "pipeline")


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
