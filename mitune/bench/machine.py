"""Describe the machine of a measurement, and measure its GPU's energy and clock."""

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
from mitune.runtime.gpu_sensors import address_of, handle_of, load_nvml

_INTERVAL = 0.1
"""Seconds between two samples of a GPU."""


class Look(NamedTuple):
    """One sample from NVML; -1 for values that the board does not report."""

    seconds: float
    """Since the start of the run."""
    watts: float
    sm_mhz: float
    used_bytes: float
    busy: float
    """Share of the last sampling period in which a kernel ran."""


@dataclass
class Meter:
    """The measurements of a ``metered`` block; None without NVML."""

    joules: float | None = None
    """Energy from the board's counter or, if it has none, from the curve."""
    sm_mhz: int | None = None
    """SM clock at the end."""
    curve: list[Look] = field(default_factory=list)
    """Ten samples per second, taken by a thread of the host extension; empty without it."""

    @property
    def watts(self) -> float | None:
        """Mean power over the curve."""
        known = [look.watts for look in self.curve if look.watts >= 0]
        return sum(known) / len(known) if known else None


def machine(device: torch.device) -> dict[str, Any]:
    """The GPU's name, driver and limits from NVML (the package nvidia-ml-py), or the processor's
    model; and torch's version. Timings are comparable only if these are equal."""
    found: dict[str, Any] = {"torch": torch.__version__}
    if device.type != "cuda":
        return found | {"processor": _processor(), "threads": torch.get_num_threads()}
    found["gpu"] = torch.cuda.get_device_name(device)
    nvml = load_nvml()
    if nvml is not None:
        # Query one by one: a virtual machine may hide some values, and the run goes on without.
        with suppress(nvml.NVMLError):
            found["driver"] = _text(nvml.nvmlSystemGetDriverVersion())
        with suppress(nvml.NVMLError):
            handle = handle_of(nvml, device)
            found["power_limit_w"] = nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
            found["max_sm_mhz"] = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)
    return found


def fingerprint(device: torch.device) -> str:
    """A folder name for the stored timings of this machine: readable, and different for different
    machines."""
    facts = machine(device)
    name = str(facts.get("gpu") or facts["processor"])
    digest = hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}-{digest}"


@contextmanager
def metered(device: torch.device) -> Iterator[Meter]:
    """Measure the GPU's energy and clock during the block, if NVML reports them."""
    meter, handle = Meter(), None
    nvml = load_nvml() if device.type == "cuda" else None
    if nvml is not None:
        with suppress(nvml.NVMLError):  # a virtual machine may not know the GPU's bus address
            handle = handle_of(nvml, device)
    if nvml is None or handle is None:
        yield meter
        return
    sampler = _sampler(address_of(device))
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
    """Energy in joules under a curve of watts, by the trapezoidal rule; None for fewer than two
    samples or if one has no watts."""
    if len(curve) < 2 or any(look.watts < 0 for look in curve):
        return None
    return sum(
        (now.watts + then.watts) / 2 * (then.seconds - now.seconds) for now, then in pairwise(curve)
    )


def _sampler(address: str) -> Any | None:
    """The host extension's sampler; None without the extension, or if it finds no GPU at
    ``address``."""
    extension = host()
    try:
        return extension and extension.Sampler(address, _INTERVAL)
    except RuntimeError:  # the run goes on without the curve
        return None


def _energy(nvml: Any, handle: Any) -> int | None:
    try:
        return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))  # mJ since the driver's start
    except nvml.NVMLError:
        return None  # boards before Volta do not count it


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _processor() -> str:
    """The processor's name from Linux, else from ``platform``. Includes family and model, because
    clouds give the same name to processors of two generations."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.+)$", text, re.MULTILINE))
    name = found.pop("model name", platform.machine())
    return " ".join([name, *(f"{key} {value}" for key, value in sorted(found.items()))])


if __name__ == "__main__":
    print(fingerprint(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
