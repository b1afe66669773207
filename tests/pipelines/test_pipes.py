"""A user's own pipeline: its best of many, scores under it, and that nothing in it changes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image
from sd3_pipeline import sd3_pipeline
from sdxl_pipeline import sdxl_pipeline
from tiny_parts import TEXTS, furthest

import mitune
from mitune.core.errors import UserError
from mitune.core.images import as_pictures, from_pictures

QUICK = {"steps": 4, "guidance": 3.0, "seed": 5}


def held(pipe: Any) -> dict[str, Any]:
    """What must stay: dtypes, modes, gradients and the first weight of every network."""
    return {
        name: (part.dtype, part.training, [p.requires_grad for p in part.parameters()])
        for name, part in pipe.components.items()
        if isinstance(part, torch.nn.Module)
    }


@pytest.mark.parametrize("pipeline", [sdxl_pipeline, sd3_pipeline], ids=["SDXL", "SD3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_best_of_many_is_the_engines(pipeline: Callable[[], Any], dtype: torch.dtype) -> None:
    pipe = pipeline().to(dtype)
    before = held(pipe)
    made = mitune.best_of(pipe, TEXTS[0], n=5, keep=2, **QUICK)
    assert held(pipe) == before
    pool = sorted(
        mitune.generate(mitune.load(pipeline()), TEXTS[:1], candidates=5, **QUICK),
        key=lambda c: -c.score,
    )
    assert [each.nats for each in made] == sorted((each.nats for each in made), reverse=True)
    assert all(isinstance(each.image, Image.Image) for each in made)
    if dtype == torch.float32:
        assert [each.index for each in made] == [c.index for c in pool[:2]]
        assert furthest(made[0].latent, pool[0].latent) < 1e-5
    again = mitune.best_of(pipe, TEXTS[0], n=5, **QUICK)
    assert again[0].index == made[0].index
    # And the pipeline draws as before.
    pipe(TEXTS[0], num_inference_steps=2, output_type="latent")


def test_a_model_has_its_best_too() -> None:
    model = mitune.load("shapes-v1", device="cpu")
    (best,) = mitune.best_of(model, "a red circle", n=3, steps=4)
    assert best.image.size == (32, 32)
    with pytest.raises(UserError, match="keep is 4: expected 1 to 3"):
        mitune.best_of(model, "a red circle", n=3, keep=4)
    for option in ({"candidates": 5}, {"scored": False}):
        with pytest.raises(UserError, match="is given: expected n, the number of pictures"):
            mitune.best_of(model, "a red circle", n=3, **option)
    assert mitune.best_of("shapes-v1", "a red circle", n=3, steps=4)[0].index == best.index


def test_pictures_are_scored_under_a_pipeline() -> None:
    pipe, model = sdxl_pipeline(), mitune.load(sdxl_pipeline())
    pictures = as_pictures(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    pixels = from_pictures(pictures, (64, 64))
    expected = mitune.score(model, TEXTS, pixels, draws=4)
    assert furthest(mitune.score(pipe, TEXTS, pictures, draws=4), expected) < 1e-4
    assert not torch.equal(expected, torch.zeros(2))
    larger = [picture.resize((96, 64)) for picture in pictures]  # cropped and resized
    assert mitune.score(pipe, TEXTS, larger, draws=4).shape == (2,)
    with pytest.raises(UserError, match="prompts is one text"):
        mitune.score(pipe, TEXTS[0], pictures)
    with pytest.raises(UserError, match="picture 0 is a str: expected a PIL"):
        mitune.score(pipe, TEXTS, ["a.png", "b.png"])
    for images, words in (
        (pictures[0], "images is a Image: expected a tensor, or a list"),
        ((pixels * 255).to(torch.uint8), "pictures are uint8: expected floating point"),
        (pixels * 2 - 1, r"pictures reach from -.* to .*: expected \[0, 1\]"),
        (pixels[..., :32], "pictures are 32x64: expected 64x64"),
    ):
        with pytest.raises(UserError, match=words):
            mitune.score(pipe, TEXTS, images)


def test_another_scheduler_of_the_user_is_the_engines_solver_or_refused() -> None:
    pipe = sdxl_pipeline()
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    # Named solvers take its noise levels; its own solver is not one of them.
    assert mitune.best_of(pipe, TEXTS[0], n=2, scheduler="ddim", **QUICK)[0].nats > 0


def test_hooks_and_loras_are_refused_by_name(tmp_path: Any) -> None:
    model = mitune.load(sdxl_pipeline())
    built = mitune.build_set(model, TEXTS, tmp_path / "set", candidates=2, **QUICK)
    config = mitune.TuneConfig(rank=2, batch=2, micro_batch=2, iterations=1, lr=1e-2)
    out = mitune.tune(model, built, tmp_path / "adapter", config)
    pipe = sdxl_pipeline()
    pipe.load_lora_weights(out)
    for use in (mitune.load, lambda p: mitune.best_of(p, TEXTS[0], n=2, **QUICK)):
        with pytest.raises(UserError, match=r"the unet carries LoRAs: .* pipe\.fuse_lora"):
            use(pipe)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    fused = mitune.best_of(pipe, TEXTS[0], n=2, **QUICK)[0]
    adapted = mitune.load(sdxl_pipeline(), adapter=out)
    own = mitune.best_of(adapted, TEXTS[0], n=2, **QUICK)[0]
    assert furthest(fused.latent, own.latent) < 1e-4
    pipe.unet._hf_hook = object()
    with pytest.raises(UserError, match="the unet has hooks, of offloading"):
        mitune.load(pipe)
    cast = sdxl_pipeline()
    cast.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    with pytest.raises(UserError, match="the unet has hooks"):
        mitune.load(cast)


def test_a_textual_inversion_of_several_vectors_is_read_as_the_pipeline_reads_it() -> None:
    def taught() -> Any:
        pipe = sdxl_pipeline()
        pipe.tokenizer_2 = copy.deepcopy(pipe.tokenizer)  # only the first encoder is taught
        learned = torch.randn(3, 8, generator=torch.Generator().manual_seed(3))
        pipe.load_textual_inversion(
            {"<cat>": learned},
            token="<cat>",
            text_encoder=pipe.text_encoder,
            tokenizer=pipe.tokenizer,
        )
        return pipe

    prompt = ["a <cat> above a circle"]
    theirs = taught().encode_prompt(prompt)[0]
    ours = mitune.load(taught()).encode_prompts(prompt)["encoder_hidden_states"]
    assert furthest(ours, theirs) < 1e-5
    plain = mitune.load(sdxl_pipeline()).encode_prompts(prompt)["encoder_hidden_states"]
    assert furthest(ours, plain) > 1e-2
