"""The peak of memory over what runs between two calls."""

import ctypes
import gc
import resource
import sys
from pathlib import Path

import torch
from torch import Tensor, nn


def reset_peak(device: torch.device) -> None:
    """Forget earlier peaks."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to what is in use now


def peak(device: torch.device) -> int:
    """Bytes at most since ``reset_peak``: of the GPU's memory on a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform != "linux":  # never reset there: an upper bound
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return _status("VmHWM:")


class TensorPeak:
    """The peak of tensors since it was made: on a GPU its own; on a CPU, of Linux, what tensors
    hold at the beginning and by how much the process grows from there, once its unused memory is
    handed back."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        reset_peak(device)
        if device.type != "cuda" and sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
            # Not those that torch.compile leaves behind, which stand for tensors and hold nothing.
            real = (t for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter))
            held = (tensor.untyped_storage() for tensor in real)
            sizes: dict[int, int] = {each.data_ptr(): each.nbytes() for each in held}
            self._held = sum(sizes.values())
            reset_peak(device)
            self._before = _status("VmRSS:")

    def bytes(self) -> int | None:
        """None where it cannot be told."""
        if self._device.type == "cuda":
            return peak(self._device)
        if sys.platform != "linux":
            return None
        return self._held + peak(self._device) - self._before


def _status(name: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(name)[2].split()[0]) * 1024
