"""torch.compile as this package uses it, and where what it makes is kept."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Run = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latents, timesteps, text) to the prediction, rows for rows; with twice the rows of text to twice
the predictions (``mitune.families.pairs``)."""


def compile_unet(run: Run, device: torch.device) -> Run:
    """``run`` by torch.compile: one graph, static shapes, code kept between runs."""
    # Where the user has not said where: torch's own default is a temporary folder.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    # On a CPU the calls between kernels in C++ too: in Python they hold the lock that the workers
    # share.
    options: dict[str, Any] | None = {"cpp_wrapper": True} if device.type == "cpu" else None
    return torch.compile(run, fullgraph=True, dynamic=False, options=options, **_alone())


def _alone() -> dict[str, Any]:
    """Of ``torch.compile``, from torch 2.13 on: each UNet counts its own compilations, of which the
    ninth is an error."""
    known = "isolate_recompiles" in inspect.signature(torch.compile).parameters
    return {"isolate_recompiles": True} if known else {}


def cache_folder() -> Path:
    """``mitune`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mitune"
