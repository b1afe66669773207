"""Algorithm 1: rounds of build, select and tune."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mitune.adapters import adapter
from mitune.adapters.adapter_file import digest
from mitune.config.sampling import SamplerConfig
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.methods.build import build_set
from mitune.models.protocol import LatentModel
from mitune.selection.prune import PruneConfig
from mitune.sets import FineTuningSet
from mitune.training.loop import tune


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round left behind."""

    set: FineTuningSet
    adapter: Path


def align(
    model: LatentModel,
    prompts: Sequence[str],
    out: Path | str,
    *,
    rounds: int = 1,
    candidates: int | None = None,
    keep: int | None = None,
    select: str = "mi",
    estimator: str | None = None,
    draws: int | None = None,
    sampler: SamplerConfig | None = None,
    tuning: TuneConfig | None = None,
    seed: int = 0,
    slots: int = 64,
    backend: str = "eager",
    attention: str = "auto",
    prune: PruneConfig | None = None,
    settle: float | None = None,
    on_candidate: Callable[[int, int, int], None] | None = None,
    on_step: Callable[[int, int, int, float], None] | None = None,
) -> list[Round]:
    """Align ``model`` with itself on ``prompts`` (Wang et al., Algorithm 1), R rounds.

    Round r builds its set with the adapter of round r-1 on the model and goes on training that
    adapter. Each round lies in ``out/round-r`` (``set/``, ``adapter/``) and resumes; what is
    finished is not done again. The model is left with the last round's adapter on it.

    Args:
        model: without an adapter; it is changed in place.
        prompts: distinct texts.
        out: folder of the run.
        rounds: R.
        candidates, keep, select, estimator, draws, sampler, slots, backend, attention,
            prune, settle: as ``mitune.build_set``; None is the model's preset, or no pruning.
        tuning: as ``mitune.tune``; its seed is replaced by this run's.
        seed: of the run; round r uses seed + r - 1 for its candidates, so that no round repeats
            another's noise.
        on_candidate: called with (round, candidates done, candidates in all).
        on_step: called with (round, step, steps, loss).

    Returns:
        the rounds, in order; the last one's ``adapter`` is the result.

    Raises:
        UserError: as ``build_set`` and ``tune``; a round of a set in which nothing could be kept.
    """
    if rounds < 1:
        raise UserError(f"rounds is {rounds}: expected at least 1")
    if adapter.attached(model):
        raise UserError(
            "the model carries an adapter: align starts from the plain model; load it without"
        )
    folder = Path(out)
    config = replace(tuning or model.preset.tuning, seed=seed)
    if config.real_share:
        raise UserError(
            f"real_share is {config.real_share}: align mixes in no real pictures; build the set, "
            "and tune on it with them"
        )
    if config.prior_weight:
        raise UserError(
            f"prior_weight is {config.prior_weight}: align has no prior set; build the sets, and "
            "tune on one with the other as its prior"
        )
    adapter.check_targets(model, config)
    done: list[Round] = []
    for number in range(1, rounds + 1):
        place = folder / f"round-{number}"
        previous = done[-1].adapter if done else None
        built = build_set(
            model,
            prompts,
            place / "set",
            candidates=candidates,
            keep=keep,
            select=select,
            estimator=estimator,
            draws=draws,
            sampler=sampler,
            seed=seed + number - 1,
            slots=slots,
            backend=backend,
            attention=attention,
            prune=prune,
            settle=settle,
            adapter=None if previous is None else digest(previous),
            progress=_bind(on_candidate, number),
        )
        if not built.selected():
            raise UserError(
                f"{built.path} kept no candidate: every score is non-finite; see its parts"
            )
        # The graph is trained from the plain base: an adapter still attached would be frozen into
        # it.
        adapter.detach(model)
        path = tune(
            model,
            built,
            place / "adapter",
            config,
            adapter=previous,
            progress=_bind(on_step, number),
        )
        adapter.detach(model)
        adapter.load(model, path, fingerprint=model.fingerprint)
        done.append(Round(set=built, adapter=path))
    return done


def _bind(callback: Callable[..., None] | None, number: int) -> Callable[..., None] | None:
    """``callback`` with the round's number before its other arguments."""
    if callback is None:
        return None
    return lambda *rest: callback(number, *rest)
