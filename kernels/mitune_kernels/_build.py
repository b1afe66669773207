"""Loads the compiled CPU extension, and keeps the reason when there is none."""

from importlib.machinery import PathFinder
from pathlib import Path

import torch

_MEND = (
    "build it with 'MITUNE_BUILD_CPP=1 pip install --no-build-isolation -e .' in the repository, "
    "which shows the compiler's error if there is one"
)


def _load() -> str | None:
    # Beside this file and nowhere else: another installation's library may be of another version.
    spec = PathFinder.find_spec("mitune_kernels._cpp", [str(Path(__file__).parent)])
    if spec is None or spec.origin is None:
        return f"the C++ extension is not built; {_MEND}"
    try:
        torch.ops.load_library(spec.origin)
    except (OSError, RuntimeError) as error:
        line = " ".join(str(error).split())
        return f"the C++ extension does not load into torch {torch.__version__} ({line}); {_MEND}"
    return None


CPP_MISSING: str | None = _load()
"""None when the extension is loaded, else why it is not and how to mend it."""
