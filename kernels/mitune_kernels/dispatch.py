"""Which implementation runs where, and why others do not."""

import importlib.util

import torch

from mitune_kernels import checked
from mitune_kernels._build import CPP_MISSING, CUDA_MISSING
from mitune_kernels.ops import IMPLEMENTATIONS, INTERPRETED

CUDA_RUNS_ON = "cuda"
"""Device type of the ``cuda`` kernels; a test that loads them compiled for CPUs sets it."""


def implementations() -> dict[str, str | None]:
    """Each implementation's name: None if it is usable here, else the reason and the fix."""
    return {name: _missing(name) for name in IMPLEMENTATIONS}


def _missing(impl: str) -> str | None:
    if impl == "cpp":
        return CPP_MISSING
    if impl == "triton":
        return _triton_missing()
    return _cuda_missing() if impl == "cuda" else None


def _cuda_missing() -> str | None:
    if CUDA_RUNS_ON == "cpu":
        return None
    if CUDA_MISSING is not None:
        return CUDA_MISSING
    return None if torch.cuda.is_available() else "torch sees no CUDA GPU"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # it is blocked: sys.modules holds None for it
        return False


_TRITON_INSTALLED = _is_installed("triton")
"""Checked once, on import: compiled code may ask, and torch 2.11 does not trace find_spec."""


def _triton_missing() -> str | None:
    if not _TRITON_INSTALLED:
        return (
            "triton is not installed; pip install triton (Linux; the CUDA builds of torch bring it)"
        )
    if not (INTERPRETED or torch.cuda.is_available()):
        return (
            "torch sees no CUDA GPU; set TRITON_INTERPRET=1 to run the kernels on the CPU, slowly, "
            "by Triton's interpreter"
        )
    return None


def choose(impl: str, device: torch.device) -> str:
    """The implementation that runs for ``impl`` on ``device``.

    Args:
        impl: ``auto`` or a name of :func:`implementations`. A named one never falls back.
        device: where the tensors are.

    Returns:
        The name of an implementation.

    Raises:
        ValueError: ``impl`` is not a name, or that implementation does not run on this kind of
            device.
        RuntimeError: it is not usable here; the message says why and how to fix it.
    """
    if impl == "auto" and device.type == "cuda":
        # GPU kernels are used only if a run on this very GPU has found them right.
        known = checked.fastest(device)
        return known if known in IMPLEMENTATIONS and _missing(known) is None else "reference"
    if impl == "auto":
        return "cpp" if device.type == "cpu" and CPP_MISSING is None else "reference"
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl: got {impl!r}, expected one of auto, {', '.join(IMPLEMENTATIONS)}")
    missing = _missing(impl)
    if missing is not None:
        raise RuntimeError(f"impl {impl!r} is not available: {missing}")
    runs_on = {
        "reference": device.type,
        "cpp": "cpu",
        "triton": "cpu" if INTERPRETED else "cuda",
        "cuda": CUDA_RUNS_ON,
    }[impl]
    if device.type != runs_on:
        raise ValueError(f"impl {impl!r} runs on {runs_on} tensors here, got some on {device}")
    return impl
