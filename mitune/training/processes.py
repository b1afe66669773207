"""Data-parallel training: each process takes a part of every batch, and all take the same step.

``torchrun`` starts the processes and sets their ranks in the environment. The gradients are summed
once per optimizer step, in the adapter's own tensors, which are small; no module is wrapped. Full
fine-tuning uses ``mitune.training.shards`` instead.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from mitune.core.errors import UserError


class Processes:
    """The processes that train together; a single one without ``torchrun``.

    Attributes:
        rank: number of this process, from 0. Only process 0 writes files.
        count: number of processes.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank = rank
        self.count = count

    def part(self, positions: Tensor) -> Tensor:
        """This process's share of a batch's positions, a contiguous range."""
        return positions.tensor_split(self.count)[self.rank]

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all processes, in place; all processes get the same bits."""
        if self.count > 1:
            flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
            dist.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        if self.count > 1:
            dist.barrier()


def rank() -> int:
    """The rank of this process, which ``torchrun`` sets in the environment; 0 without it."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Connect the processes that ``torchrun`` started: with NCCL between GPUs, else with Gloo. A
    process group that is already initialized is used and left as it is.

    Raises:
        UserError: if the processes cannot find each other.
    """
    if dist.is_available() and dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size())
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the processes of this run do not find each other ({reason}): expected the "
            "environment that torchrun sets; start them with torchrun --nproc-per-node"
        ) from error
    processes = Processes(dist.get_rank(), dist.get_world_size())
    try:
        yield processes
        processes.wait()  # so that none closes its connections while another still uses them
    finally:
        dist.destroy_process_group()
