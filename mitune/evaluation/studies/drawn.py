"""Test pictures of a study: drawn from held-out prompts, judged by the world's oracle, and
described by features. What selects and trains does not import this module."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from mitune.adapters import adapter as adapters
from mitune.adapters.adapter_file import digest
from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.config.sets import GenerateConfig
from mitune.evaluation.drawing import Images, draw, draw_candidates
from mitune.evaluation.studies.quality import features
from mitune.evaluation.studies.stored import bytes_of, from_bytes, precision_of, stored
from mitune.methods.sampling.sample import Method, sample
from mitune.models.protocol import LatentModel
from mitune.worlds.world import World


@dataclass(frozen=True, kw_only=True)
class Drawer:
    """What draws test pictures; the default is the base model with classifier-free guidance.

    Attributes:
        adapter: on the model; None: none.
        method: what happens at sampling; None: nothing beyond guidance.
        settings: tell the method's settings, for the identity of its pictures.
        best_of: each picture is the best of so many by mutual information along its path.
    """

    adapter: Path | None = None
    method: Method | None = None
    settings: str = ""
    best_of: int = 1


def stored_pictures(
    path: Path,
    world: World,
    model: LatentModel,
    prompts: Mapping[str, str],
    *,
    images: int,
    sampler: SamplerConfig,
    seed: int,
    drawer: Drawer,
    runtime: Runtime | None = None,
) -> pa.Table:
    """What the oracle says of a model's pictures: the table in the file ``path``, with a row for
    each picture in the order of prompt and index; if there is none, it is drawn and judged.

    Args:
        path: of the Parquet file.
        world: whose oracle judges.
        model: without an adapter; it has none afterwards either.
        prompts: with their categories.
        images: of each prompt.
        sampler: that draws.
        seed: keys the noise, the same for every model that is compared.
        drawer: what draws.
        runtime: how the denoiser is run, where no method acts at sampling.

    Raises:
        UserError: the adapter does not fit, or the file is of another model or other settings.
    """
    adapter = drawer.adapter
    identity: dict[str, Any] = {
        "model": model.fingerprint,
        "parts": model.parts,
        "adapter": None if adapter is None else digest(adapter),
        "prompts": list(prompts),
        "images": images,
        "sampler": asdict(sampler),
        "seed": seed,
        **precision_of(model),
    }
    if drawer.method is not None:
        identity["method"] = drawer.settings
    if drawer.best_of > 1:
        identity["best_of"] = drawer.best_of

    def make() -> pa.Table:
        if adapter is not None:
            adapters.load(model, adapter, fingerprint=model.fingerprint)
        try:
            made = _drawn(model, list(prompts), images, sampler, seed, drawer, runtime)
        finally:
            if adapter is not None:
                adapters.detach(model)
        found = judged(world, model, made.prompts, model.decode(made.latents), prompts)
        return found.append_column("latent", [bytes_of(made.latents)])

    return stored(path, identity, make)


def _drawn(
    model: LatentModel,
    prompts: list[str],
    images: int,
    sampler: SamplerConfig,
    seed: int,
    drawer: Drawer,
    runtime: Runtime | None,
) -> Images:
    of = drawer.best_of
    config = GenerateConfig(candidates=images * of, sampler=sampler, seed=seed)
    if drawer.method is not None:
        made = list(sample(model, prompts, drawer.method, config))
    elif of > 1:
        made = draw_candidates(
            model, prompts, images=images * of, sampler=sampler, seed=seed, runtime=runtime
        )
    else:
        return draw(model, prompts, images=images, sampler=sampler, seed=seed, runtime=runtime)
    made = [max(made[i : i + of], key=lambda c: c.score) for i in range(0, len(made), of)]
    return Images(prompts=[c.prompt for c in made], latents=torch.stack([c.latent for c in made]))


def stored_drawings(
    path: Path,
    world: World,
    model: LatentModel,
    prompts: Mapping[str, str],
    *,
    images: int,
    seed: int,
) -> pa.Table:
    """As ``stored_pictures``, of the world's own drawings of the prompts: what perfect pictures
    would be."""
    identity = {"parts": model.parts, "prompts": list(prompts), "images": images, "seed": seed}

    def make() -> pa.Table:
        shown = [world.drawings(prompt, images, seed + i) for i, prompt in enumerate(prompts)]
        texts = [prompt for prompt in prompts for _ in range(images)]
        return judged(world, model, texts, torch.cat(shown), prompts)

    return stored(path, identity, make)


def judged(
    world: World,
    model: LatentModel,
    texts: list[str],
    pictures: Tensor,
    categories: Mapping[str, str],
) -> pa.Table:
    """The oracle's verdicts of pictures and their features, a row each."""
    verdicts = world.judge(texts, pictures)
    found = features(model.networks["vae"], pictures)
    columns: dict[str, Any] = {
        "prompt": texts,
        "category": [categories[text] for text in texts],
        "graded": [v.graded for v in verdicts],
        "strict": [float(v.strict) for v in verdicts],
        "features": bytes_of(found),
    }
    return pa.table(columns)


def features_of(table: pa.Table) -> Tensor:
    """The features in a table of ``judged``, ``[N, F]`` float64."""
    return from_bytes(table["features"].to_pylist()).view(len(table), -1).double()
