"""Fixtures that several folders share."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Before anything imports the operations: Triton's kernels are tested by its interpreter.
    os.environ["TRITON_INTERPRET"] = "1"

# Helper modules lie beside the tests that use them.
for folder in ("", "sets", "tuning", "kernels", "generate", "families", "export"):
    sys.path.insert(0, str(Path(__file__).parent / folder))

if not torch.cuda.is_available() and shutil.which("g++"):
    import cuda_emulation

    cuda_emulation.load()


@pytest.fixture(scope="session")
def _shapes():
    from mitune.load import load

    return load("shapes", device="cpu")


@pytest.fixture
def shapes_model(_shapes) -> Iterator:
    """The embedded model, without an adapter before and after."""
    from mitune.tuning import adapter

    yield _shapes
    adapter.detach(_shapes)


@pytest.fixture(autouse=True)
def _same_random_state():
    """No test may depend on what ran before it."""
    torch.manual_seed(0)
