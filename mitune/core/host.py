"""The optional host extension ``mitune._host`` (csrc/host.cpp).

It sets how malloc keeps freed memory, and samples a GPU's sensors in the background.
``mitune doctor`` says what is missing without it.
"""

import functools
import importlib
from typing import Any


@functools.cache
def host() -> Any | None:
    """The extension; None if it was not built."""
    try:
        return importlib.import_module("mitune._host")
    except ImportError:
        return None


def why_not() -> str | None:
    """Why the extension is not available here; None if it is."""
    if host() is not None:
        return None
    return (
        "not built: install mitune from source with pybind11 and a C++ compiler; without it a "
        "benchmark has no GPU curves, and memory is kept by ctypes"
    )
