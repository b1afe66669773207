"""Kill a build three times, resume it, and compare with an uninterrupted one. Exits with 0 if all
bytes are equal.

A script of its own, because it forks: a build then costs no import, and no library may have started
threads before.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from joint_model import joint_model
from test_build import PROMPTS, SETTINGS, parts

import mitune


def begin(out: Path) -> int:
    """Build in a child; its process number."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            mitune.build_set(joint_model(), PROMPTS, out, **SETTINGS)
            status = 0
        finally:
            os._exit(status)
    return child


def end(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    whole, killed = folder / "whole", folder / "killed"
    if end(begin(whole)) != 0:
        sys.exit("the uninterrupted build failed")
    deaths, draw = 0, random.Random(0)
    while deaths < 3:
        child = begin(killed)
        # Strike while the build goes on: after its next part, or a little earlier.
        before, wait = len(list(killed.glob("parts/*"))), draw.uniform(0, 0.5)
        while len(list(killed.glob("parts/*"))) == before and wait > 0:
            time.sleep(0.01)
            wait -= 0.01 * (killed / "run.json").exists()
        os.kill(child, signal.SIGKILL)
        if end(child) == 0:
            break  # it was done before it was struck
        deaths += 1
    if not deaths:
        sys.exit("the build was never interrupted")
    if end(begin(killed)) != 0:
        sys.exit("the resumed build failed")
    if parts(killed) != parts(whole):
        sys.exit("the resumed set differs")
    print(deaths)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
