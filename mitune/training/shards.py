"""Full fine-tuning in several processes: FSDP2 shards weights, gradients and moments over them.

A copy of the denoiser is trained, of which every process holds an equal part. A block's weights are
gathered from all processes while it computes. The model's own denoiser stays whole; it is updated
before it is saved or measured.
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
    """A network's weights in equal parts, one for each process. All processes have to call every
    method together.

    Args:
        network: the whole network, the same in all processes.
        blocks: classes of the modules whose weights are gathered one at a time; weights outside of
            them stay gathered from forward to backward.
        device: the network's device.
        processes: all processes that train.

    Attributes:
        network: the sharded copy; it predicts the same as the given network.
        moments: the whole moments of the last ``gather``, on the CPU: by the parameter's name and
            then by AdamW's name for the moment.
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
                # Sum, do not average: each process's loss is its share of the batch's mean.
                module.set_force_sum_reduction_for_comms(True)
                module.set_gradient_divide_factor(1.0)
        self.moments: dict[str, dict[str, Tensor]] = {}

    def parameters(self) -> dict[str, nn.Parameter]:
        """This process's parts, with the names and in the order of the whole network's
        parameters."""
        return dict(self.network.named_parameters())

    @torch.no_grad()
    def gather(self, optimizer: torch.optim.Optimizer) -> None:
        """Copy the parts into the whole network, and the moments of ``optimizer`` into
        ``moments``."""
        own = dict(self._whole.named_parameters())
        self.moments = {}
        for name, part in self.parameters().items():
            own[name].copy_(whole(part))
            kept = optimizer.state.get(part, {})
            self.moments[name] = {kind: whole(value).cpu() for kind, value in kept.items()}

    @torch.no_grad()
    def scatter(self) -> None:
        """Copy the current weights of the whole network into the parts."""
        own = dict(self._whole.named_parameters())
        for name, part in self.parameters().items():
            part.copy_(part_of(own[name].detach(), part))


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of ``value``, which is whole in every process, if ``like`` is a part of
    that shape; else ``value``."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    # No source rank: every process has the whole value and cuts out its own part.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def check(config: TuneConfig, processes: Processes) -> bool:
    """Whether ``config`` trains in shards.

    Raises:
        UserError: if the batch would give the processes different numbers of passes, or micro_batch
            is "auto": all processes must pass through the network together, so none can try a size
            alone.
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
    """The whole tensor, gathered in every process, if ``tensor`` is a part; else ``tensor``."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
