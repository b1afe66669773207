"""The families' tiny pipelines, and what is asked of each eagerly and compiled."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from aura_flow_pipeline import aura_flow_pipeline
from cogview4_pipeline import cogview4_pipeline
from flux2_klein_pipeline import before_decoding, flux2_klein_pipeline
from flux_pipeline import chroma_pipeline, flux_pipeline
from hunyuan_dit_pipeline import hunyuan_dit_pipeline
from lumina2_pipeline import lumina2_pipeline
from pixart_sigma_pipeline import pixart_sigma_pipeline, with_peft
from qwen_image_pipeline import qwen_image_pipeline
from sana_pipeline import sana_pipeline
from sd3_pipeline import sd3_pipeline
from sdxl_pipeline import sdxl_pipeline
from tiny_parts import TEXTS, furthest, predict, with_lora
from torch import Tensor
from z_image_pipeline import z_image_pipeline

import mitune
from mitune.adapters import adapter
from mitune.diffusion.noise import candidate_keys, normal
from mitune.engine.candidate import Candidate
from mitune.models.packing import pack

STEPS, GUIDANCE = 5, 4.0


@dataclass(frozen=True)
class Case:
    """A family, and how its pipeline is asked for the same."""

    pipeline: Callable[[], Any]
    guidance: Callable[[float], Mapping[str, Any]] = lambda scale: {"guidance_scale": scale}
    """From our scale to the options of the pipeline's call."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """Options of that call beside the usual ones."""
    given: Callable[[Tensor], Tensor] = lambda z: z
    """From our noise to the ``latents`` of that call."""
    drawn: Callable[[Tensor], Tensor] = lambda z: z
    """From our latents to what the pipeline returns with ``output_type="latent"``."""
    scheduler: str | None = None
    """The pipeline's own solver, where the preset has another one."""
    size: tuple[int, int] | None = None
    compiles: bool = True
    alone: bool = False
    """The pipeline is given one prompt at a time, as a text there depends on those beside it."""
    with_lora: Callable[[Any, Path], Any] = with_lora
    """A pipeline with an adapter's file in its weights: peft's own means where diffusers' class has
    none."""

    exact: float | None = 1e-6
    """How far float64 may be from the pipeline in float64; None: the pipeline itself gives NaN."""

    def load(self, source: Any = None) -> Any:
        return mitune.load(self.pipeline() if source is None else source, size=self.size)


CASES = {
    "AuraFlow": Case(aura_flow_pipeline),
    "Chroma": Case(chroma_pipeline, given=pack, drawn=pack, size=(32, 32)),
    # Its pipeline has its times in float32.
    "CogView4": Case(cogview4_pipeline, compiles=False, alone=True, exact=1e-5),
    "FLUX.1-dev": Case(
        flux_pipeline,
        guidance=lambda scale: {"guidance_scale": 1.0, "true_cfg_scale": scale},
        call={"negative_prompt": [""] * 4},
        given=pack,
        drawn=pack,
        size=(32, 32),
    ),
    "FLUX.2-klein": Case(flux2_klein_pipeline, drawn=before_decoding, size=(32, 32)),
    "Hunyuan-DiT": Case(
        hunyuan_dit_pipeline,
        call={"use_resolution_binning": False},
        scheduler="euler",
        with_lora=with_peft,
    ),
    "Lumina 2": Case(lumina2_pipeline, compiles=False),
    "PixArt-Sigma": Case(
        pixart_sigma_pipeline,
        call={"use_resolution_binning": False, "clean_caption": False},
        scheduler="ddim",
        with_lora=with_peft,
    ),
    "Qwen-Image": Case(
        qwen_image_pipeline,
        guidance=lambda scale: {"true_cfg_scale": scale},
        call={"negative_prompt": [""] * 4},
        given=pack,
        drawn=pack,
        size=(32, 32),
    ),
    "Sana": Case(sana_pipeline, call={"use_resolution_binning": False}, exact=None),
    "Z-Image": Case(
        z_image_pipeline,
        guidance=lambda scale: {"guidance_scale": scale - 1},
        size=(32, 32),
        compiles=False,
    ),
}
OTHERS = {"SDXL": Case(sdxl_pipeline, scheduler="euler"), "SD3": Case(sd3_pipeline)}
"""Which have modules of their own."""
TRAINING = mitune.TuneConfig(
    rank=2, alpha=2, batch=4, micro_batch=2, iterations=3, lr=0.1, t_range=(0, 1000)
)


