"""Full fine-tuning in several processes: FSDP2 spreads weights, gradients and moments over them.

What trains is a copy of the denoiser, of which every process holds an equal part; a block is put
together from all of them for as long as it computes. The model's own stays whole: it is what
is saved and looked at, brought up to date for that.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.training.processes import Processes


class Shards:
    """A network's weights in equal parts, one for each of the processes; all call every method
    together.

    Args:
        network: whole, the same in all processes.
        blocks: classes of its parts that are put together one at a time; what is in none of them
            stays whole from forward to backward.
        device: where it is.
        processes: all that train.

    Attributes:
        network: predicts as the one given does, from the parts.
        moments: what ``gather`` was last given, whole, on the CPU: by the parameter's name and
            AdamW's.
    """

    def __init__(
        self,
        network: Any,
        blocks: tuple[type[nn.Module], ...],
        device: torch.device,
        processes: Processes,
    ) -> None:
        mesh = init_device_mesh(device.type, (processes.count,))
        self._whole = network
        self.network = copy.deepcopy(network)
        for block in [m for m in self.network.modules() if isinstance(m, blocks)]:
            fully_shard(block, mesh=mesh)
        fully_shard(self.network, mesh=mesh)
        for module in self.network.modules():
            if isinstance(module, FSDPModule):
                # Summed, not averaged: each process's loss is its share of the batch's mean.
                module.set_force_sum_reduction_for_comms(True)
                module.set_gradient_divide_factor(1.0)
        self.moments: dict[str, dict[str, Tensor]] = {}

    def parameters(self) -> dict[str, nn.Parameter]:
        """This process's parts, by the names and in the order of the whole one's parameters."""
        return dict(self.network.named_parameters())

    @torch.no_grad()
    def gather(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring the whole network up to date, and ``moments`` to those of ``optimizer``."""
        own = dict(self._whole.named_parameters())
        self.moments = {}
        for name, part in self.parameters().items():
            own[name].copy_(whole(part))
            kept = optimizer.state.get(part, {})
            self.moments[name] = {kind: whole(value).cpu() for kind, value in kept.items()}

    @torch.no_grad()
    def scatter(self) -> None:
        """Take the parts of the whole network as it is now."""
        own = dict(self._whole.named_parameters())
        for name, part in self.parameters().items():
            part.copy_(part_of(own[name].detach(), part))


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of what is whole in all of them, where ``like`` is such a part; else
    ``value``."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    # No source: every process has it already, and cuts out its own.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def check(config: TuneConfig, processes: Processes) -> bool:
    """Whether ``config`` trains in shards.

    Raises:
        UserError: a batch that gives the processes different numbers of passes, or a micro-batch
            that is to be found by trying: all must pass through the network together.
    """
    if config.method != "full" or processes.count == 1:
        return False
    if config.batch % processes.count:
        raise UserError(
            f"batch is {config.batch} and method full shares the weights of {processes.count} "
            "processes, which pass through them together: expected a multiple of "
            f"{processes.count}"
        )
    if config.micro_batch == "auto":
        raise UserError(
            "micro_batch is auto and method full shares its weights between processes, none of "
            "which can try alone what fits: expected a number"
        )
    return True


def whole(tensor: Tensor) -> Tensor:
    """What the processes together hold of ``tensor``, in each of them; itself where it is not in
    parts."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
