"""What the public functions refuse, said the same way by all of them."""

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


def check_tensor(
    name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> None:
    """Refuse a tensor that is not exactly this, or whose gradient would be lost."""
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
    """Refuse a row tensor unlike ``like``, repeated so often, or neither contiguous nor
    channels-last."""
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
    """Refuse a tensor with NaN or infinity. Looks once at each version of a tensor (once in all at
    one made in inference mode, which has no versions), and never while a CUDA graph is captured,
    where looking is not possible."""
    version = -1 if tensor.is_inference() else tensor._version
    if _FOUND_FINITE.get(tensor) == version:
        return
    if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name}: got a value that is not finite, expected finite numbers")
    _FOUND_FINITE[tensor] = version


def check_range(name: str, tensor: Tensor, least: int, most: int) -> None:
    """Refuse int64 values outside ``least`` to ``most``, on the CPU: elsewhere looking would wait
    for the device."""
    if tensor.device.type == "cpu" and tensor.numel() > 0:
        # On a list, not by torch: a step of the engine is one operation.
        values = tensor.tolist()
        low, high = min(values), max(values)
        if low < least or high > most:
            raise ValueError(
                f"{name}: got {low if low < least else high}, expected {least} to {most}"
            )


def check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """Refuse a tensor elsewhere than ``device``."""
    if tensor.device != device:
        raise ValueError(f"{name}: got a tensor on {tensor.device}, expected {device}")


def check_no_gradient(name: str, tensor: Tensor) -> None:
    """Refuse a tensor whose gradient would silently be lost."""
    if tensor.requires_grad and torch.is_grad_enabled():
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
