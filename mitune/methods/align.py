"""Algorithm 1: rounds of build, select and tune."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mitune.adapters import adapter
from mitune.adapters.adapter_file import digest
from mitune.config.align import AlignConfig
from mitune.core.errors import UserError
from mitune.methods.build import build_set
from mitune.models.protocol import LatentModel
from mitune.sets import FineTuningSet
from mitune.training.batches import check_times
from mitune.training.loop import tune


@dataclass(frozen=True, kw_only=True)
class Round:
    """The results of one round."""

    set: FineTuningSet
    adapter: Path


def align(
    model: LatentModel,
    prompts: Sequence[str],
    out: Path | str,
    config: AlignConfig | None = None,
    *,
    on_candidate: Callable[[int, int, int], None] | None = None,
    on_step: Callable[[int, int, int, float], None] | None = None,
    **options: Any,
) -> list[Round]:
    """Align ``model`` with itself on ``prompts`` in R rounds (Wang et al., Algorithm 1).

    Round r builds its set with the adapter of round r-1 on the model, and then continues to train
    that adapter. Each round is stored in ``out/round-r`` (``set/``, ``adapter/``). An interrupted
    run resumes and does not repeat finished work. Afterwards the model carries the last round's
    adapter.

    Args:
        model: without an adapter; changed in place.
        prompts: distinct texts.
        out: folder of the run.
        config: the rounds, the sets and the training; None takes the model's preset.
        on_candidate: called with (round, candidates done, candidates in all).
        on_step: called with (round, step, steps, loss).
        options: fields of ``AlignConfig`` and of its nested configs by name, such as ``rounds=2,
            candidates=16, lr=1e-3`` or ``tuning=TuneConfig(...)``. They override ``config``.

    Returns:
        The rounds, in order; the ``adapter`` of the last one is the result.

    Raises:
        UserError: as ``build_set`` and ``tune``; also if no candidate of a round's set could be
            kept.
    """
    config = config.having(**options) if config else AlignConfig.of(model.preset, **options)
    if adapter.attached(model):
        raise UserError(
            "the model carries an adapter: align starts from the plain model; load it without"
        )
    folder, seed = Path(out), config.build.seed
    tuning = replace(config.tuning, seed=seed)
    adapter.check_targets(model, tuning)
    check_times(model, tuning)
    done: list[Round] = []
    for number in range(1, config.rounds + 1):
        place = folder / f"round-{number}"
        previous = done[-1].adapter if done else None
        built = build_set(
            model,
            prompts,
            place / "set",
            replace(config.build, seed=seed + number - 1),
            adapter=None if previous is None else digest(previous),
            progress=_bind(on_candidate, number),
        )
        if not built.selected():
            raise UserError(
                f"{built.path} kept no candidate: every score is non-finite; see its parts"
            )
        # tune needs the plain model: it attaches the previous round's adapter itself.
        adapter.detach(model)
        path = tune(
            model,
            built,
            place / "adapter",
            tuning,
            adapter=previous,
            progress=_bind(on_step, number),
        )
        adapter.detach(model)
        adapter.load(model, path, fingerprint=model.fingerprint)
        done.append(Round(set=built, adapter=path))
    return done


def _bind(callback: Callable[..., None] | None, number: int) -> Callable[..., None] | None:
    """``callback`` with the round's number as its first argument."""
    if callback is None:
        return None
    return lambda *rest: callback(number, *rest)
