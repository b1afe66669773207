"""The training loop (MI-Tune, Algorithm 1, line 10): one state, one step, on one screen."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mitune.errors import UserError
from mitune.provenance import environment
from mitune.sets.files import exclusive, make_folder
from mitune.tuning import adapter as adapters
from mitune.tuning import checkpoint, record
from mitune.tuning.adapter_file import FILE
from mitune.tuning.batches import Batches, Tunable
from mitune.tuning.checkpoint import TrainState
from mitune.tuning.config import TuneConfig
from mitune.tuning.loss import denoising_loss, noising_table
from mitune.tuning.mixing import Ranked, real_pairs

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
    model: Tunable,
    fine_tuning_set: Pairs,
    out: Path | str,
    config: TuneConfig | None = None,
    *,
    adapter: Path | str | None = None,
    real: Ranked | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Path:
    """Train an adapter on the kept pairs, or go on with the run that is in ``out``.

    The result depends on (model, all pairs, config, starting adapter) alone. On one device a run
    that was killed and resumed ends in the same bits as one that was not; ``micro_batch`` changes
    rounding only. A finished run is returned as it is.

    Args:
        model: from ``mitune.load``, without an adapter on it, and left so.
        fine_tuning_set: the pairs; they and their text embeddings are held on the device.
        out: folder of the run: pytorch_lora_weights.safetensors, run.json, metrics.jsonl,
            checkpoints/.
        config: hyper-parameters; None takes the model's preset, the paper's where it has none.
        adapter: folder or file of an adapter to train on from; None starts a fresh one.
        real: a set of real pictures, the best of which join the pairs until they are
            ``config.real_share`` of them; from ``mitune.build_real_set``.
        progress: called after each step with (steps done, steps in all, loss).

    Returns:
        ``out``, which ``StableDiffusionPipeline.load_lora_weights`` reads.

    Raises:
        UserError: a set that is empty or of another model, an adapter that does not fit, a folder
            of another run (each differing setting is named), a loss that is not finite; of real
            pictures too few, or a share without them.
        KeyboardInterrupt: after a checkpoint of the last whole step; the same call goes on from
            there.
    """
    preset: Any = getattr(model, "preset", None)
    chosen, folder = config or (preset.tuning if preset else TuneConfig()), Path(out)
    start = None if adapter is None else Path(adapter)
    pairs = fine_tuning_set.selected()
    added = real_pairs(real, chosen.real_share, len(pairs))
    mixed = None if real is None else (added, real.settings)
    wanted = record.settings(model, pairs, fine_tuning_set.settings, chosen, start, mixed)
    # Everything that can be wrong is found before anything is written.
    if record.check(folder, wanted) and (folder / FILE).exists():
        return folder
    batches = Batches(model, [*pairs, *added], chosen)
    if adapters.attached(model.unet):
        raise UserError(
            "the model already carries an adapter: expected the plain model; detach the adapter, "
            "or give its folder as the one to start from"
        )
    try:
        state = _begin(model, chosen, start)
        make_folder(folder)
        with exclusive(folder):
            # Again under the lock: meanwhile another run may have taken the folder, or ended.
            if not record.check(folder, wanted):
                record.write(folder, wanted, environment(model.device))
            if not (folder / FILE).exists():
                _train(model, batches, state, folder, chosen, wanted, progress)
    finally:
        adapters.detach(model.unet)
    return folder


def _begin(model: Tunable, config: TuneConfig, start: Path | None) -> TrainState:
    """The state before the first step: the starting adapter on the model, a fresh optimizer."""
    if start is None:
        adapters.attach(model.unet, config)
    else:
        adapters.load(model.unet, start, fingerprint=model.fingerprint, trainable=True)
        adapters.require(model.unet, config, start)
    parameters = adapters.parameters(model.unet)
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    return TrainState(unet=model.unet, parameters=parameters, optimizer=optimizer)


def _train(
    model: Tunable,
    batches: Batches,
    state: TrainState,
    out: Path,
    config: TuneConfig,
    wanted: Mapping[str, Any],
    progress: Callable[[int, int, float], None] | None,
) -> None:
    run, places = record.identity(wanted), out / CHECKPOINTS
    metadata = {"model": model.name, "fingerprint": model.fingerprint, "run": run}
    checkpoint.clean(places)
    if found := checkpoint.find(places):
        checkpoint.restore(state, found[-1], run)
    record.cut_metrics(out, state.step)
    table = noising_table(model.scheduler.alphas_cumprod).to(model.device)
    with _deferred_interrupt() as interrupted:
        while state.step < config.iterations:
            began = time.perf_counter()
            gradient = _gradient(model, batches, state, table, config, interrupted)
            if gradient is None:
                break
            loss, norm = gradient
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise UserError(_diverged(loss, norm, state.step + 1, checkpoint.find(places)))
            lr = config.lr_at(state.step)
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            state.optimizer.step()
            state.step += 1
            line = {"step": state.step, "loss": loss, "grad_norm": norm, "lr": lr}
            record.append_metrics(out, {**line, "seconds": time.perf_counter() - began})
            if state.step % config.checkpoint_every == 0:
                checkpoint.save(state, places, metadata, run)
            if progress is not None:
                progress(state.step, config.iterations, loss)
        if state.step == config.iterations:
            adapters.save(state.unet, out, metadata)
        elif state.step > 0:
            checkpoint.save(state, places, metadata, run)


def _gradient(
    model: Tunable,
    batches: Batches,
    state: TrainState,
    table: Tensor,
    config: TuneConfig,
    interrupted: Callable[[], bool],
) -> tuple[float, float] | None:
    """Leave the clipped gradient of the whole batch's mean loss in the parameters.

    Returns (loss, the gradient's norm before clipping), or None when an interrupt abandoned the
    step.
    """
    state.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=model.device)
    with torch.enable_grad():
        for samples in batches.step(state.step):
            if interrupted():
                return None
            # Summed over the batch's size, not the micro-batch's: the last one may be smaller.
            loss = denoising_loss(model, samples, table, model.prediction).sum() / config.batch
            loss.backward()
            total += loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(list(state.parameters.values()), config.clip)
    return total.item(), norm.item()


def _diverged(loss: float, norm: float, step: int, checkpoints: Sequence[Path]) -> str:
    last = f"last checkpoint: {checkpoints[-1]}" if checkpoints else "no checkpoint yet"
    return (
        f"step {step}: loss is {loss} and the gradient's norm {norm}, expected finite numbers "
        f"({last}); train in another folder with a lower lr, or in float32"
    )


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold back the first SIGINT, which amid ``optimizer.step`` would leave half a step.

    The block asks whether one came and ends; then KeyboardInterrupt is raised. A second SIGINT is
    not held back.
    """
    previous = signal.getsignal(signal.SIGINT)
    came = False

    def hold(*_: object) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, previous)

    # Only the main thread may set handlers, and only it is interrupted; an ignored SIGINT stays
    # ignored.
    ours = threading.current_thread() is threading.main_thread() and callable(previous)
    if ours:
        signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: came
    finally:
        if ours:
            signal.signal(signal.SIGINT, previous)
    if came:
        raise KeyboardInterrupt
