"""The training loop (MI-Tune, Algorithm 1, line 10)."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from mitune.adapters import adapter as adapters
from mitune.adapters.model_card import CARD, card, of_adapter, whole
from mitune.config.options import with_options
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.core.files import atomic_write, file_lock, make_folder
from mitune.core.identity import check_same_model
from mitune.core.provenance import environment, versions
from mitune.models.protocol import LatentModel, denoiser_of
from mitune.runtime.backends import need_fixed_shapes
from mitune.runtime.cuda_graphs import need_gpu
from mitune.training import checkpoint, manifest, shards
from mitune.training.batch_size import find_batch_size
from mitune.training.batches import Batches
from mitune.training.callbacks import Watch, watching
from mitune.training.checkpoint import TrainState
from mitune.training.gradient import Gradient, gradient_of
from mitune.training.interrupt import deferred_interrupt
from mitune.training.mixing import Ranked, check_kinds, check_weights, prior_pairs, real_pairs
from mitune.training.preference import matched
from mitune.training.processes import Processes, joined
from mitune.training.recomputed import recomputed

CHECKPOINTS = "checkpoints"


class Pairs(Protocol):
    """What training needs of a fine-tuning set; ``FineTuningSet`` implements it."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings with which the set was built, as plain JSON."""
        ...

    def selected(self) -> Sequence[tuple[str, Tensor]]:
        """The kept (prompt, latent ``[C, H, W]`` float32) pairs."""
        ...


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
            preferred to its, by Diffusion-DPO with ``config.dpo_beta``.
        weights: of the loss of each pair of the set, not negative, such as rewards; None: 1 each.
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
    for what, found in (
        ("the set", fine_tuning_set),
        ("the real set", real),
        ("the prior", prior),
        ("the set of worse pictures", worse),
    ):
        if found is not None:
            check_same_model(what, found.settings, model)
    check_kinds(real, None if prior is None else prior.settings)
    pairs = fine_tuning_set.selected()
    added = real_pairs(real, chosen.real_share, len(pairs))
    mixed = None if real is None else (added, real.settings)
    kept = prior_pairs(None if prior is None else prior.selected(), chosen.prior_weight)
    beside = None if prior is None else (kept, prior.settings)
    below = matched(pairs, None if worse is None else worse.selected(), chosen.dpo_beta)
    preferred = None if worse is None else (below, worse.settings)
    check_weights(weights, len(pairs), len(added))
    watch = watch or Watch()
    wanted = manifest.settings(
        model,
        pairs,
        fine_tuning_set.settings,
        chosen,
        start,
        mixed,
        beside,
        watch.decides,
        preferred,
        weights,
    )
    # Check everything before the first file is written.
    if manifest.check(folder, wanted) and adapters.finished(folder):
        return folder
    need_fixed_shapes(model, chosen.backend, chosen.cuda_graphs)
    if chosen.cuda_graphs:
        need_gpu(model.device)
    watch.check_prompts(prompt for prompt, _ in [*pairs, *added])
    batches = Batches(model, [*pairs, *added], chosen, kept, below, weights or ())
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
                    _train(
                        model, batches, state, folder, chosen, wanted, watch, processes, progress
                    )
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


