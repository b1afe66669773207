"""Which machine a measurement was made on, and what its GPU used for it."""

import hashlib
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mitune.core.host import host

_INTERVAL = 0.1
"""Seconds between two looks at a GPU."""


class Look(NamedTuple):
    """What NVML tells at one moment; -1 for what the board does not."""

    seconds: float
    """Since the run began."""
    watts: float
    sm_mhz: float
    used_bytes: float
    busy: float
    """Share of the last moments in which a kernel ran."""


@dataclass
class Meter:
    """Of what ran inside ``metered``; None where there is no NVML."""

    joules: float | None = None
    """By the board's counter; where it has none, by the curve."""
    sm_mhz: int | None = None
    """Clock at the end."""
    curve: list[Look] = field(default_factory=list)
    """Ten looks a second, taken by the host extension beside the run; none without it."""

    @property
    def watts(self) -> float | None:
        """Mean over the curve."""
        known = [look.watts for look in self.curve if look.watts >= 0]
        return sum(known) / len(known) if known else None


def machine(device: torch.device) -> dict[str, Any]:
    """The GPU's name, driver and limits from NVML (the package nvidia-ml-py), or the processor's
    model; and torch's version. Timings compare only where these are equal."""
    found: dict[str, Any] = {"torch": torch.__version__}
    if device.type != "cuda":
        return found | {"processor": _processor(), "threads": torch.get_num_threads()}
    found["gpu"] = torch.cuda.get_device_name(device)
    nvml = _nvml()
    if nvml is not None:
        # One by one: a virtual machine shows some of a board, and a figure less ends no run.
        with suppress(nvml.NVMLError):
            found["driver"] = _text(nvml.nvmlSystemGetDriverVersion())
        with suppress(nvml.NVMLError):
            handle = _handle(nvml, device)
            found["power_limit_w"] = nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
            found["max_sm_mhz"] = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)
    return found


def fingerprint(device: torch.device) -> str:
    """A folder's name for the machine's stored timings: readable, and distinct for distinct
    machines."""
    facts = machine(device)
    name = str(facts.get("gpu") or facts["processor"])
    digest = hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}-{digest}"


@contextmanager
def metered(device: torch.device) -> Iterator[Meter]:
    """Measures the energy that the GPU takes meanwhile, and its clock, where NVML tells them."""
    meter, handle = Meter(), None
    nvml = _nvml() if device.type == "cuda" else None
    if nvml is not None:
        with suppress(nvml.NVMLError):  # a virtual machine may not show it by its address
            handle = _handle(nvml, device)
    if nvml is None or handle is None:
        yield meter
        return
    sampler = _sampler(_address(device))
    before = _energy(nvml, handle)
    try:
        yield meter
    finally:
        if sampler is not None:
            meter.curve = [Look(*row) for row in sampler.stop()]
    after = _energy(nvml, handle)
    if before is not None and after is not None:
        meter.joules = (after - before) / 1000
    else:
        meter.joules = energy_of(meter.curve)
    with suppress(nvml.NVMLError):
        meter.sm_mhz = nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)


def energy_of(curve: Sequence[Look]) -> float | None:
    """Joules under a curve of watts, by the trapezoidal rule; None for fewer than two looks."""
    if len(curve) < 2 or any(look.watts < 0 for look in curve):
        return None
    return sum(
        (now.watts + then.watts) / 2 * (then.seconds - now.seconds) for now, then in pairwise(curve)
    )


def _sampler(address: str) -> Any | None:
    """The host extension's; None without it, or where it finds no GPU there."""
    extension = host()
    try:
        return extension and extension.Sampler(address, _INTERVAL)
    except RuntimeError:  # a figure less ends no run
        return None


def _nvml() -> Any | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _handle(nvml: Any, device: torch.device) -> Any:
    return nvml.nvmlDeviceGetHandleByPciBusId(_address(device).encode())


def _address(device: torch.device) -> str:
    """On the bus: CUDA_VISIBLE_DEVICES renumbers torch's devices and not NVML's."""
    found: Any = torch.cuda.get_device_properties(device)
    return f"{found.pci_domain_id:08X}:{found.pci_bus_id:02X}:{found.pci_device_id:02X}.0"


def _energy(nvml: Any, handle: Any) -> int | None:
    try:
        return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))  # millijoules since the driver
    except nvml.NVMLError:
        return None  # boards before Volta do not count it


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _processor() -> str:
    """The processor as Linux names it, else the platform's word for it. With family and model: a
    cloud's processors of two generations bear one name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.+)$", text, re.MULTILINE))
    name = found.pop("model name", platform.machine())
    return " ".join([name, *(f"{key} {value}" for key, value in sorted(found.items()))])


if __name__ == "__main__":
    print(fingerprint(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
