"""Micro-batches in CUDA graphs: recorded for a number of samples, and replayed from then on."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.runtime.cuda_graphs import capture
from mitune.training.batches import MicroBatch


class CapturedSteps:
    """What adds a micro-batch to the sums, called as itself, but replayed.

    The first micro-batch of a size runs as it is, which compiles and shows whether it fits; the
    second is recorded. A run has two sizes at most: its micro-batch and what is left of a batch.

    Args:
        add: adds a micro-batch's gradient to ``sums``, in place, and returns its share of the loss.
        sums: always the same tensors.
        device: of everything, a GPU.
        tolerance: how far, relative to all sums together, a replay may be from ``add``.
    """

    def __init__(
        self,
        add: Callable[[MicroBatch], Tensor],
        sums: list[Tensor],
        device: torch.device,
        tolerance: float,
    ) -> None:
        self._add, self._sums, self._device, self._tolerance = add, sums, device, tolerance
        self._steps: dict[int, _Step | None] = {}
        self._pool: Any = None

    def __call__(self, samples: MicroBatch) -> Tensor:
        size = len(samples.t)
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
        torch._foreach_zero_(self._sums)  # warming up added to them
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
    """A graph, with the memory from which it takes its samples and to which it gives its loss."""

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
    """Of tensors, over all together: the norm of the difference by that of ``expected``."""
    return _norm(torch._foreach_sub(got, expected)) / _norm(expected)


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([tensor.float().norm() for tensor in tensors]).norm())
