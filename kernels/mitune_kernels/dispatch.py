"""Which implementation runs where, and why another does not."""

import torch

from mitune_kernels._build import CPP_MISSING
from mitune_kernels.ops import IMPLEMENTATIONS


def implementations() -> dict[str, str | None]:
    """Each implementation's name: None when usable here, else the reason and the mend."""
    return {"reference": None, "cpp": CPP_MISSING}


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
        return "cpp" if device.type == "cpu" and CPP_MISSING is None else "reference"
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl: got {impl!r}, expected one of auto, {', '.join(IMPLEMENTATIONS)}")
    if impl == "cpp":
        if device.type != "cpu":
            raise ValueError(f"impl 'cpp' runs on CPU tensors, got tensors on {device}")
        if CPP_MISSING is not None:
            raise RuntimeError(f"impl 'cpp' is not available: {CPP_MISSING}")
    return impl
