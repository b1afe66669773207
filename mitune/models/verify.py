"""Checks that every family makes of a pipeline before anything is computed with it."""

import math

import torch

from mitune.core.errors import UserError


def check_weights(part: str, module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Raise UserError, naming the part, unless its weights are in memory, finite, and of a size
    that ``dtype`` holds."""
    largest = torch.finfo(dtype).max
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        if tensor.is_meta:
            raise UserError(
                f"the {part}'s weight {name} is not in memory: expected a pipeline without "
                "offloading; load it plainly"
            )
        low, high = (float(value) for value in tensor.aminmax())  # NaN if any is
        if not -math.inf < low <= high < math.inf:
            raise UserError(
                f"the {part}'s weight {name} is not finite (NaN or infinity): expected numbers; "
                "fetch the model again, or take the last checkpoint before its training diverged"
            )
        if max(-low, high) > largest:
            kind = str(dtype).removeprefix("torch.")
            raise UserError(
                f"the {part}'s weight {name} reaches {max(-low, high):g}, which {kind} cannot "
                "hold: expected a model that fits it; use --precision float32 or bfloat16"
            )
