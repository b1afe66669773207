"""The training loop (MI-Tune, Algorithm 1, line 10): one state, one step, on one screen."""

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
from mitune.adapters.card import ADAPTER, CARD, card, whole
from mitune.config.options import with_options
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.core.files import atomic_write, file_lock, make_folder
from mitune.core.identity import check_same_model
from mitune.core.provenance import environment, versions
from mitune.models.protocol import LatentModel, denoiser_of
from mitune.runtime.cuda_graphs import need_gpu
from mitune.training import checkpoint, manifest, shards
from mitune.training.batch_size import find_batch_size
from mitune.training.batches import Batches
from mitune.training.callbacks import Watch, watching
from mitune.training.checkpoint import TrainState
from mitune.training.gradient import Gradient, gradient_of
from mitune.training.interrupt import deferred_interrupt
from mitune.training.mixing import Ranked, prior_pairs, real_pairs
from mitune.training.processes import Processes, joined

CHECKPOINTS = "checkpoints"


class Pairs(Protocol):
    """What training needs of a fine-tuning set; ``FineTuningSet.open`` gives one."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the set was built with, as plain JSON."""
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
    watch: Watch | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    **options: Any,
) -> Path:
    """Train an adapter, or with method full the denoiser, on the kept pairs; or go on with the run
    that is in ``out``.

    The result depends on (model, all pairs, config, starting adapter) alone, and on the MI of
    held-out prompts where ``watch`` lets it decide. On one device a run that was killed and resumed
    ends in the same bits as one that was not; ``micro_batch`` and the number of processes that
    ``torchrun`` starts change rounding only. A finished run is returned as it is.

    Args:
        model: from ``mitune.load``, without an adapter on it, and left so.
        fine_tuning_set: the pairs; they and their text embeddings are held on the device.
        out: folder of the run: pytorch_lora_weights.safetensors (or unet/ or transformer/),
            README.md (the model card), run.json, metrics.jsonl, checkpoints/; samples/ and
            tensorboard/ where asked for.
        config: hyper-parameters; None takes the model's preset.
        adapter: folder or file of an adapter to train on from; None starts a fresh one.
        real: a set of real pictures, the best of which join the pairs until they are
            ``config.real_share`` of them; from ``mitune.build_real_set``.
        prior: pairs of the model's own that nobody selected, for a prior-preservation term of
            ``config.prior_weight``; a set built with ``select="random"``.
        watch: what to look at between steps, whether to stop early, and which step's adapter is the
            result; None: nothing, no, the last.
        progress: called after each step with (steps done, steps in all, loss).
        options: of ``TuneConfig`` by name, in place of ``config``'s: ``rank=8, lr=1e-3``.

    Returns:
        ``out``, which ``load_lora_weights`` of the model's pipeline reads, and ``mitune.load`` as
        an adapter whatever the method.

    Raises:
        UserError: a set that is empty or of another model, an adapter that does not fit, a folder
            of another run (each differing setting is named), a loss that is not finite; of real
            pictures too few, or a share without them; a prior without weight, or the other way;
            held-out prompts that are trained on, or whose MI was never finite when it has to choose
            the result.
        KeyboardInterrupt: by SIGINT or SIGTERM, after a checkpoint of the last whole step; the same
            call goes on from there.
    """
    chosen, folder = with_options(config or model.preset.tuning, options), Path(out)
    start = None if adapter is None else Path(adapter)
    for what, found in (("the set", fine_tuning_set), ("the real set", real), ("the prior", prior)):
        if found is not None:
            check_same_model(what, found.settings, model)
    pairs = fine_tuning_set.selected()
    added = real_pairs(real, chosen.real_share, len(pairs))
    mixed = None if real is None else (added, real.settings)
    kept = prior_pairs(None if prior is None else prior.selected(), chosen.prior_weight)
    beside = None if prior is None else (kept, prior.settings)
    watch = watch or Watch()
    wanted = manifest.settings(
        model, pairs, fine_tuning_set.settings, chosen, start, mixed, beside, watch.decides
    )
    # Everything that can be wrong is found before anything is written.
    if manifest.check(folder, wanted) and adapters.finished(folder):
        return folder
    if chosen.cuda_graphs:
        need_gpu(model.device)
    watch.check_prompts(prompt for prompt, _ in [*pairs, *added])
    batches = Batches(model, [*pairs, *added], chosen, kept)
    if adapters.attached(model):
        raise UserError(
            "the model already carries an adapter: expected the plain model; detach the adapter, "
            "or give its folder as the one to start from"
        )
    try:
        _put(model, chosen, start)
        with joined(model.device) as processes:
            state = _begin(model, chosen, processes)
            with _writing(folder, processes) as first:
                # Again under the lock: meanwhile another run may have taken the folder, or ended.
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
    """Whether this process is the one that writes; it holds the folder meanwhile."""
    if processes.rank > 0:
        yield False
        return
    make_folder(folder)
    with file_lock(folder):
        yield True


def _put(model: LatentModel, config: TuneConfig, start: Path | None) -> None:
    """The adapter that training starts from, on the model."""
    if start is None:
        adapters.attach(model, config)
    else:
        adapters.load(model, start, fingerprint=model.fingerprint, trainable=True)
        adapters.require(model, config, start)


def _begin(model: LatentModel, config: TuneConfig, processes: Processes) -> TrainState:
    """The state before the first step: the adapter that is on the model, a fresh optimizer."""
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
    processes.wait()  # nobody writes before all have read
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
                # After all that belongs to this step: what a checkpoint has is not done again.
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
            checkpoint.prune(state, places, config.keep_checkpoints)  # which a kill may have cut
            # Before the adapter, whose file is what says that the run is finished.
            form = whole(model.denoiser) if config.method == "full" else ADAPTER
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
    """Leave the clipped gradient of the whole batch's mean loss in the parameters.

    Returns (loss, the gradient's norm before clipping), or None when an interrupt abandoned the
    step.
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
        # FSDP has added up what is in shards.
        own = [] if state.shards else [p.grad for p in parameters if p.grad is not None]
        processes.sum([total, stops, *own])
        if stops.item() > 0:  # all stop at the same step, whoever was told to
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
