"""The CUDA kernels compiled for the CPU, so that their results are tested where there is no GPU.

The sources are those of the extension; the headers in emulation/ stand in for CUDA's. What this
shows is what the kernels compute, not that they run on a GPU.
"""

import hashlib
import os
import subprocess
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

REPOSITORY = Path(__file__).parents[2]
HEADERS = Path(__file__).parent / "emulation"
CSRC = REPOSITORY / "csrc"


def load() -> None:
    """Build the library if its sources changed, and register its operations for CPU tensors."""
    sources = [CSRC / "cuda_kernels.cu", CSRC / "cuda_ops.cpp"]
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted([*CSRC.glob("*.h"), *HEADERS.glob("*.h"), *sources, Path(__file__)]):
        digest.update(path.read_bytes())
    library = REPOSITORY / "build" / f"cuda_emulation-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        library.parent.mkdir(exist_ok=True)
        part = library.with_suffix(f".{os.getpid()}")
        # Contraction is off as in the real build.
        subprocess.run(
            [
                *("g++", "-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared"),
                *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
                *("-DMITUNE_CUDA_ON_CPU", "-DTORCH_TARGET_VERSION=0x020b000000000000"),
                *(f"-I{folder}" for folder in (HEADERS, CSRC)),
                *(f"-isystem{folder}" for folder in include_paths()),
                *("-x", "c++", *map(str, sources), "-o", str(part)),
                *(f"-L{folder}" for folder in library_paths()),
                *("-ltorch_cpu", "-lc10"),
            ],
            check=True,
        )
        part.replace(library)
    from mitune_kernels import dispatch  # the schemas come first

    torch.ops.load_library(str(library))
    dispatch.CUDA_RUNS_ON = "cpu"
