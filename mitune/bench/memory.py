"""Measure the peak memory between two calls."""

import gc
import resource
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from mitune.runtime.malloc import give_back_freed_memory


def reset_peak(device: torch.device) -> None:
    """Forget earlier peaks."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the current usage


def peak(device: torch.device) -> int:
    """Peak in bytes since ``reset_peak``: of GPU memory on a GPU, else of the process's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform != "linux":  # cannot be reset there: an upper bound
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return _status("VmHWM:")


class TensorPeak:
    """The peak memory of tensors since this object was created. On a GPU, it is the allocator's
    peak. On a CPU (Linux only), it is the size of all tensors at the start, plus the growth of the
    process from there, after unused memory was returned to the system."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        reset_peak(device)
        if device.type != "cuda" and sys.platform == "linux":
            give_back_freed_memory()
            # Exclude the fake tensors that torch.compile leaves behind: they hold no memory.
            real = (t for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter))
            held = (tensor.untyped_storage() for tensor in real)
            sizes: dict[int, int] = {each.data_ptr(): each.nbytes() for each in held}
            self._held = sum(sizes.values())
            reset_peak(device)
            self._before = _status("VmRSS:")

    def bytes(self) -> int | None:
        """The peak in bytes; None if it cannot be measured on this platform."""
        if self._device.type == "cuda":
            return peak(self._device)
        if sys.platform != "linux":
            return None
        return self._held + peak(self._device) - self._before


def _status(name: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(name)[2].split()[0]) * 1024
