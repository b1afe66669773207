"""Build a fine-tuning set: generate every prompt's pool, score it, keep the best (Wang et al.,
Algorithm 1, lines 3-9)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mitune.config.options import with_options
from mitune.config.sets import BuildConfig
from mitune.config.shard import WHOLE, Shard
from mitune.core.progress import warn_unrecorded
from mitune.methods.set_build import SetBuild, as_begun
from mitune.models.protocol import LatentModel
from mitune.scoring.scorer import Scorer
from mitune.sets import FineTuningSet


def build_set(
    model: LatentModel,
    prompts: Sequence[str],
    out: Path | str,
    config: BuildConfig | None = None,
    *,
    adapter: str | None = None,
    scorer: Scorer | None = None,
    shard: Shard = WHOLE,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> FineTuningSet:
    """Build the set in folder ``out``, or resume building it.

    Scores are in nats. The set stores the score and the per-step terms of every candidate, but the
    latents only of the selected ones. With the trajectory's score, only the best candidates take
    the steps that have no weight (with t_min = 50, the last 3 of 50); this changes no score. After
    pruning, ``audit()`` of the set reports what the pruning lost.

    Args:
        model: from ``mitune.load``, with or without an adapter on it.
        prompts: distinct texts.
        out: the set's folder. After an interruption, the same call resumes and produces the same
            set, bit for bit on one machine. So the model (by its contents, not its path),
            precision, backend, attention and slots have to be the same.
        config: the pool, its ranking and the runtime; None takes the model's preset.
        adapter: identifies the adapter on the model (the ``digest`` of its file); recorded in the
            settings. None for the base model.
        scorer: the metric to rank by, for a ``config.rank_by`` that is no known name.
        shard: the share of the set that this process makes. Processes with the other shares may
            write the same folder at the same time, on other machines too (or folders of their own,
            which ``mitune.sets.merge.merge`` joins): together they make the set that one process
            makes. A set that is built by whole pools has the same batches for any number of shares;
            one whose candidates end at different steps does not, and may differ by rounding.
        progress: called with (candidates done, candidates in all), of the share.
        options: fields of ``BuildConfig`` and of its nested configs by name, such as
            ``candidates=16, guidance=3.0, backend="inductor"``. They override ``config``.

    Raises:
        UserError: for numbers or names that are not valid, a folder that holds another set, or a
            disk that cannot be written.
    """
    config = as_begun(with_options(config or BuildConfig.of(model.preset), options), out)
    build = SetBuild(model, prompts, config, adapter=adapter, scorer=scorer)
    with build.writer(out, shard) as writer:
        if writer.pending_prompts():
            warn_unrecorded(out, writer.unrecorded)
        build.fill(writer, progress)
    return FineTuningSet.open(out)
