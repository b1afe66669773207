"""The steps of a training, with its checkpoints."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from mitune.adapters import adapter as adapters
from mitune.adapters.model_card import CARD, card, of_adapter, whole
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.core.files import atomic_write
from mitune.core.provenance import versions
from mitune.models.protocol import LatentModel
from mitune.training import checkpoint, manifest, shards
from mitune.training.batch_size import find_batch_size
from mitune.training.batches import Batches
from mitune.training.callbacks import Watch, watching
from mitune.training.checkpoint import TrainState
from mitune.training.gradient import Gradient, gradient_of
from mitune.training.interrupt import deferred_interrupt
from mitune.training.processes import Processes

CHECKPOINTS = "checkpoints"


def train(
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
    """Take the steps that are missing, and write checkpoints, metrics, and at the end the adapter.

    Args:
        model: with the adapter on it.
        batches: of all steps.
        state: before the first step; goes on from the last checkpoint.
        out: folder of the run.
        config: of the training.
        wanted: the run's settings.
        watch: as for ``tune``.
        processes: of this run.
        progress: as for ``tune``.

    Raises:
        UserError: the loss is not finite.
    """
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
