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

    def load(self, source: Any = None) -> Any:
        return mitune.load(self.pipeline() if source is None else source, size=self.size)


CASES = {
    "AuraFlow": Case(aura_flow_pipeline),
    "Chroma": Case(chroma_pipeline, given=pack, drawn=pack, size=(32, 32)),
    "CogView4": Case(cogview4_pipeline, compiles=False, alone=True),
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
    "Sana": Case(sana_pipeline, call={"use_resolution_binning": False}),
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


def drawn_by_pipeline(case: Case, model: Any, made: list[Any], output: str) -> Tensor:
    """What the family's own pipeline draws from the noise of ``made``."""
    keys = candidate_keys([(c.seed, c.prompt, c.index) for c in made])
    noise = normal(keys, torch.zeros(len(made), dtype=torch.int64), model.latent_shape)
    height, width = model.picture_size
    together = 1 if case.alone else len(made)
    theirs = [
        case.pipeline()(
            prompt=[c.prompt for c in made[i : i + together]],
            height=height,
            width=width,
            latents=case.given(noise[i : i + together]),
            num_inference_steps=STEPS,
            output_type=output,
            **case.guidance(GUIDANCE),
            **case.call,
        ).images
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
