"""What the processes of ``test_seeds`` run: they import it by name."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from mitune.core.errors import UserError


def tell(seed: int) -> tuple[int, int, int]:
    return seed, os.getpid(), torch.get_num_threads()


def fail_first(folder: Path, seed: int) -> None:
    """Seed 0 fails when the other one works, which writes who does."""
    if seed:
        (folder / str(os.getpid())).touch()
        time.sleep(600)
    while not list(folder.iterdir()):
        time.sleep(0.05)
    raise UserError("seed 0 is wrong: expected another")


def killed(seed: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_in(folder: Path, seed: int) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(600)


if __name__ == "__main__":
    from functools import partial

    from mitune.evaluation.seeds import each_seed

    each_seed(partial(wait_in, Path(sys.argv[1])), 2, 2)
