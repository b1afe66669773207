"""How a run ended: killed, or with files that are compared."""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from mitune.adapters.adapter_file import FILE


class Killed(Exception):
    """Stands for SIGKILL: nothing of the run's own gets to act on it."""


def distance(one: Path, other: Path, file: str = FILE) -> float:
    """The largest difference of the weights of two runs, which have the same names."""
    a, b = load_file(one / file), load_file(other / file)
    assert a.keys() == b.keys()
    return max((a[key] - b[key]).abs().max().item() for key in a)


def furthest(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors, in float64."""
    return (one.double() - other.double()).abs().max().item()
