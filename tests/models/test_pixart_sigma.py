"""What PixArt-Σ's published pipelines have that the tiny one has not, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from pixart_sigma_pipeline import pixart_sigma_pipeline
from tiny_parts import predict

import mitune
from mitune.core.errors import UserError


def test_a_published_folder_loads(tmp_path: Path) -> None:
    """It names an older class, and a solver that the engine replaces."""
    pipeline = pixart_sigma_pipeline()
    pipeline.scheduler = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02)
    pipeline.save_pretrained(tmp_path)
    for file, change in (
        ("model_index.json", {"transformer": ["diffusers", "Transformer2DModel"]}),
        ("transformer/config.json", {"_class_name": "Transformer2DModel"}),
    ):
        place = tmp_path / file
        place.write_text(json.dumps(json.loads(place.read_text()) | change))
    model, own = mitune.load(tmp_path), mitune.load(pixart_sigma_pipeline())
    assert torch.equal(predict(model), predict(own))
    assert model.preset.sampler.scheduler == "ddpm"
    (made,) = mitune.generate(model, ["a red circle"], candidates=1, steps=3)
    assert made.latent.isfinite().all()


def _want_sizes(pipeline: Any) -> None:
    pipeline.transformer.use_additional_conditions = True


def _flow(pipeline: Any) -> None:
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()


@pytest.mark.parametrize(
    ("change", "words"),
    [(_want_sizes, "as PixArt-alpha's does"), (_flow, "has no noise levels of diffusion")],
)
def test_what_is_refused(change: Any, words: str) -> None:
    pipeline = pixart_sigma_pipeline()
    change(pipeline)
    with pytest.raises(UserError, match=words):
        mitune.load(pipeline)
