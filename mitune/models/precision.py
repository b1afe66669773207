"""The precisions in which a denoiser runs, by name."""

import torch

from mitune.core.errors import UserError

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "bf16-mixed": torch.float32,
    "float64": torch.float64,
}
"""Name and dtype of the denoiser. float64 is a reference whose rounding errors are negligible.
bf16-mixed is a float32 model; when it generates pictures, the products of convolutions and linear
layers are bfloat16 and everything between them is float32 (``mitune.runtime.prepared``)."""


def check_precision(name: str) -> None:
    """Raise UserError unless ``name`` is one of PRECISIONS."""
    if name not in PRECISIONS:
        raise UserError(f"precision {name!r} is not known: choose one of {', '.join(PRECISIONS)}")
