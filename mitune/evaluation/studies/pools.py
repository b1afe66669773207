"""The pools of a study: candidates of all training prompts at one guidance, each with its latent
and its scores by every rule that the study needs. Nothing here reads an oracle."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from mitune.config.sampling import SamplerConfig
from mitune.evaluation.drawing import draw_candidates
from mitune.evaluation.rules import Rests, Rule, rank
from mitune.evaluation.studies.stored import bytes_of, from_bytes, stored
from mitune.models.protocol import LatentModel


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """How pools are drawn and scored.

    Attributes:
        sampler: of the candidates.
        candidates: M of each prompt.
        rules: by which they are scored.
        draws: of re-noising, for each picture.
        seed: keys all noise.
    """

    sampler: SamplerConfig
    candidates: int
    rules: tuple[Rule, ...]
    draws: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Pools:
    """P prompts' pools of M candidates.

    Attributes:
        prompts: P texts.
        latents: ``[P, M, C, H, W]`` float32.
        scores: by rule, ``[P, M]`` float64.
    """

    prompts: tuple[str, ...]
    latents: Tensor
    scores: Mapping[Rule, Tensor]


def stored_pools(
    path: Path,
    model: LatentModel,
    prompts: Sequence[str],
    rests: Rests,
    plan: PoolPlan,
    *,
    adapter: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pools:
    """The pools in the file ``path``, or new ones, which are written there.

    Args:
        path: of a Parquet file with a row for each candidate.
        model: draws and scores; with an adapter on it if ``adapter`` is given.
        prompts: P distinct texts.
        rests: reads a prompt's phrases.
        plan: of the pools.
        adapter: digest of the adapter on the model.
        progress: called with (candidates drawn, candidates in all).

    Raises:
        UserError: the file is of another model or other settings.
    """
    identity: dict[str, Any] = {
        "model": model.fingerprint,
        "parts": model.parts,
        "adapter": adapter,
        "prompts": list(prompts),
        "sampler": asdict(plan.sampler),
        "candidates": plan.candidates,
        "rules": [str(rule) for rule in plan.rules],
        "draws": plan.draws,
        "seed": plan.seed,
    }
    table = stored(path, identity, lambda: _drawn(model, prompts, rests, plan, progress))
    shape = (len(prompts), plan.candidates)
    latents = from_bytes(table["latent"].to_pylist())
    return Pools(
        prompts=tuple(prompts),
        latents=latents.view(*shape, *model.latent_shape),
        scores={
            rule: torch.from_numpy(table[str(rule)].to_numpy().copy()).view(shape)
            for rule in plan.rules
        },
    )


def _drawn(
    model: LatentModel,
    prompts: Sequence[str],
    rests: Rests,
    plan: PoolPlan,
    progress: Callable[[int, int], None] | None,
) -> pa.Table:
    made = draw_candidates(
        model,
        prompts,
        images=plan.candidates,
        sampler=plan.sampler,
        seed=plan.seed,
        progress=progress,
    )
    scores = rank(
        model,
        made,
        plan.candidates,
        plan.sampler,
        plan.rules,
        rests,
        draws=plan.draws,
        seed=plan.seed,
    )
    columns: dict[str, Any] = {
        "prompt": [c.prompt for c in made],
        "candidate": [c.index for c in made],
        "latent": bytes_of(torch.stack([c.latent for c in made])),
    }
    return pa.table(columns | {str(rule): found.numpy() for rule, found in scores.items()})
