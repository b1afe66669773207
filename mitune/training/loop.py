"""Train an adapter on a set (MI-Tune, Algorithm 1, line 10)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mitune.adapters import adapter as adapters
from mitune.config.options import with_options
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.core.files import file_lock, make_folder
from mitune.core.provenance import environment
from mitune.models.protocol import LatentModel, denoiser_of
from mitune.runtime.backends import need_fixed_shapes
from mitune.runtime.cuda_graphs import need_gpu
from mitune.training import manifest, shards
from mitune.training.batches import Batches
from mitune.training.callbacks import Watch
from mitune.training.checkpoint import TrainState
from mitune.training.material import Pairs, gathered
from mitune.training.mixing import Ranked
from mitune.training.processes import Processes, joined
from mitune.training.recomputed import recomputed
from mitune.training.steps import train


def tune(
    model: LatentModel,
    fine_tuning_set: Pairs,
    out: Path | str,
    config: TuneConfig | None = None,
    *,
    adapter: Path | str | None = None,
    real: Ranked | None = None,
    prior: Pairs | None = None,
    worse: Pairs | None = None,
    weights: Sequence[float] | None = None,
    wrong: Mapping[str, str] | None = None,
    watch: Watch | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    **options: Any,
) -> Path:
    """Train an adapter (with method full, the denoiser) on the kept pairs, or resume the run in
    ``out``.

    The result depends only on (model, all pairs, config, starting adapter), and on the MI of
    held-out prompts if ``watch`` uses it to decide. On one device, a run that was killed and
    resumed ends with the same bits as one that was not. ``micro_batch`` and the number of processes
    that ``torchrun`` starts change only rounding. If the run in ``out`` is finished, nothing is
    done.

    Args:
        model: from ``mitune.load``, without an adapter on it; it has none afterwards either.
        fine_tuning_set: the pairs; they and their text embeddings are held on the device.
        out: folder of the run: pytorch_lora_weights.safetensors (or unet/ or transformer/),
            README.md (the model card), run.json, metrics.jsonl, checkpoints/; samples/ and
            tensorboard/ if requested.
        config: hyper-parameters; None takes the model's preset.
        adapter: folder or file of an adapter to start from; None creates a new one.
        real: a set of real pictures from ``mitune.build_real_set``. Its best pairs are added until
            they make up the share ``config.real_share`` of all pairs.
        prior: unselected pairs that the model itself generated, for a prior-preservation term with
            the weight ``config.prior_weight``; a set built with ``select="random"``.
        worse: a set of the same prompts built with ``select="worst"``: the pairs are trained to be
            preferred to its, by Diffusion-DPO with ``config.dpo_beta``, or by HN-ITM with
            ``config.itm_factor``.
        weights: of the loss of each pair of the set, not negative, such as rewards; None: 1 each.
        wrong: for each prompt one that does not fit its pictures, for HN-ITM
            (``mitune.methods.negatives``).
        watch: what to watch between steps, whether to stop early, and which step's adapter is the
            result; None watches nothing, never stops early and takes the last step.
        progress: called after each step with (steps done, steps in all, loss).
        options: of ``TuneConfig`` by name, in place of ``config``'s: ``rank=8, lr=1e-3``.

    Returns:
        ``out``. ``mitune.load`` accepts it as an adapter for every method; ``load_lora_weights`` of
        the model's pipeline reads it for all methods except full.

    Raises:
        UserError: if the set is empty or of another model; the adapter does not fit; the folder
            holds another run (the message names each setting that differs); the loss is not finite;
            there are too few real pictures, or a share but no real pictures; a prior comes without
            a weight or a weight without a prior; worse pictures without a beta or the other way
            round, or a prompt has none; weights that do not fit; held-out prompts are trained on;
            or their MI was never finite although it has to choose the result.
        KeyboardInterrupt: on SIGINT or SIGTERM, after a checkpoint of the last whole step was
            saved; the same call resumes from there.
    """
    chosen, folder = with_options(config or model.preset.tuning, options), Path(out)
    start = None if adapter is None else Path(adapter)
    material = gathered(
        model,
        chosen,
        fine_tuning_set,
        real=real,
        prior=prior,
        worse=worse,
        weights=weights,
        wrong=wrong,
    )
    watch = watch or Watch()
    wanted = manifest.settings(model, material, chosen, start, watch.decides)
    # Check everything before the first file is written.
    if manifest.check(folder, wanted) and adapters.finished(folder):
        return folder
    need_fixed_shapes(model, chosen.backend, chosen.cuda_graphs)
    if chosen.cuda_graphs:
        need_gpu(model.device)
    watch.check_prompts(prompt for prompt, _ in material.pairs)
    batches = Batches(
        model,
        material.pairs,
        chosen,
        material.prior.pairs if material.prior else (),
        worse=material.worse.pairs if material.worse else (),
        weights=material.weights or (),
        wrong=material.wrong,
    )
    if adapters.attached(model):
        raise UserError(
            "the model already carries an adapter: expected the plain model; detach the adapter, "
            "or give its folder as the one to start from"
        )
    try:
        _put(model, chosen, start)
        with (
            joined(model.device) as processes,
            recomputed(model, chosen.gradient_checkpointing),
        ):
            state = _begin(model, chosen, processes)
            if state.shards is not None and batches.sizes > 1:
                # Each pass gathers weights, and processes would have different numbers of passes.
                raise UserError(
                    f"the pictures have {batches.sizes} sizes and several processes share the "
                    "weights: expected one size; use one process, or an adapter"
                )
            with _writing(folder, processes) as first:
                # Check again under the lock: another run may have used the folder in the meantime.
                if first and not manifest.check(folder, wanted):
                    manifest.write(folder, wanted, environment(model.device), model.name)
                processes.wait()
                if not adapters.finished(folder):
                    train(model, batches, state, folder, chosen, wanted, watch, processes, progress)
                    processes.wait()
    finally:
        adapters.detach(model)
    return folder


@contextmanager
def _writing(folder: Path, processes: Processes) -> Iterator[bool]:
    """Yield whether this process is the one that writes; it locks the folder meanwhile."""
    if processes.rank > 0:
        yield False
        return
    make_folder(folder)
    with file_lock(folder):
        yield True


def _put(model: LatentModel, config: TuneConfig, start: Path | None) -> None:
    """Put the adapter from which training starts on the model."""
    if start is None:
        adapters.attach(model, config)
    else:
        adapters.load(model, start, fingerprint=model.fingerprint, trainable=True)
        adapters.require(model, config, start)


def _begin(model: LatentModel, config: TuneConfig, processes: Processes) -> TrainState:
    """The state before the first step: the adapter on the model and a new optimizer."""
    parameters, groups, spread = adapters.parameters(model), adapters.groups(model, config), None
    if shards.check(config, processes):
        spread = shards.Shards(denoiser_of(model), model.shard_blocks, model.device, processes)
        parameters = spread.parameters()
        groups = [{**groups[0], "params": list(parameters.values())}]
    optimizer = torch.optim.AdamW(groups, fused=True, **config.adamw)
    return TrainState(model=model, parameters=parameters, optimizer=optimizer, shards=spread)
