"""How a small denoiser is trained on a CPU: in bfloat16 where the processor computes in it, with
float32 master weights, min-SNR weights, an average of the weights, and checkpoints from which a run
goes on with the same bits."""

import copy
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mitune.diffusion.solvers import squared_signal
from mitune.models.attention_maps import attention_maps
from mitune.runtime.cpu_workers import Cores, undisturbed
from mitune.worlds.grounding import Named, token_loss

GROUNDING_WEIGHT = 0.1
"""Of the loss of ``mitune.worlds.grounding``, beside the denoising loss."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The optimizer's steps."""

    steps: int = 6_000
    batch: int = 64
    peak_lr: float = 6e-4
    warmup: int = 300
    decay_share: float = 0.25
    """Share of the steps, at the end, over which the learning rate falls linearly to zero."""
    snr_gamma: float = 5.0
    ema: float = 0.999
    seed: int = 0


def learning_rate(recipe: Schedule, step: int) -> float:
    """Linear warm-up, then constant, then linear decay to zero over the last ``decay_share``."""
    left = (recipe.steps - step) / max(1.0, recipe.decay_share * recipe.steps)
    return recipe.peak_lr * min(1.0, (step + 1) / recipe.warmup, left)


def fast_dtype() -> torch.dtype:
    """bfloat16 on processors that compute in it; on others, where it can take three times as long,
    and where torch cannot tell, float32."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    native = known.get("amx_bf16") or known.get("avx512_bf16")
    return torch.bfloat16 if native else torch.float32


class Training:
    """The training state to save: the denoiser in ``fast_dtype()``, its float32 master weights,
    their exponential moving average, and the optimizer.

    Args:
        make: makes the denoiser with random weights.
        recipe: its seed and peak learning rate are used.
        start: folder of a denoiser whose weights it starts from.
    """

    def __init__(
        self, make: Callable[[], Any], recipe: Schedule, start: Path | None = None
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.step = 0
        self._make = make
        self.model = make()
        if start is not None:
            self.model.load_state_dict(type(self.model).from_pretrained(start).state_dict())
        self.names = [name for name, _ in self.model.named_parameters()]
        self.master = [p.detach().clone().requires_grad_() for p in self.model.parameters()]
        self.average = [p.detach().clone() for p in self.master]
        self.model.to(fast_dtype(), memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(
            self.master, lr=recipe.peak_lr, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
        )

    def update(self, lr: float, ema: float) -> float:
        """Take one optimizer step with the model's gradients, clipped to norm 1; returns the norm
        before clipping."""
        low = list(self.model.parameters())
        for master, weight in zip(self.master, low, strict=True):
            master.grad = weight.grad.float()
            weight.grad = None
        norm = torch.nn.utils.clip_grad_norm_(self.master, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            torch._foreach_copy_(low, self.master)
            torch._foreach_lerp_(
                self.average, self.master, 1 - min(ema, self.step / (self.step + 10))
            )
        return float(norm)

    def save(self, folder: Path) -> None:
        """Write the state under a temporary name, then rename it into place."""
        tensors: dict[str, Tensor] = {}
        for name, master, average in zip(self.names, self.master, self.average, strict=True):
            state = self.optimizer.state[master]
            tensors |= {f"master.{name}": master.detach(), f"average.{name}": average}
            tensors |= {f"m.{name}": state["exp_avg"], f"v.{name}": state["exp_avg_sq"]}
        temporary = folder.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / "state.safetensors")
        (temporary / "step.json").write_text(json.dumps({"step": self.step}))
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(temporary, folder)

    def load(self, folder: Path) -> None:
        """Continue from a state that ``save`` wrote."""
        tensors = load_file(folder / "state.safetensors")
        self.step = int(json.loads((folder / "step.json").read_text())["step"])
        with torch.no_grad():
            for name, master, average in zip(self.names, self.master, self.average, strict=True):
                master.copy_(tensors[f"master.{name}"])
                average.copy_(tensors[f"average.{name}"])
                self.optimizer.state[master] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"m.{name}"],
                    "exp_avg_sq": tensors[f"v.{name}"],
                }
            torch._foreach_copy_(list(self.model.parameters()), self.master)

    def save_average(self, folder: Path) -> None:
        """Write the averaged weights as a diffusers UNet folder, fp16."""
        model = self._make()
        model.load_state_dict(dict(zip(self.names, self.average, strict=True)))
        model.half().save_pretrained(folder)


class Batch(NamedTuple):
    """What one step trains on."""

    noise: Tensor
    """``[B, C, h, w]`` float32."""
    t: Tensor
    """``[B]`` int64, timesteps."""
    latents: Tensor
    """``[B, C, h, w]`` float32, scaled."""
    embeddings: Tensor
    """``[B, tokens, width]`` float32, of the captions."""
    named: Named | None = None
    """None: attention is not trained in this step."""

    def rows(self, part: slice) -> "Batch":
        """Of a part of the batch."""
        return Batch(
            noise=self.noise[part],
            t=self.t[part],
            latents=self.latents[part],
            embeddings=self.embeddings[part],
            named=None if self.named is None else self.named.rows(part),
        )


Batches = Callable[[int], Iterator[Batch]]
"""From a step to the batches of it and all later ones."""


class _Gradients:
    """The gradients of batches, on a worker thread for each core. Every worker has modules of its
    own, as attention is recorded by their hooks; the weights are the same tensors."""

    def __init__(self, model: Any, alphas: Tensor, snr_gamma: float) -> None:
        self._alphas = alphas
        snr = alphas / (1 - alphas)
        self._weight = snr.clamp(max=snr_gamma) / snr
        self._weights = list(model.parameters())
        self._cores = Cores(torch.get_num_threads())
        shared = {id(weight): weight for weight in self._weights}
        others = (copy.deepcopy(model, dict(shared)) for _ in range(self._cores.workers - 1))
        self._models = [model, *others]

    def of(self, batch: Batch) -> tuple[float, float | None]:
        """Leave the gradient in the weights' ``grad``; returns the denoising loss, and that of the
        attention if the batch tells what its captions name."""
        rows, workers = len(batch.t), self._cores.parts(len(batch.t))
        nouns = 0 if batch.named is None else int(batch.named.there.sum())
        size = rows // workers

        def part(number: int) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
            own = batch.rows(slice(number * size, (number + 1) * size))
            with torch.enable_grad():
                loss, attention = self._losses(self._models[number], own, rows, nouns)
                whole = loss + GROUNDING_WEIGHT * attention
                return loss.detach(), attention.detach(), torch.autograd.grad(whole, self._weights)

        with undisturbed():
            made = self._cores.map(part, range(workers))
            for weight, *each in zip(self._weights, *(g for *_, g in made), strict=True):
                weight.grad = torch.stack(each).sum(dim=0)
        loss = sum(float(share) for share, _, _ in made)
        attention = sum(float(share) for _, share, _ in made)
        return loss, None if batch.named is None else attention

    def _losses(self, model: Any, batch: Batch, rows: int, nouns: int) -> tuple[Tensor, Tensor]:
        """A part's share of the losses of a batch of so many rows and nouns."""
        dtype = next(model.parameters()).dtype
        a = self._alphas[batch.t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * batch.latents + (1 - a).sqrt() * batch.noise
        recording: AbstractContextManager[list[Tensor]]
        recording = attention_maps(model) if batch.named else nullcontext(list[Tensor]())
        with recording as maps:
            predicted = model(noisy.to(dtype), batch.t, batch.embeddings.to(dtype)).sample
        error = (predicted.float() - batch.noise).square().mean(dim=(1, 2, 3))
        loss = (self._weight[batch.t] * error).sum() / rows
        return loss, token_loss(maps, batch.named, nouns) if batch.named else torch.zeros(())


def fit(
    folder: Path,
    training: Training,
    recipe: Schedule,
    scheduler: Any,
    batches: Batches,
    *,
    save_every: int = 500,
) -> dict[str, float]:
    """Train in ``folder``, from its last checkpoint if there is one. The averaged weights go to
    ``unet/``.

    The loss is ``min(SNR_t, gamma) / SNR_t * ||eps - eps_theta||^2`` (min-SNR, Hang et al. 2023),
    mean over elements; where a batch tells what its captions name, that of the attention is added.

    Returns:
        The running average of the denoising loss, and the seconds of this process.
    """
    start = time.perf_counter()
    checkpoint = folder / "unet_checkpoint"
    if checkpoint.exists():
        training.load(checkpoint)
    gradients = _Gradients(training.model, squared_signal(scheduler).float(), recipe.snr_gamma)
    loss_average = math.nan
    log_file = folder / "unet_loss.jsonl"
    # Drop the lines that an interrupted run wrote after its checkpoint: these steps are repeated.
    lines = log_file.read_text().splitlines() if log_file.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] <= training.step]
    log_file.write_text("".join(line + "\n" for line in kept))
    with log_file.open("a") as log:
        for batch in batches(training.step):
            value, attention = gradients.of(batch)
            norm = training.update(learning_rate(recipe, training.step), recipe.ema)
            loss_average = value if math.isnan(loss_average) else 0.99 * loss_average + 0.01 * value
            if training.step % 100 == 0:
                line = {"step": training.step, "loss": loss_average, "grad_norm": norm}
                if attention is not None:
                    line["attention"] = attention
                line |= {"seconds": time.perf_counter() - start}
                print(json.dumps(line), file=log, flush=True)
            if training.step % save_every == 0 or training.step == recipe.steps:
                training.save(checkpoint)
                training.save_average(folder / "unet")
    return {"loss": loss_average, "seconds": time.perf_counter() - start}
