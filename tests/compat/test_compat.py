"""The authors' scripts, as a user would write them, with one import changed; their loop, written
out, is the reference."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from sd3_pipeline import sd3_pipeline
from sdxl_pipeline import sdxl_pipeline
from tiny_parts import furthest

import mitune
from mitune.compat import (
    MISelectionPipeline,
    MISelectionXLPipeline,
    StableDiffusion3Pipeline_MI,
    import_set,
    write_selected,
)
from mitune.core.errors import UserError
from mitune.diffusion.solvers import squared_signal
from mitune.worlds.shapes_v1.model import FOLDER

PROMPT = "a red circle and a blue square"
COUNT, STEPS, GUIDANCE = 6, 5, 4.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    for name, pipeline in (("xl", sdxl_pipeline), ("sd3", sd3_pipeline)):
        pipeline().save_pretrained(place / name)
    return {"sd": Path(FOLDER), "xl": place / "xl", "sd3": place / "sd3"}


CLASSES = {
    "sd": MISelectionPipeline,
    "xl": MISelectionXLPipeline,
    "sd3": StableDiffusion3Pipeline_MI,
}


@torch.no_grad()
def their_loop(model: Any, scheduler: Any, seed: int, flow: bool) -> tuple[Any, Any]:
    """``(latents, scores)`` of the pool, with diffusers' own scheduler and one torch.Generator."""
    generator = torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(STEPS)
    z = torch.randn(COUNT, *model.latent_shape, generator=generator)
    z = z * getattr(scheduler, "init_noise_sigma", 1.0)
    cond, null = model.encode_prompts([PROMPT]), model.encode_null()
    rows = {n: torch.cat([null[n]] * COUNT + [cond[n]] * COUNT) for n in cond}
    scored = []
    for t in scheduler.timesteps:
        scaled = z if flow else scheduler.scale_model_input(z, t)
        uncond, text = model(torch.cat([scaled] * 2), t.expand(2 * COUNT), rows).chunk(2)
        guided = uncond + GUIDANCE * (text - uncond)
        if flow:
            level = float(t) / 1000
            if 0.05 < level < 1:
                product = (guided * (guided - uncond)).flatten(1).sum(1)
                scored.append((1 - level) / level * product)
        elif t > 50:
            abar = squared_signal(scheduler).float()[int(t)]
            beta = scheduler.betas[int(t)]
            weight = beta * len(scheduler.betas) / (2 * (1 - abar))
            scored.append(weight * (uncond - text).square().flatten(1).sum(1))
        extra = {} if flow else {"generator": generator}
        z = scheduler.step(guided, t, z, **extra).prev_sample
    return z, torch.stack(scored).mean(0)


@pytest.mark.parametrize("kind", ["sd", "xl", "sd3"])
def test_with_the_callers_generator_it_is_their_loop(folders: Any, kind: str) -> None:
    """As README.md of their code has it, for each of the three classes."""
    pipe = CLASSES[kind].from_pretrained(folders[kind], torch_dtype=torch.float32)
    if kind == "sd":
        pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    pipe = pipe.to("cpu")
    pipe.mi_weight_init()
    embeds, pooled, latents, images = pipe(
        PROMPT,
        num_images_per_prompt=COUNT,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(7),
        guidance_scale=GUIDANCE,
        return_dict=False,
        batch=4,
    )
    model = mitune.load(folders[kind])
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    pool, scores = their_loop(model, scheduler, 7, kind == "sd3")
    assert pipe.selected == int(scores.argmax())
    torch.testing.assert_close(pipe.scores, scores, rtol=1e-3, atol=0)
    assert furthest(latents, pool[pipe.selected][None]) < 1e-4
    cond = model.encode_prompts([PROMPT])
    assert torch.equal(embeds, cond[model.text_name])
    assert (pooled is None) is (kind == "sd")
    width, height = images[0].size
    assert (len(images), (height, width)) == (1, model.picture_size)


def test_keyed_noise_is_the_engines(folders: Any) -> None:
    pipe = MISelectionPipeline.from_pretrained(folders["sd"])
    options = {
        "num_images_per_prompt": COUNT,
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
    }
    made = pipe([PROMPT], **options)
    pool = sorted(
        mitune.generate(
            mitune.load(folders["sd"]),
            [PROMPT],
            candidates=COUNT,
            steps=STEPS,
            guidance=GUIDANCE,
            convention="reference",
        ),
        key=lambda c: c.index,
    )
    assert pipe.scores.tolist() == pytest.approx([c.score for c in pool], rel=1e-4)
    assert furthest(made.latents, pool[pipe.selected].latent[None]) < 1e-5
    fewer = pipe(PROMPT, **options, batch=2)
    assert furthest(fewer.latents, made.latents) < 1e-4


def test_another_scheduler_and_an_adapter_by_their_spelling(tmp_path: Path, folders: Any) -> None:
    model = mitune.load(folders["xl"])
    options = {"steps": 4, "guidance": 3.0, "scheduler": "euler"}
    built = mitune.build_set(model, [PROMPT], tmp_path / "set", candidates=2, **options)
    config = mitune.TuneConfig(rank=2, batch=2, micro_batch=2, iterations=1, lr=1e-2)
    out = mitune.tune(model, built, tmp_path / "adapter", config)
    file = next(out.glob("*.safetensors")).name

    def latents(pipe: Any) -> torch.Tensor:
        return pipe(
            PROMPT,
            num_images_per_prompt=2,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(1),
            guidance_scale=GUIDANCE,
        ).latents

    pipe = MISelectionXLPipeline.from_pretrained(folders["xl"])
    plain = latents(pipe)
    pipe.load_lora_weights(out, wforeight_name=file)
    tuned = latents(pipe)
    assert furthest(tuned, plain) > 1e-3
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    assert furthest(latents(pipe), tuned) > 1e-3
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.load_lora_weights(str(out), weight_name=file)
    assert furthest(latents(pipe), tuned) < 1e-5


