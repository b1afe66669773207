"""Training as in the authors' public code, re-implemented, and as one would write it today.

Both use peft's modules. The samples are ours, so that gradients and losses can be compared; to
compute our order of the pairs, noise and timesteps costs no more than to draw them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mitune.adapters import adapter
from mitune.config.training import TuneConfig
from mitune.models.protocol import LatentModel, denoiser_of
from mitune.runtime.convolutions import tried_convolutions
from mitune.training.batches import Batches, MicroBatch
from mitune.training.loss import denoising_loss

Pairs = Sequence[tuple[str, Tensor]]
_RECOMPILATIONS = 256


class AuthorsTrainer:
    """train_text_to_image_lora_sd2.py of github.com/Chao0511/mitune, as it is except for the
    adapter, which is DoRA as in the paper: float32, peft's modules, a DataLoader on the host,
    micro-batches of 8, a synchronization with the loss of each, and torch's default AdamW, which is
    not fused.

    Args:
        model: without an adapter; this attaches one, which stays.
        pairs: (prompt, latent) pairs.
        config: rank, targets, batch, learning rate and so on; its micro_batch is not used.
    """

    micro_batch = 8

    def __init__(self, model: LatentModel, pairs: Pairs, config: TuneConfig) -> None:
        self.model = model
        self.config = config
        adapter.attach(model, config)
        self.parameters: dict[str, nn.Parameter] = adapter.parameters(model)
        self._batches = Batches(model, pairs, config)
        self._process = model.process.to(model.device)
        self._optimizer = self._adamw()

    def gradient(self, step: int) -> float:
        """Store the whole batch's gradient in the parameters' ``.grad``; returns the loss."""
        self._optimizer.zero_grad()
        total = 0.0
        for samples in self._micro_batches(step):
            loss = self._loss(samples)
            loss.backward()
            total += loss.item()
        return total

    def update(self) -> None:
        """Clip the gradient and take the optimizer step."""
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.config.clip)
        self._optimizer.step()

    def _adamw(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(self.parameters.values(), **self.config.adamw)

    def _loss(self, samples: MicroBatch) -> Tensor:
        loss = denoising_loss(self.model, samples, self._process)
        return loss.sum() / self.config.batch

    def _micro_batches(self, step: int) -> Iterator[MicroBatch]:
        items = _Items(next(iter(self._batches.step(step, self.config.batch))))
        for latents, noise, t, *cond in DataLoader(items, batch_size=self.micro_batch):
            device = self.model.device
            yield MicroBatch(
                latents=latents.to(device),
                noise=noise.to(device),
                t=t.to(device),
                cond={n: x.to(device) for n, x in zip(items.names, cond, strict=True)},
            )


class FairTrainer(AuthorsTrainer):
    """The same without its obvious inefficiencies: bfloat16 (frozen model in bfloat16, adapter in
    float32 under autocast; all in float32 if the model is loaded so), compiled, cuDNN's benchmark
    mode, micro-batches of 32 on the device, fused AdamW, and one synchronization per batch."""

    micro_batch = 32

    def __init__(self, model: LatentModel, pairs: Pairs, config: TuneConfig) -> None:
        super().__init__(model, pairs, config)
        # peft's DoRA breaks the graph in every adapted layer, and the layers share their functions:
        # with torch's default limit of 8 recompilations, most would stay uncompiled.
        torch._dynamo.config.recompile_limit = _RECOMPILATIONS
        torch._dynamo.config.accumulated_recompile_limit = 10 * _RECOMPILATIONS
        self._compiled = torch.compile(denoiser_of(model), dynamic=False)

    @tried_convolutions()
    def gradient(self, step: int) -> float:
        self._optimizer.zero_grad()
        total = torch.zeros((), device=self.model.device)
        for samples in self._batches.step(step, self.micro_batch):
            loss = self._loss(samples)
            loss.backward()
            total += loss.detach()
        return total.item()

    def _adamw(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(self.parameters.values(), fused=True, **self.config.adamw)

    def _loss(self, samples: MicroBatch) -> Tensor:
        half = self.model.dtype == torch.bfloat16
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=half):
            loss = denoising_loss(self._denoise, samples, self._process)
        return loss.sum() / self.config.batch

    def _denoise(self, z: Tensor, t: Tensor, cond: Any, /) -> Tensor:
        return self.model.call(self._compiled, z.to(self.model.dtype), t, cond)


class _Items(Dataset[tuple[Tensor, ...]]):
    """The samples of a step, one by one, on the host."""

    def __init__(self, samples: MicroBatch) -> None:
        self.names = list(samples.cond)
        parts = (samples.latents, samples.noise, samples.t, *samples.cond.values())
        self._parts = [x.cpu() for x in parts]

    def __len__(self) -> int:
        return len(self._parts[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(part[index] for part in self._parts)
