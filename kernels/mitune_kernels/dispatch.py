"""Which implementation runs where, and why another does not."""

import importlib.util

import torch

from mitune_kernels._build import CPP_MISSING
from mitune_kernels.ops import IMPLEMENTATIONS, INTERPRETED


def implementations() -> dict[str, str | None]:
    """Each implementation's name: None when usable here, else the reason and the mend."""
    return {"reference": None, "cpp": CPP_MISSING, "triton": _triton_missing()}


def _triton_missing() -> str | None:
    try:
        found = importlib.util.find_spec("triton")
    except ValueError:  # it is blocked: sys.modules holds None for it
        found = None
    if found is None:
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
        ValueError: ``impl`` is no name, or that implementation does not run on this kind of device.
        RuntimeError: it is not usable here; the message says why and what mends it.
    """
    if impl == "auto":
        # Not triton, not even on a GPU, before its kernels were run on one.
        return "cpp" if device.type == "cpu" and CPP_MISSING is None else "reference"
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl: got {impl!r}, expected one of auto, {', '.join(IMPLEMENTATIONS)}")
    if impl == "cpp":
        if device.type != "cpu":
            raise ValueError(f"impl 'cpp' runs on CPU tensors, got tensors on {device}")
        if CPP_MISSING is not None:
            raise RuntimeError(f"impl 'cpp' is not available: {CPP_MISSING}")
    if impl == "triton":
        missing = _triton_missing()
        if missing is not None:
            raise RuntimeError(f"impl 'triton' is not available: {missing}")
        expected = "cpu" if INTERPRETED else "cuda"
        if device.type != expected:
            raise ValueError(f"impl 'triton' runs on {expected} tensors here, got some on {device}")
    return impl
