"""What a GPU's sensors say, through NVML (the package nvidia-ml-py)."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch


def read_sensors(device: torch.device) -> dict[str, float | str]:
    """Power in watts, SM clock in MHz, temperature in degrees Celsius, share of the last moment in
    which a kernel ran, bytes of memory in use, and what holds the clock down ("none", or a bit mask
    as NVML has it). Values that a board does not tell are left out; on a CPU all are."""
    nvml = load_nvml() if device.type == "cuda" else None
    if nvml is None:
        return {}
    found: dict[str, float | str] = {}
    with suppress(nvml.NVMLError):
        handle = handle_of(nvml, device)
        looks: dict[str, Callable[[], float | str]] = {
            "watts": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "celsius": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "gpu_busy": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
            "gpu_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used,
            "throttled": lambda: _reasons(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
        }
        for name, look in looks.items():  # one by one: a virtual machine may hide some
            with suppress(nvml.NVMLError, AttributeError):
                found[name] = look()
    return found


def _reasons(mask: int) -> str:
    return "none" if mask in (0, 1) else hex(mask)  # 1: the GPU is idle


def load_nvml() -> Any | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def handle_of(nvml: Any, device: torch.device) -> Any:
    return nvml.nvmlDeviceGetHandleByPciBusId(address_of(device).encode())


def address_of(device: torch.device) -> str:
    """The address on the PCI bus: CUDA_VISIBLE_DEVICES renumbers torch's devices, but not those of
    NVML."""
    found: Any = torch.cuda.get_device_properties(device)
    return f"{found.pci_domain_id:08X}:{found.pci_bus_id:02X}:{found.pci_device_id:02X}.0"