def test_parts_are_given_as_to_diffusers(folders: Any) -> None:
    """As their script does, with ``scheduler=DDPMScheduler...`` for most models."""
    own = MISelectionXLPipeline.from_pretrained(folders["xl"])
    scheduler = DDPMScheduler.from_config(own.scheduler.config, clip_sample=False)
    pipe = MISelectionXLPipeline.from_pretrained(
        folders["xl"], scheduler=scheduler, use_safetensors=True
    )
    assert pipe.scheduler is scheduler
    made = [
        each(PROMPT, num_inference_steps=3, generator=torch.Generator().manual_seed(1)).latents
        for each in (own, pipe)
    ]
    assert furthest(*made) > 1e-3
    flow = StableDiffusion3Pipeline_MI.from_pretrained(
        folders["sd3"], text_encoder_3=None, tokenizer_3=None
    )
    assert flow(PROMPT, num_inference_steps=4, height=48, width=32).latents.shape == (1, 4, 12, 8)


def test_an_adapter_fits_after_a_call_in_half_precision(tmp_path: Path, folders: Any) -> None:
    model = mitune.load(folders["xl"])
    built = mitune.build_set(model, [PROMPT], tmp_path / "set", candidates=2, steps=3)
    config = mitune.TuneConfig(rank=2, batch=2, micro_batch=2, iterations=1)
    out = mitune.tune(model, built, tmp_path / "adapter", config)
    pipe = MISelectionXLPipeline.from_pretrained(folders["xl"], torch_dtype=torch.bfloat16)
    pipe(PROMPT, num_inference_steps=2)
    pipe.load_lora_weights(out)
    assert pipe(PROMPT, num_inference_steps=2).latents.isfinite().all()


def test_a_set_in_their_layout_trains(tmp_path: Path, folders: Any) -> None:
    pipe = MISelectionXLPipeline.from_pretrained(folders["xl"])
    prompts = [PROMPT, "a circle / a square", "red " * 100, "red " * 100 + "blue", "猫" * 100]
    for prompt in prompts:
        for seed in (1, 2):
            generator = torch.Generator().manual_seed(seed)
            made = pipe(
                prompt,
                num_images_per_prompt=2,
                num_inference_steps=3,
                generator=generator,
                return_dict=False,
            )
            place = write_selected(tmp_path / "theirs", prompt, seed, made)
    names = {"prompt_embeds.pt", "pooled_prompt_embeds.pt", "latents.pt", "image.png"}
    assert {file.name for file in place.iterdir()} == names | {"prompt.txt"}
    plain = tmp_path / "theirs" / f"{PROMPT}_1" / "prompt.txt"
    plain.unlink()  # their scripts write none
    model = mitune.load(folders["xl"])
    built = import_set(tmp_path / "theirs", tmp_path / "set", model)
    selected = built.selected()
    assert sorted({prompt for prompt, _ in selected}) == sorted(prompts)
    assert len(selected) == 10
    config = mitune.TuneConfig(rank=2, batch=2, micro_batch=2, iterations=1)
    assert mitune.tune(model, built, tmp_path / "adapter", config).is_dir()


def test_mistakes_are_one_line(tmp_path: Path, folders: Any) -> None:
    with pytest.raises(UserError, match=r"expected a StableDiffusionXLPipeline for MISelectionXL"):
        MISelectionXLPipeline.from_pretrained(folders["sd"])
    with pytest.raises(UserError, match=r"torch_dtype is torch\.int8"):
        MISelectionPipeline.from_pretrained(folders["sd"], torch_dtype=torch.int8)
    pipe = MISelectionPipeline.from_pretrained(folders["sd"])
    with pytest.raises(UserError, match="expected one text"):
        pipe((PROMPT, PROMPT))
    two = [torch.Generator(), torch.Generator()]
    for options, words in (
        ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
        ({"num_inference_steps": 0}, "steps is 0"),
        ({"noise": "philox"}, "noise 'philox' is not known"),
        ({"generator": 7}, "generator is a int: expected a torch.Generator"),
        ({"generator": two, "noise": "keyed"}, "generator is a list and noise keyed"),
        ({"generator": two, "num_images_per_prompt": 3}, "there are 2 generators: expected 3"),
        ({"height": 33}, "expected sides that are multiples of"),
    ):
        with pytest.raises(UserError, match=words):
            pipe(PROMPT, **options)
    with pytest.raises(UserError, match="was given a dict: expected a folder or a file"):
        pipe.load_lora_weights({})
    with pytest.raises(UserError, match="from_pretrained was given revison: expected torch_dtype"):
        MISelectionPipeline.from_pretrained(folders["sd"], revison="main")
    model = mitune.load("shapes-v1", device="cpu")
    with pytest.raises(UserError, match="holds no folder PROMPT_SEED"):
        import_set(tmp_path, tmp_path / "set", model)
    place = tmp_path / f"{PROMPT}_1"
    place.mkdir()
    with pytest.raises(UserError, match=r"latents\.pt is missing"):
        import_set(tmp_path, tmp_path / "set", model)
    (place / "latents.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match=r"latents\.pt cannot be read"):
        import_set(tmp_path, tmp_path / "set", model)
    for shape in ((1, 4, 9, 9), (4, 4, 16)):
        torch.save(torch.zeros(shape), place / "latents.pt")
        with pytest.raises(UserError, match=r"holds \[.*\]: expected latents of shape"):
            import_set(tmp_path, tmp_path / "set", model)
    assert not (tmp_path / "set").exists()
