"""Which kernels a run on this very GPU has found right, and how fast: ``auto`` chooses from these.

Kernels that were never run on a GPU may be wrong on it. ``mitune bench step`` compares each of them
with the reference on the device, times those that agree, and records the result here. A record
counts for one GPU, driver, torch and build of the kernels only.
"""

import ctypes
import hashlib
import json
import os
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGE = Path(__file__).parent


def record_file() -> Path:
    """The file of the records, in the user's cache folder."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "mitune" / "kernels.json"


def machine(device: torch.device) -> dict[str, str]:
    """What a record belongs to: all that the kernels' results on a GPU may depend on."""
    try:
        triton = metadata.version("triton")
    except metadata.PackageNotFoundError:
        triton = "none"
    return {
        "gpu": torch.cuda.get_device_name(device),
        "driver": _driver(),
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "triton": triton,
        "kernels": _digest(),
    }


def _driver() -> str:
    """The CUDA version of the driver, 13000 for 13.0, which torch has no public name for."""
    version = ctypes.c_int()
    try:
        found = ctypes.CDLL("libcuda.so.1" if os.name == "posix" else "nvcuda.dll")
        status = found.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return "unknown"
    return str(version.value) if status == 0 else "unknown"


@cache
def _digest() -> str:
    """Digest of the sources of Triton's kernels and of the compiled CUDA kernels."""
    digest = hashlib.sha256()
    for path in sorted([*_PACKAGE.glob("triton_*.py"), *_PACKAGE.glob("_cuda*.so")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def record(device: torch.device, seconds: dict[str, float], refused: dict[str, str]) -> Path:
    """Record what a run on a GPU has found; replaces an earlier record of the same machine.

    Args:
        device: where it ran.
        seconds: of each implementation that agreed with the reference, and of the reference itself.
        refused: the first fault of each implementation that did not agree.

    Returns:
        The file.
    """
    entry = {"machine": machine(device), "seconds": seconds, "refused": refused}
    others = [old for old in _entries() if old.get("machine") != entry["machine"]]
    path = record_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps([*others, entry], indent=1) + "\n")
    part.replace(path)
    found.cache_clear()
    return path


def _entries() -> list[dict[str, Any]]:
    """The records of all machines; empty if the file cannot be read."""
    try:
        entries = json.loads(record_file().read_text())
    except (OSError, ValueError):
        return []
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict)]


@cache
def found(device: torch.device) -> dict[str, Any] | None:
    """The record of this GPU, ``seconds`` and ``refused`` as in :func:`record`; None if there is
    none. Read once in a process."""
    here = machine(device)
    return next((entry for entry in _entries() if entry.get("machine") == here), None)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def fastest(device: torch.device) -> str:
    """The fastest implementation that is known to be right on a GPU; ``reference`` without a
    record."""
    entry = found(device)
    seconds: dict[str, float] = entry["seconds"] if entry else {}
    return min(seconds, key=lambda name: seconds[name], default="reference")
