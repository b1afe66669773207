"""The gradient of an adapter by way of the merged weights: merge, accumulate, project.

With V = W + s B A, n the norm of each of its rows (a row is what makes one output) and DoRA's
W' = (m / n) V, a loss that depends on A, B and m through W' alone has, with n taken as a constant
(Liu et al., arXiv 2402.09353, section 4.3) and D the gradient of W',

    dm = rowsum(D * V) / n,   dV = (m / n) D,   dA = s B^T dV,   dB = s dV A^T;

for LoRA m / n is 1. A, B and m change once in an optimizer step. So W' is made once, D is added up
over all micro-batches of the plain denoiser, and A, B and m get theirs once: no module of an
adapter is in the way of the hot path, which is that of a network without adapter, and compiles like
one.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mitune.adapters import network
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.models.protocol import Conditioning, LatentModel, denoiser_of, text_encoders
from mitune.runtime.attention import set_attention
from mitune.runtime.compile.inductor import Run, compile_run
from mitune.runtime.convolutions import tried_convolutions
from mitune.runtime.cpu_workers import Cores, threads, undisturbed
from mitune.runtime.mixed_precision import TrainedProducts
from mitune.training.batches import MicroBatch
from mitune.training.captured import CapturedSteps, relative_error
from mitune.training.loss import BatchLoss
from mitune.training.plain import plain_denoiser

_NAME = "default"
_AGREE, _AGREE_HALF = 1e-3, 5e-2
"""Relative error, over all leaves together, up to which a compiled gradient is eager's in other
rounding: in float32, and in any half precision."""


class MergedGradient:
    """See above; ``mitune.training.gradient.Gradient``.

    Args:
        model: carries the adapter. Its denoiser's frozen tensors are shared, not copied, but where
            their precision changes.
        config: batch, snr_gamma, backend and cuda_graphs are used.

    The products are in the model's precision. In half precision W' is multiplied as the sum of two
    halves, so that no update of the adapter is lost in rounding, and D is added up in float32.
    On a CPU a micro-batch is split over one worker for each core.
    """

    def __init__(self, model: LatentModel, config: TuneConfig) -> None:
        self._loss = BatchLoss(model, config)
        compiled, on_cpu = config.backend == "inductor", model.device.type == "cpu"
        plain, trained = plain_denoiser(model, fold=compiled and on_cpu)
        self._on_gpu = model.device.type == "cuda"
        plain.to(memory_format=_layout(compiled, model.device))
        set_attention(plain, "auto", config.backend)
        layers = dict(denoiser_of(model).named_modules())
        self._parts = [_Part(layers[name], layer) for name, layer in trained.items()]
        # Text encoders are small beside the denoiser: their adapters stay in the graph.
        encoders = text_encoders(model) if config.text_encoder_lr is not None else {}
        self._text = [p for each in encoders.values() for p in network.parameters(each).values()]
        self._leaves = [*(layer.weight for layer in trained.values()), *self._text]
        self._dtype = model.dtype
        self._tolerance = _AGREE if model.precision in ("float32", "float64") else _AGREE_HALF

        def eager(z: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
            return model.call(plain, z, t, cond)

        self.plain, self._eager = plain, eager
        self._run = compile_run(eager, model.device) if compiled else eager
        workers = torch.get_num_threads() if on_cpu else 1
        self._cores = Cores(workers) if on_cpu and (compiled or workers > 1) else None
        self._compiled, self._checked = compiled, not compiled
        self._sums = [
            torch.zeros_like(leaf, dtype=torch.promote_types(leaf.dtype, torch.float32))
            for leaf in self._leaves
        ]
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
            for _, gradients in made:  # in the parts' order, for the same bits each time
                torch._foreach_add_(self._sums, gradients)
        if not self._checked:
            self._check(samples, made)
        return torch.stack([share for share, _ in made]).sum()

    @torch.no_grad()
    def finish(self) -> None:
        count = len(self._parts)
        for part, total in zip(self._parts, self._sums[:count], strict=True):
            part.project(total)
        for tensor, total in zip(self._text, self._sums[count:], strict=True):
            tensor.grad = total.clone()

    def _made(self, samples: MicroBatch) -> list[tuple[Tensor, list[Tensor]]]:
        if self._cores is None:
            return [self._gradient(self._run, samples)]
        rows = len(samples.t)
        if self._compiled:
            parts, shape = samples.chunk(self._cores.parts(rows)), rows
        elif rows >= self._cores.workers:
            parts, shape = samples.chunk(self._cores.workers), None
        else:  # too few for all workers: torch's own threads
            with threads(self._cores.workers):
                return [self._gradient(self._run, samples)]
        return self._cores.map(lambda part: self._gradient(self._run, part), parts, shape)

    def _gradient(self, run: Run, samples: MicroBatch) -> tuple[Tensor, list[Tensor]]:
        def denoise(z: Tensor, t: Tensor, cond: Any, /) -> Tensor:
            return run(z.to(self._dtype), t, cond)

        # The first is a worker's own setting, which the caller's does not reach.
        with torch.enable_grad(), tried_convolutions() if self._on_gpu else nullcontext():
            share = self._loss(denoise, samples)
            return share.detach(), list(torch.autograd.grad(share, self._leaves))

    def _check(self, samples: MicroBatch, made: list[tuple[Tensor, list[Tensor]]]) -> None:
        """Once in a run: compilers have been seen to make a wrong gradient (docs/log.md)."""
        _, expected = self._gradient(self._eager, samples)
        got = [torch.stack(grads).sum(0) for grads in zip(*(g for _, g in made), strict=True)]
        error = relative_error(got, expected)
        if not error <= self._tolerance:
            raise UserError(
                f"backend inductor: torch.compile's gradient is {error:.1e} away from eager's, "
                f"expected at most {self._tolerance:.0e}; use --backend eager"
            )
        self._checked = True


def _layout(compiled: bool, device: torch.device) -> torch.memory_format:
    """In which convolutions are run: compiled on a GPU in the one that tensor cores take.
    With gradients inductor itself leaves them as they lie, by a rule about convolutions as wide as
    these. The frozen ones are the model's own tensors, whose layout changes with it;
    their values do not."""
    if compiled and device.type == "cuda":
        return torch.channels_last
    return torch.preserve_format


@dataclass
class _Part:
    """One adapted layer: with its adapter, and in the plain denoiser, where its weight stands for
    W'."""

    layer: Any
    plain: Any

    def merge(self) -> None:
        """Give the plain layer W', made in the adapter's dtype."""
        direction = self._direction()
        if self._dora:
            direction = self._gain(torch.linalg.vector_norm(direction, dim=1)) * direction
        merged = direction.view_as(self.plain.weight)
        if isinstance(self.plain, TrainedProducts):
            self.plain.take(merged)
        else:
            self.plain.weight.copy_(merged)

    def project(self, total: Tensor) -> None:
        """The gradients of A, B and m from that of W', ``total``."""
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
