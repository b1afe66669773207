"""The pools of a study: candidates of all training prompts at one guidance, each with its latent
and its scores by every rule that the study needs. Nothing here reads an oracle.

Candidates lie in one file and each rule's scores in one of their own beside it, so that studies of
other rules draw nothing again."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.engine.candidate import Candidate
from mitune.evaluation.drawing import draw_candidates
from mitune.evaluation.rules import Rests, Rule, rank
from mitune.evaluation.studies.stored import bytes_of, from_bytes, precision_of, stored
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
    runtime: Runtime | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pools:
    """The pools in the file ``path`` with the scores beside it; what is missing is made and
    written.

    Args:
        path: of a Parquet file with a row for each candidate.
        model: draws and scores; with an adapter on it if ``adapter`` is given.
        prompts: P distinct texts.
        rests: reads a prompt's phrases.
        plan: of the pools.
        adapter: digest of the adapter on the model.
        runtime: how the denoiser is run.
        progress: called with (candidates drawn, candidates in all).

    Raises:
        UserError: a file is of another model or other settings.
    """
    identity: dict[str, Any] = {
        "model": model.fingerprint,
        "parts": model.parts,
        "adapter": adapter,
        "prompts": list(prompts),
        "sampler": asdict(plan.sampler),
        "candidates": plan.candidates,
        "seed": plan.seed,
        **precision_of(model),
    }
    table = stored(path, identity, lambda: _drawn(model, prompts, plan, runtime, progress))
    made = _candidates(table, prompts, model, plan)
    shape = (len(prompts), plan.candidates)
    latents = torch.stack([candidate.latent for candidate in made])
    scored = {**identity, "draws": plan.draws, "latents": digest(latents)}
    files = {rule: scores_file(path, rule) for rule in plan.rules}
    missing = [rule for rule, file in files.items() if not file.exists()]
    if missing:
        found = rank(
            model,
            made,
            plan.candidates,
            plan.sampler,
            missing,
            rests,
            draws=plan.draws,
            seed=plan.seed,
            runtime=runtime,
        )
    scores = {}
    for rule, file in files.items():

        def make(rule: Rule = rule) -> pa.Table:
            return pa.table({"score": found[rule].numpy()})

        column = stored(file, {**scored, "rule": str(rule)}, make)
        scores[rule] = torch.from_numpy(column["score"].to_numpy().copy()).view(shape)
    return Pools(
        prompts=tuple(prompts), latents=latents.view(*shape, *model.latent_shape), scores=scores
    )


def scores_file(path: Path, rule: Rule) -> Path:
    """Where the scores of the pools in ``path`` by a rule lie."""
    return path.with_suffix("") / f"{rule.score} above {rule.t_min:g}.parquet"


def digest(latents: Tensor) -> str:
    """SHA-256 of float32 latents."""
    return hashlib.sha256(latents.numpy().tobytes()).hexdigest()


def _drawn(
    model: LatentModel,
    prompts: Sequence[str],
    plan: PoolPlan,
    runtime: Runtime | None,
    progress: Callable[[int, int], None] | None,
) -> pa.Table:
    made = draw_candidates(
        model,
        prompts,
        images=plan.candidates,
        sampler=plan.sampler,
        seed=plan.seed,
        runtime=runtime,
        progress=progress,
    )
    columns: dict[str, Any] = {
        "prompt": [c.prompt for c in made],
        "candidate": [c.index for c in made],
        "score": np.array([c.score for c in made]),
        "terms": bytes_of(torch.stack([c.terms for c in made])),
        "latent": bytes_of(torch.stack([c.latent for c in made])),
    }
    return pa.table(columns)


def _candidates(
    table: pa.Table, prompts: Sequence[str], model: LatentModel, plan: PoolPlan
) -> list[Candidate]:
    """What ``_drawn`` put into a table."""
    latents = from_bytes(table["latent"].to_pylist()).view(-1, *model.latent_shape)
    terms = from_bytes(table["terms"].to_pylist()).view(len(latents), -1, 2)
    place = {prompt: number for number, prompt in enumerate(prompts)}
    return [
        Candidate(
            prompt=row["prompt"],
            prompt_index=place[row["prompt"]],
            index=row["candidate"],
            seed=plan.seed,
            score=row["score"],
            terms=terms[number],
            latent=latents[number],
        )
        for number, row in enumerate(table.select(["prompt", "candidate", "score"]).to_pylist())
    ]
