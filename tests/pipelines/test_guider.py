"""The guider inside diffusers' modular pipelines, against the engine's own scores."""

from typing import Any

import pytest
import torch
from diffusers.modular_pipelines import StableDiffusion3AutoBlocks, StableDiffusionXLAutoBlocks
from sd3_pipeline import sd3_pipeline
from sdxl_pipeline import sdxl_pipeline
from tiny_parts import TEXTS, furthest

import mitune
from mitune.core.errors import UserError
from mitune.diffusion.noise import candidate_keys, normal

STEPS, GUIDANCE = 5, 4.0
FAMILIES = [
    # Without a negative prompt SDXL's makes zeros of it, and SD3's predicts nothing without text.
    pytest.param(sdxl_pipeline, StableDiffusionXLAutoBlocks, "paper", {}, id="SDXL"),
    pytest.param(
        sd3_pipeline, StableDiffusion3AutoBlocks, "integral", {"negative_prompt": ""}, id="SD3"
    ),
]


def modular(parts: Any, blocks: Any, **components: Any) -> Any:
    """A modular pipeline of the same networks."""
    pipe = blocks().init_pipeline()
    unused = ("image_encoder", "feature_extractor")
    given = {n: p for n, p in parts.components.items() if p is not None and n not in unused}
    pipe.update_components(**given, **components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise_of(model: Any) -> torch.Tensor:
    keys = candidate_keys([(0, text, 0) for text in TEXTS])
    return normal(keys, torch.zeros(2, dtype=torch.int64), model.latent_shape)


@pytest.mark.parametrize("guidance", [GUIDANCE, 1.0])
@pytest.mark.parametrize(("pipeline", "blocks", "convention", "empty"), FAMILIES)
def test_it_gives_the_engines_nats(
    pipeline: Any, blocks: Any, convention: Any, empty: dict[str, str], guidance: float
) -> None:
    model = mitune.load(pipeline())
    made = list(
        mitune.generate(
            model,
            TEXTS,
            candidates=1,
            steps=STEPS,
            guidance=guidance,
            scheduler="euler",
            convention=convention,
        )
    )
    theirs = pipeline()
    pipe = modular(theirs, blocks, guider=mitune.guider(theirs, guidance))
    height, width = model.picture_size
    for _ in range(2):  # a second run starts again
        latents = pipe(
            prompt=TEXTS,
            **empty,
            latents=noise_of(model),
            num_inference_steps=STEPS,
            height=height,
            width=width,
            output="latents",
        )
        assert furthest(latents, torch.stack([c.latent for c in made])) < 1e-4
        assert pipe.guider.nats.tolist() == pytest.approx([c.score for c in made], rel=1e-4)
    terms = torch.stack([c.terms for c in made])
    assert pipe.guider.terms.shape == terms.shape
    assert furthest(pipe.guider.terms, terms) < 1e-4


def test_its_options_are_the_scores() -> None:
    theirs = sd3_pipeline()
    plain = mitune.guider(theirs)
    assert (plain.guidance_scale, plain.convention) == (7.5, None)
    made = mitune.guider(theirs.scheduler, 2.0, convention="mean", t_min=0.3)
    pipe = modular(theirs, StableDiffusion3AutoBlocks, guider=made)
    options = {"num_inference_steps": STEPS, "height": 32, "width": 32, "output": "latents"}
    pipe(prompt=TEXTS, negative_prompt="", **options)
    schedule = mitune.Schedule.from_diffusers(theirs.scheduler, STEPS)
    expected = pipe.guider.terms[..., 0].double() @ schedule.weights("mean", 0.3)
    torch.testing.assert_close(pipe.guider.nats, expected.float())
    with pytest.raises(UserError, match="both predictions are the same"):
        pipe(prompt=TEXTS, **options)


def test_a_pipeline_that_begins_later_sums_over_its_part() -> None:
    """As from a picture: diffusers then says how many steps are left."""
    theirs = sdxl_pipeline()
    theirs.scheduler.set_timesteps(6)
    made = mitune.guider(theirs)
    uncond, cond = torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)
    for step, t in enumerate(theirs.scheduler.timesteps[3:]):
        made.set_state(step, 3, t)
        made.forward(cond, uncond)
    weights = mitune.Schedule.from_diffusers(theirs.scheduler, 6).weights()
    assert made.nats.item() == pytest.approx(float(weights[3:].sum() * 256), rel=1e-6)


def test_the_times_that_a_pipeline_gives_its_flow_are_counted() -> None:
    theirs = sd3_pipeline()
    made = mitune.guider(theirs)
    theirs.scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.2])
    uncond, cond = torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)
    for step, t in enumerate(theirs.scheduler.timesteps):
        made.set_state(step, 3, t)
        made.forward(cond, uncond)
    t = theirs.scheduler.sigmas.double()
    expected = sum((1 - t[i]) / t[i] * (t[i] - t[i + 1]) * 256 for i in range(3))
    assert made.nats.item() == pytest.approx(float(expected), rel=1e-5)


def test_what_it_cannot_score_is_refused() -> None:
    theirs = sdxl_pipeline()
    made = mitune.guider(theirs)
    with pytest.raises(UserError, match="no scores yet"):
        _ = made.nats
    one, other = torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)
    with pytest.raises(UserError, match="the scheduler has no timesteps"):
        made.forward(one, other)
    theirs.scheduler.set_timesteps(STEPS)
    made.set_state(0, STEPS, torch.tensor(3.25))
    with pytest.raises(UserError, match=r"at timestep 3\.25, which its scheduler does not visit"):
        made.forward(one, other)
    with pytest.raises(UserError, match="made no prediction without the prompt"):
        made.forward(one)
    alone = made.new()
    alone.set_state(0, STEPS, torch.tensor(801.0))
    with pytest.raises(UserError, match="knows no scheduler"):
        alone.forward(one, other)