def quick(model: Any, case: Case) -> Any:
    own = model.preset.sampler
    sampler = replace(
        own, steps=STEPS, guidance=GUIDANCE, scheduler=case.scheduler or own.scheduler
    )
    return mitune.BuildConfig(candidates=3, sampler=sampler, runtime=mitune.Runtime(slots=4))


def draw(case: Case, model: Any, backend: str = "eager") -> list[Any]:
    """With guidance, in slots that do not divide the pool."""
    sampler = quick(model, case).sampler
    return list(
        mitune.generate(
            model, TEXTS, candidates=2, sampler=sampler, seed=3, slots=3, backend=backend
        )
    )


def noise_of(model: Any, made: list[Any]) -> Tensor:
    """That of the candidates."""
    keys = candidate_keys([(c.seed, c.prompt, c.index) for c in made])
    return normal(keys, torch.zeros(len(made), dtype=torch.int64), model.latent_shape)


def drawn_by_pipeline(
    case: Case, model: Any, made: list[Any], output: str, dtype: torch.dtype = torch.float32
) -> Tensor:
    """What the family's own pipeline draws from the noise of ``made``."""
    noise = noise_of(model, made).to(dtype)
    height, width = model.picture_size
    together = 1 if case.alone else len(made)
    theirs = [
        case.pipeline()
        .to(dtype)(
            prompt=[c.prompt for c in made[i : i + together]],
            height=height,
            width=width,
            latents=case.given(noise[i : i + together]),
            num_inference_steps=STEPS,
            output_type=output,
            **case.guidance(GUIDANCE),
            **case.call,
        )
        .images
        for i in range(0, len(made), together)
    ]
    return torch.cat(theirs)


def check_drawing(case: Case, backend: str) -> None:
    """From the same noise the engine draws what the pipeline does; so its text is the pipeline's
    too, and that of no prompt."""
    model = case.load()
    made = draw(case, model, backend)
    ours = case.drawn(torch.stack([c.latent for c in made]))
    assert furthest(ours, drawn_by_pipeline(case, model, made, "latent")) < 1e-4
    assert all(c.score > 0 for c in made)  # a sum of squares


def check_float64(case: Case) -> None:
    """The schedule's table, the call, the text and the rule of guidance are the pipeline's to the
    last digits: the engine's own latents are float32 in every precision."""
    model = mitune.load(case.pipeline(), precision="float64", size=case.size)
    for name in model.encoders:
        if name in model.networks:
            model.networks[name].double()
    schedule = model.schedule(quick(model, case).sampler)
    made = [
        Candidate(
            prompt=text,
            prompt_index=i,
            index=i,
            seed=3,
            score=0.0,
            terms=torch.zeros(0, 2),
            latent=torch.zeros(model.latent_shape),
        )
        for i, text in enumerate(TEXTS * 2)
    ]
    cond, null = model.encode_prompts([c.prompt for c in made]), model.encode_null()
    null = {n: x.expand(len(made), *x.shape[1:]).contiguous() for n, x in null.items()}
    noise = noise_of(model, made).double()
    z, network = schedule.init_scale * noise, model.networks[model.denoiser]
    with torch.no_grad():
        for a, b, t in zip(schedule.a, schedule.b, schedule.timesteps, strict=True):
            times = t.double().expand(len(made))
            c, u = model.call(network, z, times, cond), model.call(network, z, times, null)
            guided = u + GUIDANCE * (c - u)
            z = a * z + b * (model.renormalise(guided, c) if model.renormalise else guided)
    theirs = drawn_by_pipeline(case, model, made, "latent", torch.float64)
    assert furthest(case.drawn(z), theirs) < case.exact


def check_gradient(case: Case, backend: str, folder: Path) -> None:
    """The merged gradient trains as peft's does."""
    first = case.load()
    built = mitune.build_set(first, TEXTS, folder / "set", quick(first, case))
    runs = []
    for options in ({"gradient": "peft"}, {"backend": backend}):
        model = case.load()
        config = replace(TRAINING, eps=1e-4, lr=1e-2)
        out = mitune.tune(model, built, folder / str(len(runs)), config, **options)
        adapter.load(model, out)
        runs.append(predict(model))
    assert furthest(runs[1], runs[0]) < 1e-4
