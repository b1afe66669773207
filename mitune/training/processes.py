"""Data parallel training: each process takes a part of every batch, and all take the same step.

``torchrun`` starts the processes and says in the environment who is who. Their gradients are added
up once in an optimizer step, in the adapter's own tensors, which are small; nothing is wrapped.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from mitune.core.errors import UserError


class Processes:
    """Those that train together; one alone where nobody started more.

    Attributes:
        rank: of this one, from 0. Number 0 writes what is written.
        count: of all.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank = rank
        self.count = count

    def part(self, positions: Tensor) -> Tensor:
        """This process's share of a batch's positions, neighbours of one another."""
        return positions.tensor_split(self.count)[self.rank]

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add each up over all processes, in place, in every one to the same bits."""
        if self.count > 1:
            flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
            dist.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()


def rank() -> int:
    """Of this process, as ``torchrun`` says in the environment; 0 where nobody started more."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes that ``torchrun`` started, connected by gloo, or by nccl between GPUs; what
    is connected already stays so.

    Raises:
        UserError: processes that cannot find each other.
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
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
