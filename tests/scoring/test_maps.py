"""Maps of mutual information: they add up to the score, and tell where a prompt's things are."""

from typing import Any

import pytest
import torch

from mitune.config.sets import ScoreConfig
from mitune.core.errors import UserError
from mitune.evaluation.pictures import overlay
from mitune.scoring.maps import mi_map
from mitune.scoring.score import score

PROMPT = "a red circle and a blue square"


@pytest.mark.parametrize("estimator", ["orthogonal", "standard"])
def test_a_map_adds_up_to_the_score(exact_model: Any, estimator: str) -> None:
    """In float64 networks, so that no processor's rounding decides; both sum in float32."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3, *exact_model.latent_shape, generator=generator)
    prompts = [PROMPT, "a red circle", PROMPT]
    config = ScoreConfig(estimator=estimator, draws=5, batch=4)  # type: ignore[arg-type]
    maps = mi_map(exact_model, prompts, latents, config)
    assert maps.shape == (3, *latents.shape[2:])
    scores = score(exact_model, prompts, latents, config)
    assert torch.allclose(maps.sum(dim=(1, 2)), scores, rtol=1e-4, atol=1e-3)


def test_a_phrase_is_where_its_object_is(shapes_model: Any) -> None:
    """Of the world's own drawings: what "a red circle" adds to the rest lies on the red circle."""
    from mitune.worlds.known import WORLDS

    pictures = WORLDS["shapes-v1"].drawings(PROMPT, 6, 0)
    latents = shapes_model.encode_images(pictures)
    maps = mi_map(
        shapes_model,
        [PROMPT] * 6,
        latents,
        rests=["a blue square"] * 6,
        estimator="standard",
        draws=16,
        t_min=400,
    )
    red = (pictures[:, 0] > 0.75) & (pictures[:, 1] < 0.3)
    blue = (pictures[:, 2] > 0.75) & (pictures[:, 0] < 0.3)
    scale = pictures.shape[-1] // maps.shape[-1]
    large = maps.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    on_red, on_blue = ((large * where).sum() / where.sum() for where in (red, blue))
    assert on_red > 2 * on_blue


@pytest.mark.parametrize(
    ("prompts", "rests", "message"),
    [
        ([PROMPT] * 2, None, "1 latents for 2 prompts"),
        ([PROMPT], [PROMPT] * 2, "and 2 rests"),
    ],
)
def test_numbers_that_differ_are_refused(
    shapes_model: Any, prompts: list[str], rests: list[str] | None, message: str
) -> None:
    latents = torch.zeros(1, *shapes_model.latent_shape)
    with pytest.raises(UserError, match=message):
        mi_map(shapes_model, prompts, latents, rests=rests)


def test_an_overlay_is_orange_above_zero_and_blue_below() -> None:
    found = torch.tensor([[1.0, -1.0]])
    shown = overlay(torch.full((3, 4, 8), 0.5), found)
    assert shown.shape == (3, 4, 8)
    left, right = shown[:, 0, 0], shown[:, 0, -1]
    assert left[0] > left[2]
    assert right[2] > right[0]
    flat = overlay(torch.rand(3, 4, 8), torch.zeros(1, 2))
    assert torch.allclose(flat[0], flat[1])
