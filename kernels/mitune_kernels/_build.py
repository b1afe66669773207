"""Loads the compiled extensions, and keeps the reason when there is none."""

from importlib.machinery import PathFinder
from pathlib import Path

import torch


def _load(module: str, language: str, setting: str) -> str | None:
    mend = (
        f"build it with '{setting}=1 pip install --no-build-isolation -e .' in the repository, "
        "which shows the compiler's error if there is one"
    )
    # Only next to this file: another installation's library may have another version.
    spec = PathFinder.find_spec(f"mitune_kernels.{module}", [str(Path(__file__).parent)])
    if spec is None or spec.origin is None:
        return f"the {language} extension is not built; {mend}"
    try:
        torch.ops.load_library(spec.origin)
    except (OSError, RuntimeError) as error:
        line = " ".join(str(error).split())
        return (
            f"the {language} extension does not load into torch {torch.__version__} ({line}); "
            f"{mend}"
        )
    return None


CPP_MISSING: str | None = _load("_cpp", "C++", "MITUNE_BUILD_CPP")
"""None when the extension is loaded, else why it is not and how to fix it."""
CUDA_MISSING: str | None = _load("_cuda", "CUDA", "MITUNE_BUILD_CUDA")
"""The same for the CUDA kernels, which load without a GPU too."""
