"""Micro-batches in CUDA graphs: one graph is recorded for each shape of a micro-batch and
replayed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.runtime.cuda_graphs import capture
from mitune.training.batches import MicroBatch


class CapturedSteps:
    """Replaces ``add`` and is called like it, but replays a CUDA graph.

    The first micro-batch of a shape runs without a graph: this compiles, and shows whether it fits
    into memory. The second one is recorded. A run has few shapes: its micro-batch, the remainder of
    a batch, and those of pictures of other sizes.

    Args:
        add: adds a micro-batch's gradient to ``sums`` in place and returns its share of the loss.
        sums: the accumulated gradients; always the same tensors.
        device: the GPU that holds all tensors.
        tolerance: largest relative error of a replay against ``add``, over all sums together.
    """

    def __init__(
        self,
        add: Callable[[MicroBatch], Tensor],
        sums: list[Tensor],
        device: torch.device,
        tolerance: float,
    ) -> None:
        self._add, self._sums, self._device, self._tolerance = add, sums, device, tolerance
        self._steps: dict[torch.Size, _Step | None] = {}
        self._pool: Any = None

    def __call__(self, samples: MicroBatch) -> Tensor:
        size = samples.latents.shape
        if size not in self._steps:
            self._steps[size] = None
            return self._add(samples)
        step = self._steps[size]
        if step is None:
            step = self._steps[size] = self._record(samples)
        return step(samples)

    @torch.no_grad()
    def _record(self, samples: MicroBatch) -> "_Step":
        before = [total.clone() for total in self._sums]
        self._add(samples)
        expected = list(torch._foreach_sub(self._sums, before))
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        step = _Step(self._add, samples, self._device, self._pool)
        torch._foreach_zero_(self._sums)  # the warm-up before the capture added to the sums
        step(samples)
        error = relative_error(self._sums, expected)
        if not error <= self._tolerance:
            raise UserError(
                f"cuda_graphs: the graph's gradient is {error:.1e} away from the plain one's, "
                f"expected at most {self._tolerance:.0e}; leave cuda_graphs off"
            )
        torch._foreach_copy_(self._sums, before)
        return step


class _Step:
    """A CUDA graph with its static tensors: the samples that it reads and the loss that it
    writes."""

    def __init__(
        self,
        add: Callable[[MicroBatch], Tensor],
        samples: MicroBatch,
        device: torch.device,
        pool: Any,
    ) -> None:
        self._samples = samples.map(Tensor.clone)
        self._share = torch.zeros((), device=device)

        def work() -> None:
            self._share.copy_(add(self._samples))

        self._replay = capture(work, device, pool)

    def __call__(self, samples: MicroBatch) -> Tensor:
        self._samples.copy_(samples)
        self._replay()
        return self._share.clone()


def relative_error(got: list[Tensor], expected: list[Tensor]) -> float:
    """The norm of ``got - expected`` divided by that of ``expected``, over all tensors together."""
    return _norm(torch._foreach_sub(got, expected)) / _norm(expected)


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([tensor.float().norm() for tensor in tensors]).norm())
