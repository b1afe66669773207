"""Checks of the public functions' arguments, with the same messages in all of them."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.weak import WeakIdKeyDictionary

_LARGEST = torch.finfo(torch.float32).max


def check_tensor(
    name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> None:
    """Refuse a tensor that differs from the description, or whose gradient would be lost."""
    if tensor.dtype != dtype:
        raise ValueError(f"{name}: got {tensor.dtype}, expected {dtype}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: got shape {list(tensor.shape)}, expected {list(shape)}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name}: got strides {tensor.stride()}, expected a contiguous tensor")
    check_device(name, tensor, device)
    check_no_gradient(name, tensor)


def check_rows(
    name: str,
    tensor: Tensor,
    dtypes: tuple[torch.dtype, ...],
    like: Tensor,
    copies: tuple[int, ...] = (1,),
) -> None:
    """Refuse a tensor that does not have the rows of ``like``, repeated as often as ``copies``
    allows, or that is neither contiguous nor channels-last."""
    if tensor.dtype not in dtypes:
        expected = " or ".join(str(dtype) for dtype in dtypes)
        raise ValueError(f"{name}: got {tensor.dtype}, expected {expected}")
    rows = like.shape[0]
    if tensor.shape[1:] != like.shape[1:] or all(tensor.shape[0] != n * rows for n in copies):
        expected = " or ".join(str([n * rows, *like.shape[1:]]) for n in copies)
        raise ValueError(f"{name}: got shape {list(tensor.shape)}, expected z's {expected}")
    if not _is_dense(tensor):
        raise ValueError(
            f"{name}: got strides {tensor.stride()}, expected a contiguous or channels-last tensor"
        )
    check_device(name, tensor, like.device)
    check_no_gradient(name, tensor)


_FOUND_FINITE = WeakIdKeyDictionary()


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse a tensor with NaN or infinity.

    Each version of a tensor is checked once (a tensor made in inference mode has no versions, and
    is checked only once). Nothing is checked while a CUDA graph is captured: it is impossible then.
    """
    version = -1 if tensor.is_inference() else tensor._version
    if _FOUND_FINITE.get(tensor) == version:
        return
    if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name}: got a value that is not finite, expected finite numbers")
    _FOUND_FINITE[tensor] = version


def check_range(name: str, tensor: Tensor, least: int, most: int) -> None:
    """Refuse int64 values outside ``least`` to ``most``. Only on the CPU: elsewhere the check would
    wait for the device."""
    if tensor.device.type == "cpu" and tensor.numel() > 0:
        # On a list, not with torch operations: a step of the engine is one operation.
        values = tensor.tolist()
        low, high = min(values), max(values)
        if low < least or high > most:
            raise ValueError(
                f"{name}: got {low if low < least else high}, expected {least} to {most}"
            )


def check_number(name: str, value: Any) -> None:
    """Refuse a value that is not a number that float32 can hold. A tensor is refused too, as its
    gradient would be lost."""
    number: Any = value if isinstance(value, Real) else torch.nan
    if not -_LARGEST <= number <= _LARGEST:  # not converted: an integer may be too large for float
        raise ValueError(f"{name}: got {value!r}, expected a finite number, within float32's range")


def check_overlap(written: Mapping[str, Tensor], read: Mapping[str, Tensor]) -> None:
    """Refuse buffers that share memory, except a buffer that is exactly the tensor that it is named
    after (``z_next`` and ``z``)."""
    ranges = {
        name: (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes)
        for name, tensor in {**read, **written}.items()
        if tensor.numel() > 0
    }
    for first, tensor in written.items():
        for second, (begin, end) in ranges.items():
            if first == second or first not in ranges:
                continue
            apart = ranges[first][1] <= begin or end <= ranges[first][0]
            other = read.get(second)
            same = (
                other is not None
                and first == f"{second}_next"
                and ranges[first] == (begin, end)
                and tensor.stride() == other.stride()
            )
            if not apart and not same:
                raise ValueError(
                    f"{first}: shares memory with {second}, expected a buffer of its own"
                )


def check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """Refuse a tensor that is not on ``device``."""
    if tensor.device != device:
        raise ValueError(f"{name}: got a tensor on {tensor.device}, expected {device}")


def check_no_gradient(name: str, tensor: Tensor) -> None:
    """Refuse a tensor whose gradient, backward or forward, would silently be lost."""
    lost = tensor.requires_grad and torch.is_grad_enabled()
    if not lost and forward_ad._current_level >= 0:
        lost = forward_ad.unpack_dual(tensor).tangent is not None
    if lost:
        raise ValueError(
            f"{name}: got a tensor that requires grad, expected one that does not: "
            "this operation has no gradient; detach it or use torch.no_grad()"
        )


def _is_dense(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    if tensor.dim() == 4:
        return tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.dim() == 5 and tensor.is_contiguous(memory_format=torch.channels_last_3d)
