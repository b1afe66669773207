"""Sampling step by step: without a method it is the engine's, and Attend-and-Excite is diffusers'
own."""

import warnings
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

import mitune
from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.diffusion.noise import candidate_keys, normal
from mitune.methods.sampling.attend_and_excite import AttendAndExcite, Settings
from mitune.methods.sampling.guided import Guided
from mitune.methods.sampling.information import InformationGuidance
from mitune.methods.sampling.sample import sample
from mitune.methods.sampling.structured import StructuredGuidance

PROMPTS = ["a red circle and a blue square", "a green triangle"]


def test_plain_guidance_is_the_engines_path(exact_model: Any) -> None:
    given = {"sampler": SamplerConfig(steps=5, guidance=2.0), "candidates": 3, "seed": 4}
    made = list(sample(exact_model, PROMPTS, Guided, batch=4, **given))
    engine = sorted(
        mitune.generate(exact_model, PROMPTS, **given), key=lambda c: (c.prompt_index, c.index)
    )
    for one, other in zip(made, engine, strict=True):
        assert (one.prompt, one.index, one.seed) == (other.prompt, other.index, other.seed)
        assert torch.allclose(one.latent, other.latent, atol=1e-3)
        assert torch.allclose(one.terms, other.terms, rtol=1e-2, atol=1e-2)
        assert one.score == pytest.approx(other.score, rel=1e-2)


