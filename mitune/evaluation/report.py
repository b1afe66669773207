"""Compare an adapter with the base model: draw, measure, print and write the results."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from mitune.adapters import adapter as adapters
from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.core.files import atomic_write, make_folder
from mitune.core.images import as_pictures, png_of
from mitune.core.provenance import as_json, environment
from mitune.engine.slot_count import with_slots
from mitune.evaluation.compare import Comparison, measure, pooled
from mitune.evaluation.drawing import Images, draw
from mitune.evaluation.pictures import base_and_tuned
from mitune.models.protocol import LatentModel
from mitune.scoring.scorer import Scorer, scorer_identity

MI_DRAWS = 8
SHOWN = "pictures"
"""Folder of both models' pictures of the first prompts, ``MODEL/000.png`` and so on."""
MODELS = ("base", "tuned")
_PICTURED = 8


def use_sampler(
    model: LatentModel, *, steps: int | None = None, guidance: float | None = None
) -> SamplerConfig:
    """The sampler for using ``model``, as opposed to building its set: the preset's sampler with
    its ``use_guidance``, unless ``steps`` or ``guidance`` is given."""
    sampler = model.preset.sampler
    return replace(
        sampler,
        steps=steps or sampler.steps,
        guidance=model.preset.use_guidance if guidance is None else guidance,
    )


def compare_models(
    model: LatentModel,
    tuned: dict[str, Path],
    prompts: Sequence[str],
    *,
    images: int,
    seed: int,
    sampler: SamplerConfig,
    runtime: Runtime | None = None,
    scorers: Sequence[Scorer] = (),
) -> tuple[Comparison, dict[str, Images]]:
    """Draw with the base model and with each adapter on one seed's noise, and measure all pictures
    under the base model and by ``scorers``.

    ``model`` must carry no adapter; it has none afterwards either.
    """
    for path in tuned.values():  # fail on an adapter that does not fit before the base draws
        adapters.load(model, path, fingerprint=model.fingerprint)
        adapters.detach(model)
    # Use the same batch size for drawing and judging, so that the denoiser is compiled once.
    runtime = runtime or Runtime()
    runtime = with_slots(model, runtime, sampler, len(prompts) * images)
    drawing = partial(
        draw,
        model,
        prompts,
        images=images,
        sampler=sampler,
        seed=seed,
        runtime=runtime,
    )
    drawn = {"base": drawing()}
    for name, path in tuned.items():
        adapters.load(model, path, fingerprint=model.fingerprint)
        try:
            drawn[name] = drawing()
        finally:
            adapters.detach(model)
    judging = partial(
        measure, model, draws=MI_DRAWS, batch=runtime.count, runtime=runtime, scorers=scorers
    )
    values = {name: judging(pictures) for name, pictures in drawn.items()}
    texts = drawn["base"].prompts
    return Comparison(prompts=texts, seeds=[seed] * len(texts), values=values), drawn


def _save(pictures: Tensor, folder: Path) -> None:
    make_folder(folder)
    for number, picture in enumerate(as_pictures(pictures)):
        atomic_write(folder / f"{number:03d}.png", png_of(picture))


def compare_adapter(
    model: LatentModel,
    adapter: Path,
    prompts: Sequence[str],
    *,
    out: Path | None,
    images: int,
    seeds: Sequence[int],
    steps: int | None = None,
    guidance: float | None = None,
    runtime: Runtime | None = None,
    scorers: Sequence[Scorer] = (),
) -> dict[str, Any]:
    """The work of ``mitune eval``: print the table to stdout; with ``out``, also write eval.json,
    eval.png and pictures/ there.

    Raises:
        UserError: if the adapter does not fit, or a number is below 1.
    """
    for name, number in (("images", images), ("seeds", len(seeds))):
        if number < 1:
            raise UserError(f"{name} is {number}: expected at least 1")
    sampler = use_sampler(model, steps=steps, guidance=guidance)
    parts, first = [], None
    for seed in seeds:
        comparison, drawn = compare_models(
            model,
            {"tuned": adapter},
            prompts,
            images=images,
            seed=seed,
            sampler=sampler,
            runtime=runtime,
            scorers=scorers,
        )
        parts.append(comparison)
        first = first or drawn
    comparison = pooled(parts)
    print(
        f"{len(prompts)} prompts x {images} pictures x {len(seeds)} seeds, guidance "
        f"{sampler.guidance}"
    )
    print(comparison)
    result: dict[str, Any] = {
        "prompts": len(prompts),
        "images": images,
        "seeds": list(seeds),
        "sampler": asdict(sampler),
        "adapter": str(adapter),
        "scorers": [scorer_identity(scorer) for scorer in scorers],
        "table": comparison.rows(),
        "shown": list(prompts[:_PICTURED]),
        "environment": environment(model.device),
    }
    if out is not None and first is not None:
        make_folder(out)
        shown = result["shown"]
        count = len(shown) * images
        pictures = {name: model.decode(first[name].latents[:count]) for name in MODELS}
        for name, own in pictures.items():
            _save(own, out / SHOWN / name)
        base_and_tuned(shown, pictures["base"], pictures["tuned"], out / "eval.png")
        atomic_write(out / "eval.json", as_json(result, indent=1).encode())
        print(f"table: {out / 'eval.json'}   picture: {out / 'eval.png'}")
    return result
