"""Build a fine-tuning set: generate every prompt's pool, score it, keep the best (Wang et al.,
Algorithm 1, lines 3-9)."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.core.progress import warn_unrecorded
from mitune.core.provenance import environment
from mitune.diffusion.schedule import Schedule
from mitune.engine.candidate import Candidate
from mitune.engine.engine import PromptEncoder, Work
from mitune.engine.policies import Policy, Unpruned
from mitune.engine.stream import check_run, generate, pool
from mitune.models.protocol import LatentModel
from mitune.runtime.prepared import Prepared, prepare
from mitune.scoring.estimate import pointwise_mi
from mitune.selection.prune import PruneConfig, exact
from mitune.selection.recheck import check_reach, settled
from mitune.selection.steering import Steering
from mitune.sets import FineTuningSet, SetWriter

ESTIMATORS = ("trajectory", "orthogonal", "standard")
"""What ranks a pool: "trajectory" is Eq. 2 along the sampler's own path, at no cost; the other two
re-noise each finished latent ``draws`` times (orthogonal: Eq. 2; standard: Kong et al. 2024)."""


def build_set(
    model: LatentModel,
    prompts: Sequence[str],
    out: Path | str,
    *,
    candidates: int | None = None,
    keep: int | None = None,
    select: str = "mi",
    estimator: str | None = None,
    draws: int | None = None,
    sampler: SamplerConfig | None = None,
    seed: int = 0,
    slots: int = 64,
    backend: str = "eager",
    attention: str = "auto",
    prune: PruneConfig | None = None,
    settle: float | None = None,
    adapter: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FineTuningSet:
    """Build, or go on building, the set in folder ``out``.

    None means the model's preset. Scores are in nats; every candidate's score and per-step terms
    are kept, latents only of the selected ones. With the trajectory's score, steps that do not
    count are taken by the best alone (with t_min = 50 the last 3 of 50): that changes no score.

    Args:
        model: from ``mitune.load``, with or without an adapter on it.
        prompts: distinct texts.
        out: the set's folder; the same call after an interruption goes on, and ends in the same
            set, bit for bit on one machine. So the model (by its contents, not its path),
            precision, backend, attention and slots have to be the same.
        candidates: pool size M.
        keep: how many of each pool are kept.
        select: "mi", or for controls "random" and "worst".
        estimator: one of ESTIMATORS.
        draws: re-noising draws of the two estimators that re-noise.
        sampler: how candidates are sampled.
        seed: keys all noise.
        slots: candidates in flight; no more than there are.
        backend, attention: what runs the UNet, as ``mitune.generate``.
        prune: drop candidates before their score is complete; None drops nobody. ``audit()`` of the
            set then tells what that lost. With the trajectory's score and selection by mi alone.
        settle: in half precision, make whoever is within so many standard deviations of a pool's
            scores of the k-th best once more in float32, so that rounding decides no near tie; None
            leaves it to rounding. With the trajectory's score and selection by mi alone.
        adapter: what identifies the adapter on the model (its file's ``digest``), recorded in the
            settings; None for the base model.
        progress: called with (candidates done, candidates in all).

    Raises:
        UserError: bad numbers or names; a folder with another set; a disk that cannot be written.
    """
    preset = model.preset
    sampler = sampler or preset.sampler
    candidates = preset.candidates if candidates is None else candidates
    keep = preset.keep if keep is None else keep
    estimator = estimator or preset.estimator
    draws = preset.draws if draws is None else draws
    if estimator not in ESTIMATORS:
        raise UserError(
            f"estimator {estimator!r} is not known: choose one of {', '.join(ESTIMATORS)}"
        )
    if draws < 1:
        raise UserError(f"draws is {draws}: expected at least 1")
    check_run(prompts, candidates, seed, slots)
    schedule = Schedule.from_diffusers(
        model.scheduler, steps=sampler.steps, kind=sampler.scheduler, eta=sampler.eta
    )
    weights = schedule.weights(sampler.convention, sampler.t_min)
    steered = estimator == "trajectory" and select == "mi"
    if prune and not steered:
        raise UserError(
            f"prune is {prune.policy}, the estimator {estimator} and select {select}: expected "
            "estimator trajectory and select mi, whose score is known on the way"
        )
    if prune:
        prune = prune.for_run(
            weights=weights,
            precision=model.precision,
            candidates=candidates,
            prompts=len(prompts),
            keep=keep,
        )
    if settle is not None:
        _check_settle(settle, model.precision, prune, steered)
    total = len(prompts) * candidates
    slots = min(slots, total)  # idle slots cost as much as busy ones
    settings = {
        "model_fingerprint": model.fingerprint,
        "model_parts": model.parts,
        "adapter": adapter,
        "estimator": estimator,
        "draws": draws if estimator != "trajectory" else None,
        "seed": seed,
        "precision": model.precision,
        "backend": backend,
        "attention": attention,
        "slots": slots,
        "sampler": asdict(sampler),
        # Through JSON, in which it is compared and stored: it has no tuples.
        "prune": json.loads(json.dumps(asdict(prune))) if prune else None,
    }
    if settle is not None:
        settings["settle"] = settle
    prepare(model, backend, attention)  # fail before the folder is created
    with SetWriter(
        out,
        settings,
        prompts,
        candidates,
        keep,
        select,
        environment=environment(model.device),
        notes={"model": model.name},
    ) as writer:
        pending = set(writer.pending_prompts())
        if pending:
            warn_unrecorded(out, writer.unrecorded)

        def make(
            work: list[Work], policy: Callable[[int], Policy] | None, **changes: Any
        ) -> Iterator[Candidate]:
            given: dict[str, Any] = {
                "sampler": sampler,
                "backend": backend,
                "slots": slots,
            } | changes
            return generate(
                model,
                prompts,
                candidates=candidates,
                seed=seed,
                attention=attention,
                policy=policy,
                work=work,
                **given,
            )

        def draft(work: list[Work]) -> Iterator[Candidate]:
            assert prune is not None
            cheap = replace(sampler, steps=prune.draft_steps or sampler.steps)
            own = Schedule.from_diffusers(
                model.scheduler, steps=cheap.steps, kind=cheap.scheduler, eta=cheap.eta
            ).weights(cheap.convention, cheap.t_min)
            # Nobody's picture is wanted yet: no step without weight but by one of each pool.
            rough = exact(own, 1)
            return make(work, lambda p: rough, sampler=cheap, precision=prune.draft_precision)

        steering = Steering(
            prune,
            prompts,
            weights,
            keep,
            seed,
            Path(out),
            make=make,
            draft=draft,
            block=20 * slots,
        )
        made: Iterable[Candidate]
        if steered and (prune or not isinstance(exact(weights, keep), Unpruned)):
            made = steering.make(
                [w for w in pool(prompts, candidates) if w.prompt_index in pending]
            )
        else:
            made = make(_remaining(prompts, candidates, pending, slots), None)
        if settle is not None:
            fewer = max(1, slots // 4)  # they are few: idle slots cost as much as busy ones
            best_go_on = exact(weights, keep)
            made = settled(
                made,
                lambda work: make(work, lambda p: best_go_on, precision="float32", slots=fewer),
                candidates=candidates,
                keep=keep,
                reach=settle,
                block=slots,
            )
        if estimator != "trajectory":
            prepared = prepare(model, backend, attention)  # the one that generates
            made = _rescore(
                prepared, prompts, made, schedule, estimator, draws, seed, sampler, slots
            )
        done = total - len(pending) * candidates
        for candidate in made:
            writer.add(candidate)
            if candidate.prompt_index in pending:
                done += 1
                if progress:
                    progress(done, total)
        steering.write_audit()
    return FineTuningSet.open(out)


def _check_settle(reach: float, precision: str, prune: PruneConfig | None, steered: bool) -> None:
    check_reach(reach)
    if precision in ("float32", "float64"):
        raise UserError(
            f"settle is given and the precision {precision}: expected half precision, whose near "
            "ties float32 settles"
        )
    if prune or not steered:
        raise UserError(
            f"settle is given with {f'prune {prune.policy}' if prune else 'another score'}: "
            "expected no pruning, estimator trajectory and select mi"
        )


def _remaining(
    prompts: Sequence[str], candidates: int, pending: set[int], slots: int
) -> list[Work]:
    """What is left to make, from the start of the wave of slots in which the first of it falls.

    Without pruning candidate j of the run always sits in slot j mod slots. Starting at a multiple
    of ``slots`` puts every candidate of a resumed run into the very batch that an uninterrupted run
    puts it into, so that even the rounding of the matrix products is the same; at most slots - 1
    candidates are made twice.
    """
    if not pending:
        return []
    stream = pool(prompts, candidates)
    first = min(pending) * candidates
    last = (max(pending) + 1) * candidates
    return stream[first - first % slots : last]


def _rescore(
    prepared: Prepared,
    prompts: Sequence[str],
    made: Iterable[Candidate],
    schedule: Schedule,
    estimator: str,
    draws: int,
    seed: int,
    sampler: SamplerConfig,
    block: int,
) -> Iterator[Candidate]:
    """Replace the score of each candidate by the estimate of its re-noised latent, in the order
    they come. All share the draws' noise: candidates are to be compared, and a score may depend on
    nothing but its candidate.
    """
    encoder = PromptEncoder(prepared.encode_prompts, prompts)
    null = prepared.encode_null()
    made = iter(made)
    while chunk := list(islice(made, block)):
        rows = [encoder.row(candidate.prompt_index) for candidate in chunk]
        scores = pointwise_mi(
            prepared,
            torch.stack([candidate.latent for candidate in chunk]).to(prepared.model.device),
            {name: torch.stack([row[name] for row in rows]) for name in null},
            null,
            schedule,
            estimator=estimator,
            draws=draws,
            seed=seed,
            batch=block,
            t_min=sampler.t_min,
            convention=sampler.convention,
            shared_noise=True,
        )
        for candidate, score in zip(chunk, scores.tolist(), strict=True):
            yield replace(candidate, score=score)
