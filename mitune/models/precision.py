"""The precisions a denoiser is run in, by name."""

import torch

from mitune.core.errors import UserError

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "bf16-mixed": torch.float32,
    "float64": torch.float64,
}
"""Name and dtype of the denoiser. float64 is a reference: its rounding shows nowhere. bf16-mixed is
a float32 model whose pictures are generated with the products of convolutions and linear layers in
bfloat16, and everything between them in float32 (``mitune.runtime.prepared``)."""


def check_precision(name: str) -> None:
    """Raise UserError unless ``name`` is one of PRECISIONS."""
    if name not in PRECISIONS:
        raise UserError(f"precision {name!r} is not known: choose one of {', '.join(PRECISIONS)}")
