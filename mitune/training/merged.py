"""The gradient of an adapter through the merged weights: merge, accumulate, project.

Let V = W + s B A, n the norm of each row of V (one row per output) and W' = (m / n) V as in DoRA.
The loss depends on A, B and m only through W'. With n taken as a constant (Liu et al., arXiv
2402.09353, section 4.3) and D the gradient of W', the gradients are

    dm = rowsum(D * V) / n,   dV = (m / n) D,   dA = s B^T dV,   dB = s dV A^T;

for LoRA, m / n is 1. A, B and m change once per optimizer step. So W' is computed once per step, D
is accumulated over all micro-batches of the plain denoiser, and the gradients of A, B and m are
computed once at the end. The hot path contains no adapter modules: it is that of a network without
an adapter, and compiles like one.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mitune.adapters import network
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.models.protocol import LatentModel, denoiser_of, text_encoders
from mitune.runtime.compile.inductor import Run
from mitune.runtime.convolutions import tried_convolutions
from mitune.runtime.cpu_workers import threads, undisturbed
from mitune.runtime.mixed_precision import TrainedProducts
from mitune.training.batch_loss import BatchLoss
from mitune.training.batches import MicroBatch
from mitune.training.captured import CapturedSteps, relative_error
from mitune.training.program import program

_NAME = "default"
_AGREE, _AGREE_HALF = 1e-3, 5e-2
"""Largest relative error, over all leaves together, of a compiled or captured gradient that counts
as rounding: in float32 (and float64), and in any half precision."""


class MergedGradient:
    """Implements ``mitune.training.gradient.Gradient`` as the module's docstring describes.

    Products are computed in the model's precision. In half precision, W' is multiplied as the sum
    of two half-precision tensors, so that rounding does not lose the adapter's updates, and D is
    accumulated in float32. On a CPU, worker threads, one for each of torch's threads, share a
    micro-batch.

    Args:
        model: the model, with the adapter on it. The frozen tensors of its denoiser are shared, and
            copied only where their precision or layout changes.
        config: batch, snr_gamma, text_encoder_lr, backend and cuda_graphs are used.
    """

    def __init__(self, model: LatentModel, config: TuneConfig) -> None:
        self._loss = BatchLoss(model, config)
        ready = program(model, config)
        trained = ready.trained
        self._on_gpu = model.device.type == "cuda"
        layers = dict(denoiser_of(model).named_modules())
        self._parts = [_Part(layers[name], layer) for name, layer in trained.items()]
        # Text encoders are small compared to the denoiser: their adapters stay in the graph.
        encoders = text_encoders(model) if config.text_encoder_lr is not None else {}
        self._text = [p for each in encoders.values() for p in network.parameters(each).values()]
        self._leaves = [*(layer.weight for layer in trained.values()), *self._text]
        self._dtype = model.dtype
        self._tolerance = _AGREE if model.precision in ("float32", "float64") else _AGREE_HALF

        self.plain, self._eager, self._run = ready.plain, ready.eager, ready.run
        self._cores, self._compiled = ready.cores, config.backend == "inductor"
        self._checked = not self._compiled
        self._sums = [
            torch.zeros_like(leaf, dtype=torch.promote_types(leaf.dtype, torch.float32))
            for leaf in self._leaves
        ]
        self._unused = [False] * len(self._leaves)
        self._steps: CapturedSteps | None = None
        if config.cuda_graphs:
            self._steps = CapturedSteps(self._add, self._sums, model.device, self._tolerance)

    @torch.no_grad()
    def begin(self) -> None:
        for part in self._parts:
            part.merge()
        torch._foreach_zero_(self._sums)

    def add(self, samples: MicroBatch) -> Tensor:
        return self._add(samples) if self._steps is None else self._steps(samples)

    def _add(self, samples: MicroBatch) -> Tensor:
        with nullcontext() if self._cores is None else undisturbed():
            made = self._made(samples)
            for _, gradients in made:  # always in this order, so that the sum has the same bits
                torch._foreach_add_(self._sums, gradients)
        if not self._checked:
            self._check(samples, made)
        return torch.stack([share for share, _ in made]).sum()

    @torch.no_grad()
    def finish(self) -> None:
        count = len(self._parts)
        for part, total in zip(self._parts, self._sums[:count], strict=True):
            part.project(total)
        totals = zip(self._text, self._sums[count:], self._unused[count:], strict=True)
        for tensor, total, unused in totals:
            tensor.grad = None if unused else total.clone()  # None as autograd itself leaves it

    def _made(self, samples: MicroBatch) -> list[tuple[Tensor, list[Tensor]]]:
        if self._cores is None:
            return [self._gradient(self._run, samples)]
        rows = len(samples.t)
        if self._compiled:
            parts, shape = samples.chunk(self._cores.parts(rows)), rows
        elif rows >= self._cores.workers:
            parts, shape = samples.chunk(self._cores.workers), None
        else:  # fewer rows than workers: use torch's own threads within each operation
            with threads(self._cores.workers):
                return [self._gradient(self._run, samples)]
        return self._cores.map(lambda part: self._gradient(self._run, part), parts, shape)

    def _gradient(self, run: Run, samples: MicroBatch) -> tuple[Tensor, list[Tensor]]:
        def denoise(z: Tensor, t: Tensor, cond: Any, /) -> Tensor:
            return run(z.to(self._dtype), t, cond)

        # Grad mode is a setting of each thread: the caller's does not reach the worker threads.
        with torch.enable_grad(), tried_convolutions() if self._on_gpu else nullcontext():
            share = self._loss(denoise, samples)
            made = torch.autograd.grad(share, self._leaves, allow_unused=True)
            # A text encoder's last layers may have no part in the conditioning.
            self._unused = [gradient is None for gradient in made]
            return share.detach(), [
                torch.zeros_like(leaf) if gradient is None else gradient
                for gradient, leaf in zip(made, self._leaves, strict=True)
            ]

    def _check(self, samples: MicroBatch, made: list[tuple[Tensor, list[Tensor]]]) -> None:
        """Compare the first compiled gradient with eager's, once per run: a compiler has produced
        wrong gradients before (docs/log.md)."""
        _, expected = self._gradient(self._eager, samples)
        got = [torch.stack(grads).sum(0) for grads in zip(*(g for _, g in made), strict=True)]
        error = relative_error(got, expected)
        if not error <= self._tolerance:
            raise UserError(
                f"backend inductor: torch.compile's gradient is {error:.1e} away from eager's, "
                f"expected at most {self._tolerance:.0e}; use --backend eager"
            )
        self._checked = True


@dataclass
class _Part:
    """One adapted layer: ``layer`` carries the adapter; ``plain`` is the same layer in the plain
    denoiser, whose weight holds W'."""

    layer: Any
    plain: Any

    def merge(self) -> None:
        """Compute W' in the adapter's dtype and copy it to the plain layer."""
        direction = self._direction()
        if self._dora:
            direction = self._gain(torch.linalg.vector_norm(direction, dim=1)) * direction
        merged = direction.view_as(self.plain.weight)
        if isinstance(self.plain, TrainedProducts):
            self.plain.take(merged)
        else:
            self.plain.weight.copy_(merged)

    def project(self, total: Tensor) -> None:
        """Compute the gradients of A, B and m from ``total``, the gradient of W'."""
        scale = self.layer.scaling[_NAME]
        down, up = self.layer.lora_A[_NAME].weight, self.layer.lora_B[_NAME].weight
        rows = total.flatten(1).to(down.dtype)
        if self._dora:
            magnitude = self.layer.lora_magnitude_vector[_NAME].weight
            direction = self._direction()
            norm = torch.linalg.vector_norm(direction, dim=1)
            magnitude.grad = ((rows * direction).sum(1) / norm).view_as(magnitude)
            rows = rows * self._gain(norm)
        down.grad = (scale * up.flatten(1).T @ rows).view_as(down)
        up.grad = (scale * rows @ down.flatten(1).T).view_as(up)

    @property
    def _dora(self) -> bool:
        return _NAME in self.layer.lora_magnitude_vector

    def _direction(self) -> Tensor:
        """V = W + s B A, ``[out, rest]`` in the adapter's dtype."""
        down, up = self.layer.lora_A[_NAME].weight, self.layer.lora_B[_NAME].weight
        weight = self.layer.get_base_layer().weight.to(down.dtype).flatten(1)
        return torch.addmm(weight, up.flatten(1), down.flatten(1), alpha=self.layer.scaling[_NAME])

    def _gain(self, norm: Tensor) -> Tensor:
        """DoRA's m / n, ``[out, 1]``, for n ``[out]``."""
        magnitude: Tensor = self.layer.lora_magnitude_vector[_NAME].weight
        return (magnitude.flatten() / norm)[:, None]