def _train(
    model: LatentModel,
    batches: Batches,
    state: TrainState,
    out: Path,
    config: TuneConfig,
    wanted: Mapping[str, Any],
    watch: Watch,
    processes: Processes,
    progress: Callable[[int, int, float], None] | None,
) -> None:
    run, places = manifest.identity(manifest.settings_in(out)), out / CHECKPOINTS
    metadata = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "run": run,
        "set": wanted["set"]["sha256"],
        "settings": wanted["config"],
        "mitune": versions()["mitune"],
    }
    if watch.decides:
        metadata["held_out"] = wanted["held_out"]
    first = processes.rank == 0
    if first:
        checkpoint.clean(places)
    if there := checkpoint.find(places):
        checkpoint.restore(state, there[-1], run)
    if first:
        manifest.cut_metrics(out, state.step)
    processes.wait()  # until all processes have read the checkpoint
    gradient = gradient_of(model, config, state.shards)
    size = find_batch_size(gradient, batches, config, alone=state.shards is None)
    with (
        watching(watch, state, out, config.iterations, processes, wanted) as watcher,
        deferred_interrupt() as interrupted,
    ):
        while state.step < config.iterations and not watcher.stopped:
            began = time.perf_counter()
            found = _gradient(gradient, batches, size, state, config, processes, interrupted)
            if found is None:
                break
            loss, norm = found
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise UserError(_diverged(loss, norm, batches, state.step, checkpoint.find(places)))
            for group in state.optimizer.param_groups:
                group["lr"] = config.lr_at(state.step, group["initial_lr"])
            rates = [group["lr"] for group in state.optimizer.param_groups]
            state.optimizer.step()
            state.step += 1
            line = {"step": state.step, "loss": loss, "grad_norm": norm}
            line |= dict(zip(("lr", "text_encoder_lr"), rates, strict=False))
            due = state.step % config.checkpoint_every == 0
            if due or watcher.looks():
                state.gather()
            seen = watcher.step({**line, "seconds": time.perf_counter() - began})
            if first:
                manifest.append_metrics(out, seen)
                # Save last: a resumed run does not repeat the steps that a checkpoint contains.
                if due or watcher.improved:
                    checkpoint.save(state, places, metadata, run, config.keep_checkpoints)
            if progress is not None:
                progress(state.step, config.iterations, loss)
        state.gather()
        if not first:
            return
        if state.step == config.iterations or watcher.stopped:
            if watch.best:
                checkpoint.restore_best(state, places)
            checkpoint.prune(state, places, config.keep_checkpoints)  # a kill may have cut it short
            # Write the card before the adapter, whose file marks the run as finished.
            every = config.method == "full"
            form = whole(model.denoiser) if every else of_adapter(model.pipeline)
            atomic_write(out / CARD, card(out, form))
            adapters.save(state.model, out, metadata)
        elif state.step > 0:
            checkpoint.save(state, places, metadata, run, config.keep_checkpoints)


def _gradient(
    gradient: Gradient,
    batches: Batches,
    micro_batch: int,
    state: TrainState,
    config: TuneConfig,
    processes: Processes,
    interrupted: Callable[[], bool],
) -> tuple[float, float] | None:
    """Store the clipped gradient of the whole batch's mean loss in the parameters' ``.grad``.

    Returns:
        (loss, the gradient's norm before clipping), or None if an interrupt aborted the step.
    """
    gradient.begin()
    parameters = list(state.parameters.values())
    total = torch.zeros((), device=parameters[0].device)
    for samples in batches.step(state.step, micro_batch, processes.part):
        if interrupted() and processes.count == 1:
            return None
        total += gradient.add(samples)
    gradient.finish()
    if processes.count > 1:
        for parameter in parameters:
            if parameter.grad is None:  # a process without samples
                parameter.grad = torch.zeros_like(parameter)
        stops = torch.full_like(total, float(interrupted()))
        # FSDP has already summed the gradients of sharded weights.
        own = [] if state.shards else [p.grad for p in parameters if p.grad is not None]
        processes.sum([total, stops, *own])
        if stops.item() > 0:  # all processes stop at the same step, whichever got the signal
            return None
    norm = shards.whole(get_total_norm([p.grad for p in parameters if p.grad is not None]))
    clip_grads_with_norm_(parameters, config.clip, norm)
    return total.item(), norm.item()


def _diverged(
    loss: float, norm: float, batches: Batches, step: int, checkpoints: Sequence[Path]
) -> str:
    last = f"last checkpoint: {checkpoints[-1]}" if checkpoints else "no checkpoint yet"
    pairs = sorted({pair for pair in batches.pairs(step).tolist() if pair < len(batches)})
    shown = ", ".join(map(str, pairs[:8])) + (", ..." if len(pairs) > 8 else "")
    return (
        f"step {step + 1}: loss is {loss} and the gradient's norm {norm}, expected finite numbers "
        f"(pairs {shown} of the set; {last}); train in another folder with a lower lr, or in "
        "float32"
    )
