"""The machine's name, and a meter without a GPU; and both with an NVML that is not the real one."""

import re
import sys
import types

import torch

from mitune.bench import machine

CPU = torch.device("cpu")


def test_a_fingerprint_is_stable_and_a_folders_name():
    name = machine.fingerprint(CPU)
    assert name == machine.fingerprint(CPU)
    assert re.fullmatch(r"[A-Za-z0-9-]+-[0-9a-f]{8}", name)


def test_another_torch_is_another_machine(monkeypatch):
    name = machine.fingerprint(CPU)
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert machine.fingerprint(CPU) != name


def test_another_generation_of_one_name_is_another_machine(monkeypatch):
    names = set()
    for family in (25, 26):
        text = f"processor\t: 0\ncpu family\t: {family}\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n"
        monkeypatch.setattr(machine.Path, "read_text", lambda path, text=text: text)
        names.add(machine.fingerprint(CPU))
    assert len(names) == 2
    assert all(name.startswith("AMD-EPYC-cpu-family-2") for name in names)


def test_a_processor_has_no_meter():
    with machine.metered(CPU) as meter:
        pass
    assert (meter.joules, meter.sm_mhz) == (None, None)


def test_energy_and_clock_come_from_nvml(monkeypatch):
    nvml = types.ModuleType("pynvml")
    counter = iter([5_000, 12_500])
    nvml.NVMLError = RuntimeError
    nvml.NVML_CLOCK_SM = 1
    nvml.nvmlInit = lambda: None
    nvml.nvmlDeviceGetHandleByPciBusId = lambda address: address
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda handle: next(counter)
    nvml.nvmlDeviceGetClockInfo = lambda handle, which: 1755
    nvml.nvmlSystemGetDriverVersion = lambda: b"580.1"
    nvml.nvmlDeviceGetEnforcedPowerLimit = lambda handle: 700_000
    nvml.nvmlDeviceGetMaxClockInfo = lambda handle, which: 1980
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = types.SimpleNamespace(pci_domain_id=0, pci_bus_id=0x4B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    gpu = torch.device("cuda", 0)
    with machine.metered(gpu) as meter:
        pass
    assert (meter.joules, meter.sm_mhz) == (7.5, 1755)
    facts = machine.machine(gpu)
    assert facts["driver"] == "580.1"
    assert facts["power_limit_w"] == 700
    assert machine.fingerprint(gpu).startswith("NVIDIA-H100-80GB-HBM3-")


def test_an_nvml_that_fails_costs_a_figure_and_no_run(monkeypatch):
    """As in a virtual machine, which does not show its GPU by the bus address."""

    def fail(*_):
        raise RuntimeError("not found")

    nvml = types.ModuleType("pynvml")
    nvml.NVMLError = RuntimeError
    nvml.NVML_CLOCK_SM = 1
    nvml.nvmlInit = lambda: None
    nvml.nvmlSystemGetDriverVersion = lambda: "580.1"
    nvml.nvmlDeviceGetHandleByPciBusId = fail
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = types.SimpleNamespace(pci_domain_id=0, pci_bus_id=0x4B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    gpu = torch.device("cuda", 0)
    with machine.metered(gpu) as meter:
        pass
    assert (meter.joules, meter.sm_mhz) == (None, None)
    assert machine.machine(gpu)["driver"] == "580.1"
    nvml.nvmlDeviceGetHandleByPciBusId = lambda address: address
    nvml.nvmlDeviceGetTotalEnergyConsumption = fail
    nvml.nvmlDeviceGetClockInfo = fail
    with machine.metered(gpu) as meter:
        pass
    assert (meter.joules, meter.sm_mhz) == (None, None)
