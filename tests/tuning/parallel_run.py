"""What the processes of ``test_processes`` run: a training of the tiny model into argv[1]."""

import sys

from tiny_model import TinyModel, TinySet, config

from mitune.tuning import tune

out, batch, gradient, stop = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])


def progress(done: int, total: int, loss: float) -> None:
    if done == stop:
        raise KeyboardInterrupt


tune(TinyModel(), TinySet(), out, config(batch=batch, gradient=gradient), progress=progress)
