"""What the processes of ``test_processes`` run: a training of the tiny model into argv[1]; with
"joint" for a gradient, of the one with a text encoder."""

import sys

from joint_model import joint, joint_model
from tiny_model import TinyModel, TinySet, config

from mitune.tuning import tune

out, batch, gradient, stop = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])


def progress(done: int, total: int, loss: float) -> None:
    if done == stop:
        raise KeyboardInterrupt


if gradient == "joint":
    tune(joint_model(), TinySet(), out, joint(batch=batch), progress=progress)
else:
    tune(TinyModel(), TinySet(), out, config(batch=batch, gradient=gradient), progress=progress)
