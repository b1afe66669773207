"""Fixtures that several folders share."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

# isort: off
import mitune  # noqa: F401  before torch: its settings are to hold here too

# isort: on
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # there is a worker for every core

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell starts what runs in its background; the programs that are tested would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if not torch.cuda.is_available():
    # Before anything imports the operations: Triton's kernels are tested by its interpreter.
    os.environ["TRITON_INTERPRET"] = "1"

# Helper modules lie in the folders of the tests that use them. Not this folder itself: its folders
# have names that are packages elsewhere.
for folder in sorted(path for path in Path(__file__).parent.iterdir() if path.is_dir()):
    sys.path.insert(0, str(folder))

if not torch.cuda.is_available() and shutil.which("g++"):
    import cuda_emulation

    cuda_emulation.load()


@pytest.fixture(scope="session")
def _shapes():
    from mitune.load import load

    return load("shapes-v1", device="cpu")


@pytest.fixture
def shapes_model(_shapes) -> Iterator:
    """The first edition of the embedded model, without an adapter before and after."""
    from mitune.adapters import adapter

    yield _shapes
    adapter.detach(_shapes)


@pytest.fixture(scope="session")
def _exact():
    from joint_model import joint_model

    return joint_model("float64")


@pytest.fixture
def exact_model(_exact) -> Iterator:
    """A tiny Stable Diffusion with random weights whose UNet computes in float64: what must not
    depend on batches, order or interruption is tested with it to the last bits of float32, on any
    processor. Without an adapter before and after."""
    from mitune.adapters import adapter

    yield _exact
    adapter.detach(_exact)


@pytest.fixture
def quick_preset(monkeypatch) -> None:
    """Where what a run does matters and not what comes out: the embedded models' presets with few
    steps, draws and samples."""
    from dataclasses import replace

    from mitune.worlds import known

    for name, world in dict(known.WORLDS).items():
        preset = world.preset
        quick = replace(
            preset,
            draws=2,
            sampler=replace(preset.sampler, steps=3),
            tuning=replace(preset.tuning, batch=4, micro_batch=4),
        )
        monkeypatch.setitem(known.WORLDS, name, replace(world, preset=quick))


@pytest.fixture(autouse=True)
def _same_random_state():
    """No test may depend on what ran before it."""
    torch.manual_seed(0)
