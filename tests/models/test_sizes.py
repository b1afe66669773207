"""Pictures of other sizes than the model's own, against diffusers' pipelines."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from joint_model import pipeline as tiny_pipeline
from sd3_pipeline import sd3_pipeline
from sdxl_pipeline import sdxl_pipeline
from tiny_parts import TEXTS, furthest

import mitune
from mitune.core.errors import UserError
from mitune.diffusion.noise import candidate_keys, normal

STEPS, GUIDANCE = 4, 3.0
SAMPLER = mitune.SamplerConfig(steps=STEPS, guidance=GUIDANCE, scheduler="euler")


def sd_pipeline() -> Any:
    """Its scheduler is another one, but the steps are DDIM's."""
    made = tiny_pipeline()
    made.scheduler = DDIMScheduler.from_config(made.scheduler.config)
    return made


FAMILIES = [
    pytest.param(sd_pipeline, (48, 32), replace(SAMPLER, scheduler="ddim"), id="1.x, 2.x"),
    pytest.param(sdxl_pipeline, (96, 64), SAMPLER, id="UNet"),
    pytest.param(sd3_pipeline, (48, 32), replace(SAMPLER, convention="integral"), id="transformer"),
]


@pytest.mark.parametrize("backend", ["eager", "inductor"], ids=["eager", "compiled"])
@pytest.mark.parametrize(("pipeline", "size", "sampler"), FAMILIES)
def test_the_engine_draws_what_the_pipeline_does(
    pipeline: Any, size: tuple[int, int], sampler: Any, backend: str
) -> None:
    model = mitune.load(pipeline(), size=size)
    assert model.picture_size == size
    made = list(
        mitune.generate(model, TEXTS, candidates=2, sampler=sampler, slots=3, backend=backend)
    )
    keys = candidate_keys([(c.seed, c.prompt, c.index) for c in made])
    noise = normal(keys, torch.zeros(len(made), dtype=torch.int64), model.latent_shape)
    latents = torch.stack([c.latent for c in made])
    theirs = pipeline()(
        prompt=[c.prompt for c in made],
        height=size[0],
        width=size[1],
        latents=noise,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        output_type="latent",
    ).images
    assert furthest(latents, theirs) < 1e-4
    assert model.decode(latents).shape == (4, 3, *size)


@pytest.mark.parametrize(("pipeline", "size", "sampler"), FAMILIES)
def test_a_set_of_one_size_trains_no_model_of_another(
    tmp_path: Path, pipeline: Any, size: tuple[int, int], sampler: Any
) -> None:
    model, own = mitune.load(pipeline(), size=size), mitune.load(pipeline())
    assert model.parts["size"] == {"height": size[0], "width": size[1]}
    assert "size" not in own.parts
    assert mitune.load(pipeline(), size=own.picture_size).parts == own.parts
    built = mitune.build_set(model, TEXTS, tmp_path / "set", candidates=2, sampler=sampler)
    config = mitune.TuneConfig(rank=2, batch=2, micro_batch=2, iterations=1, t_range=(0, 1000))
    mitune.tune(model, built, tmp_path / "adapter", config)
    with pytest.raises(UserError, match="use a set built with"):
        mitune.tune(own, built, tmp_path / "other", config)


@pytest.mark.parametrize(
    ("pipeline", "size", "words"),
    [
        (sdxl_pipeline, (72, 64), "size is 64x72: expected sides that are multiples of 16; the"),
        (sdxl_pipeline, (0, 64), "size is 64x0"),
        (sd3_pipeline, (32, 36), "size is 36x32: expected sides that are multiples of 8, up to 64"),
        (sd3_pipeline, (72, 32), "size is 32x72: .* up to 64; the model's own is 32x32"),
    ],
)
def test_sides_that_cannot_be_are_refused(pipeline: Any, size: tuple[int, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        mitune.load(pipeline(), size=size)


def test_the_embedded_world_has_one_size() -> None:
    with pytest.raises(UserError, match="expected 32x32, the size of its world's pictures"):
        mitune.load("shapes-v1", device="cpu", size=(64, 64))