def upstream(model: Any, prompt: str, nouns: list[int], latents: Any, **given: Any) -> Any:
    from diffusers import StableDiffusionAttendAndExcitePipeline

    own = model.pipeline
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = StableDiffusionAttendAndExcitePipeline(
            vae=own.vae,
            text_encoder=own.text_encoder,
            tokenizer=own.tokenizer,
            unet=own.unet,
            scheduler=DDIMScheduler.from_config(own.scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe(prompt, nouns, latents=latents, output_type="latent", **given).images


@pytest.mark.parametrize("thresholds", [{}, {0: 0.05, 1: 0.5, 2: 0.9}], ids=["moves", "refines"])
def test_attend_and_excite_is_diffusers_own(
    shapes_model: Any, thresholds: dict[int, float]
) -> None:
    """On the same noise, with DDIM, which adds none."""
    steps, prompt, nouns = 5, PROMPTS[0], [3, 7]
    latents = normal(
        candidate_keys([(0, prompt, 0)]),
        torch.zeros(1, dtype=torch.int64),
        shapes_model.latent_shape,
    )
    size = shapes_model.latent_shape[-1]
    expected = upstream(
        shapes_model,
        prompt,
        nouns,
        latents.clone(),
        num_inference_steps=steps,
        guidance_scale=2.0,
        max_iter_to_alter=3,
        thresholds=thresholds,
        attn_res=(size, size),
        height=shapes_model.picture_size[0],
        width=shapes_model.picture_size[1],
    )
    settings = Settings(
        steps=3 / steps,
        thresholds={place / steps: least for place, least in thresholds.items()},
        resolution=size,
    )

    def method(*given: Any) -> AttendAndExcite:
        return AttendAndExcite(*given, settings=settings)

    given = {"sampler": SamplerConfig(steps=steps, guidance=2.0, scheduler="ddim"), "candidates": 1}
    (made,) = sample(shapes_model, [prompt], method, **given)
    (plain,) = sample(shapes_model, [prompt], Guided, **given)
    assert not torch.allclose(plain.latent, expected[0], atol=0.05)
    assert torch.allclose(made.latent, expected[0], atol=2e-3)


def test_rows_of_a_batch_do_not_meet(shapes_model: Any) -> None:
    given = {"sampler": SamplerConfig(steps=4, guidance=2.0), "candidates": 2}
    one = list(sample(shapes_model, PROMPTS, AttendAndExcite, batch=4, **given))
    other = list(sample(shapes_model, PROMPTS, AttendAndExcite, batch=1, **given))
    for a, b in zip(one, other, strict=True):
        assert torch.allclose(a.latent, b.latent, atol=1e-2)


def test_nouns_are_found_and_a_prompt_without_one_is_refused(shapes_model: Any) -> None:
    schedule = shapes_model.schedule(SamplerConfig(steps=4))
    found = AttendAndExcite(shapes_model, PROMPTS, schedule, 2.0)
    assert found.nouns == [[3, 7], [3]]
    with pytest.raises(UserError, match="no noun phrase"):
        AttendAndExcite(shapes_model, ["and"], schedule, 2.0)


def plain_attention(layer: Any, hidden: Any, text: Any, values: Any) -> Any:
    """A cross-attention layer of diffusers with values from elsewhere, in plain operations."""
    q, k, v = layer.to_q(hidden), layer.to_k(text), layer.to_v(values)
    q, k, v = (x.unflatten(2, (layer.heads, -1)).movedim(2, 1) for x in (q, k, v))
    made = (layer.scale * q @ k.mT).softmax(dim=-1) @ v
    return layer.to_out[0](made.movedim(1, 2).flatten(2))


def test_structured_guidance_averages_the_values_of_all_encodings(shapes_model: Any) -> None:
    """Equation 6 of its paper, layer by layer."""
    prompt = PROMPTS[0]
    schedule = shapes_model.schedule(SamplerConfig(steps=4))
    guided = StructuredGuidance(shapes_model, [prompt], schedule, 2.0)
    (whole,) = shapes_model.encode_prompts([prompt]).values()
    encodings = [whole]
    for text, first in (("red circle", 2), ("blue square", 6)):
        (alone,) = shapes_model.encode_prompts([text]).values()
        replaced = whole.clone()
        replaced[:, first : first + 2] = alone[:, 1:3]
        encodings.append(replaced)
    seen: list[Any] = []
    layers = [m for n, m in guided.network.named_modules() if n.endswith(".attn2")]
    hooks = [
        layer.register_forward_hook(
            lambda layer, args, kwargs, made: seen.append((layer, args[0], kwargs, made)),
            with_kwargs=True,
        )
        for layer in layers
    ]
    z = torch.randn(1, *shapes_model.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        guided.predict(z, 1)
        for hook in hooks:
            hook.remove()
        assert len(seen) == len(layers)
        for layer, hidden, kwargs, made in seen:
            text = kwargs["encoder_hidden_states"]
            parts = [plain_attention(layer, hidden[1:], text[1:], each) for each in encodings]
            assert torch.allclose(made[1:], torch.stack(parts).mean(dim=0), atol=1e-4)
            own = plain_attention(layer, hidden[:1], text[:1], text[:1])
            assert torch.allclose(made[:1], own, atol=1e-4)
    assert not any(m._forward_pre_hooks for m in guided.network.modules())


def test_guidance_by_information_raises_the_weakest_phrases(shapes_model: Any) -> None:
    schedule = shapes_model.schedule(SamplerConfig(steps=4))
    given = {"rests": {PROMPTS[0]: ["a blue square", "a red circle"], PROMPTS[1]: [""]}.get}
    guided = InformationGuidance(shapes_model, PROMPTS, schedule, 2.0, 0.01, **given)
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(2, *shapes_model.latent_shape, generator=draw)

    @torch.no_grad()
    def least(latents: Any) -> list[float]:
        found = []
        for row, rests in enumerate((["a blue square", "a red circle"], [""])):
            whole = guided.call(
                latents[row : row + 1], 1, shapes_model.encode_prompts([PROMPTS[row]])
            )
            others = [
                guided.call(latents[row : row + 1], 1, shapes_model.encode_prompts([rest]))
                for rest in rests
            ]
            found.append(min(float((whole - o).square().sum(1).amax()) for o in others))
        return found

    moved = guided.before(z, 1)
    assert all(after > before for before, after in zip(least(z), least(moved), strict=True))
    assert float((moved - z)[0].norm() / z[0].norm()) == pytest.approx(0.01, rel=1e-3)
    assert guided.before(z, 3) is z
    off = InformationGuidance(shapes_model, PROMPTS, schedule, 2.0, strength=0.0)
    assert off.before(z, 0) is z
