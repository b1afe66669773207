"""What the processes of ``test_processes`` run: a training of the tiny model into argv[1]; with
"joint" for a gradient, of the one with a text encoder; with "full", of all its weights."""

import sys

import torch
from joint_model import joint, joint_model
from tiny_model import TinyModel, TinySet, config, full_config

from mitune.training.loop import tune
from mitune.training.shards import Shards

out, batch, gradient, stop = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])


def progress(done: int, total: int, loss: float) -> None:
    if done == stop:
        raise KeyboardInterrupt


if gradient == "full":
    gather = Shards.gather

    def watched(self: Shards, optimizer: torch.optim.Optimizer) -> None:
        """That this process holds about half of weights, gradients and moments, and no more."""
        parts = list(self.parameters().values())
        moments = [m for p in parts for m in optimizer.state[p].values() if m.dim() > 0]
        whole = sum(p.numel() for p in parts)
        for kind, times in ((parts, 1), ([p.grad for p in parts], 1), (moments, 2)):
            local = sum(tensor.to_local().numel() for tensor in kind)
            assert local < 0.6 * times * whole, (local, whole)
        gather(self, optimizer)

    Shards.gather = watched
    tune(TinyModel(), TinySet(), out, full_config(batch=batch), progress=progress)
elif gradient == "joint":
    tune(joint_model(), TinySet(), out, joint(batch=batch), progress=progress)
else:
    tune(TinyModel(), TinySet(), out, config(batch=batch, gradient=gradient), progress=progress)
