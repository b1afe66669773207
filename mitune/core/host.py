"""The host extension ``mitune._host`` (csrc/host.cpp): memory that is freed, and a GPU's sensors in
the background. It is optional; what lacks it says so in ``mitune doctor``."""

import functools
import importlib
from typing import Any


@functools.cache
def host() -> Any | None:
    """The extension; None where it was not built."""
    try:
        return importlib.import_module("mitune._host")
    except ImportError:
        return None


def why_not() -> str | None:
    """Why it does not run here; None where it does."""
    if host() is not None:
        return None
    return (
        "not built: install mitune from source with pybind11 and a C++ compiler; without it a "
        "benchmark has no GPU curves, and memory is kept by ctypes"
    )
